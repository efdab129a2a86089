"""The names of the flow transformer's weights: diffusers' modules against Flux's single file, which the host reads.

Flux keeps query, key and value in one matrix (a single block the first layer of its MLP too), and orders the last
modulation shift before scale, where diffusers has scale first.
"""

import torch
from torch import Tensor

from .configs import TRANSFORMER, TransformerConfig

PREFIX = "model.diffusion_model."
_ENDS = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
_DOUBLE_NORMS = {
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
_DOUBLE_JOINED = {
    ("attn.to_q", "attn.to_k", "attn.to_v"): "img_attn.qkv",
    ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"): "txt_attn.qkv",
}
_SINGLE = {"norm.linear": "modulation.lin", "proj_out": "linear2"}
_SINGLE_NORMS = {"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"}
_SINGLE_JOINED = {("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"): "linear1"}
_SWAPPED = "final_layer.adaLN_modulation.1."


def keys(config: TransformerConfig = TRANSFORMER) -> dict[str, tuple[str, ...]]:
    """Flux's name of each weight -> diffusers' names of the parts that it joins along the first axis."""
    table: dict[str, tuple[str, ...]] = {}

    def add(ours: str, theirs: tuple[str, ...]) -> None:
        for end in ("weight", "bias"):
            table[f"{ours}.{end}"] = tuple(f"{part}.{end}" for part in theirs)

    def block(ours: str, theirs: str, plain: dict, norms: dict, joined: dict) -> None:
        for part, name in plain.items():
            add(ours + name, (theirs + part,))
        for parts, name in joined.items():
            add(ours + name, tuple(theirs + part for part in parts))
        for part, name in norms.items():
            table[f"{ours}{name}.scale"] = (f"{theirs}{part}.weight",)

    for theirs, ours in _ENDS.items():
        add(ours, (theirs,))
    for i in range(config.double_blocks):
        block(f"double_blocks.{i}.", f"transformer_blocks.{i}.", _DOUBLE, _DOUBLE_NORMS, _DOUBLE_JOINED)
    for i in range(config.single_blocks):
        block(f"single_blocks.{i}.", f"single_transformer_blocks.{i}.", _SINGLE, _SINGLE_NORMS, _SINGLE_JOINED)
    return table


def to_flux(state: dict[str, Tensor], config: TransformerConfig = TRANSFORMER) -> dict[str, Tensor]:
    """diffusers' weights under Flux's names, without a prefix.

    Raises ValueError for a weight that the layout has no place for, or one that is missing.
    """
    table = keys(config)
    odd = {part for parts in table.values() for part in parts} ^ set(state)
    if odd:
        raise ValueError(f"The weight '{min(odd)}' does not fit the layout; the network has other sizes.")
    found = {ours: torch.cat([state[part] for part in parts]) for ours, parts in table.items()}
    return {ours: _halves_swapped(value) if ours.startswith(_SWAPPED) else value for ours, value in found.items()}


def from_flux(state: dict[str, Tensor], config: TransformerConfig = TRANSFORMER) -> dict[str, Tensor]:
    """The inverse of `to_flux`."""
    found = {}
    for ours, parts in keys(config).items():
        value = _halves_swapped(state[ours]) if ours.startswith(_SWAPPED) else state[ours]
        rows = [config.width] * len(parts)
        rows[-1] = len(value) - sum(rows[:-1])
        found |= dict(zip(parts, value.split(rows)))
    return found


def _halves_swapped(value: Tensor) -> Tensor:
    return torch.cat(value.chunk(2)[::-1])
