"""Attention Blend as a patch of the host's MODEL: frames read the key pictures' rows of the same forward pass.

Nothing is stored between steps or passes. Where a key picture is no frame of the morph (a part of one, or alphas that
step over it), its row is sampled along and dropped at the end; where memory is short, a call is cut into chunks that
each carry the key rows they read, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from comfy.patcher_extension import WrappersMP
from torch import Tensor
from torch.nn import Module

from ...inversion.trajectory import Trajectory
from ...morphing.attention_blend import BLENDS, Blend, active_until, mix_outputs, mix_rows, mix_tokens
from ...morphing.schedule import Alphas
from ..attention.blocks import attention_blocks
from ..attention.patching import Attend, AttentionPatch, with_attention
from ..attention.sequence import Attention, ModelCall
from ..attention.transformer import attention_of_call, transformer_blocks
from ..batch_rows import PLAN, Rows, alphas_of, count_pictures, key_row, rows_of
from ..family import diffusion_model, is_unet
from ..network_calls import run_uncompiled
from .extra_keys import ExtraKeys
from .row_chunks import RESERVED, Limits, RowChunks

KEY = "palimpsest_attention_blend"
NODE = "Attention Blend"
# The paper's layers: the self-attention of the decoder.
BLOCK = "output"


@dataclass(frozen=True, eq=False)
class Reads:
    """What the rows of one model call read. weights: (rows, keys) on the CPU; key_rows: where those keys are."""

    weights: Tensor
    key_rows: tuple[int, ...]
    groups: int


def blended(
    model,
    alphas: Alphas,
    *,
    strength: float = 1.0,
    until: float = 0.6,
    blend: Blend = "input",
    keys: Trajectory | None = None,
    rows_at_once: int = 0,
):
    """A clone of the MODEL whose self-attention is blended as `morphing/attention_blend.py` says.

    keys: the inverted key pictures, one row each; needed where `alphas` steps over a key picture that it reads.
    rows_at_once: frames of a model call; 0 takes as many as memory allows. A strength or an `until` of 0 gives the
    plain clone. Raises ValueError for models whose attention is not known, and for key pictures out of reach.
    """
    if blend not in BLENDS:
        raise ValueError(f"The blend '{blend}' is unknown: choose one of {', '.join(BLENDS)}.")
    kind = _Blend if is_unet(model) else _TransformerBlend
    chosen = kind.blocks_of(model)
    clone = model.clone()
    if strength <= 0 or until <= 0:
        return clone
    extra_keys = ExtraKeys(alphas, keys)
    patch = kind(alphas, extra_keys.missing, strength, until, blend, chosen, RowChunks(rows_at_once))
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, patch.outer_sample)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, extra_keys.outer_sample)
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, patch.apply_model)
    return clone


class _Blend:
    """The patch round each model call, and in the self-attention within it. Keeps nothing between calls."""

    def __init__(
        self,
        alphas: Alphas,
        missing: tuple[int, ...],
        strength: float,
        until: float,
        blend: Blend,
        blocks: list,
        chunks: RowChunks,
    ):
        self.alphas, self.missing, self.strength, self.until, self.chunks = alphas, missing, strength, until, chunks
        self.blend, self.blocks = blend, blocks
        # Two Attention Blends in a row must not read each other's limits.
        self.limits = f"{KEY}_{id(self):x}_limits"

    @staticmethod
    def blocks_of(model) -> list:
        """Those whose self-attention is blended."""
        return [block for block in attention_blocks(diffusion_model(model)) if block[0] == BLOCK]

    def _evaluate(
        self, network: Module, call: ModelCall, reads: Reads, options: dict, evaluate: Callable[[dict], Tensor]
    ) -> Tensor:
        """One model call with its attention blended. network, call: what runs, and what it is given."""
        return evaluate(with_attention(options, [self._patch(reads)], NODE))

    def outer_sample(self, executor, noise, *args, **kwargs):
        """The host's whole sampling run, whose options keep how many pictures it has and how many rows fit."""
        run_uncompiled(executor.class_obj, NODE)
        options = executor.class_obj.model_options
        count_pictures(options, noise.shape[0])
        options["transformer_options"][self.limits] = Limits()
        return executor(noise, *args, **kwargs)

    def apply_model(self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kw):
        """One model call, whole or in chunks, each with what its rows read in its options."""
        rows, groups = self._rows(transformer_options, x.shape[0])
        active = self._is_active(transformer_options)
        needs = self._needs(rows) if active else {}

        def call(part: Rows, x, t, c_concat, c_crossattn, control, **kw):
            options = transformer_options if part == rows else limits.without_caches(transformer_options)
            evaluate = lambda options: executor(x, t, c_concat, c_crossattn, control, options, **kw)
            options = {**options, PLAN: part}
            if not active:
                return evaluate(options)
            facts = ModelCall(tuple(x.shape), 0 if c_crossattn is None else c_crossattn.shape[1], kw)
            return self._evaluate(
                executor.class_obj.diffusion_model, facts, self._reads(part, groups), options, evaluate
            )

        inputs = {"x": x, "t": t, "c_concat": c_concat, "c_crossattn": c_crossattn, "control": control, **kw}
        limits = transformer_options.get(self.limits) or Limits()
        reserved = transformer_options.get(RESERVED, 0)
        return self.chunks.run(executor.class_obj, call, rows, groups, needs, inputs, limits, reserved)

    def _rows(self, options: dict, batch: int) -> tuple[Rows, int]:
        """All rows of the call: the frames, and after them the extra key pictures."""
        if PLAN not in options and self.missing:
            options = {**options, PLAN: (*range(len(self.alphas)), *(key_row(key) for key in self.missing))}
        return rows_of(options, batch, len(self.alphas), NODE)

    def _needs(self, rows: Rows) -> dict[int, set[int]]:
        """Place of each row -> places of the key rows that it reads."""
        alphas = alphas_of(rows, self.alphas)
        return {
            place: {alphas.frame_of(key) for key in alphas.between(value)[:2]}
            for place, value in enumerate(alphas.values)
        }

    def _reads(self, rows: Rows, groups: int) -> Reads:
        alphas = alphas_of(rows, self.alphas)
        keys = alphas.needed()
        return Reads(alphas.weights()[:, keys], tuple(alphas.frame_of(key) for key in keys), groups)

    def _is_active(self, options: dict) -> bool:
        """Whether this step lies before `until`; outside a sampling run (no list of levels) always."""
        levels, sigma = options.get("sample_sigmas"), options.get("sigmas")
        if levels is None or sigma is None or len(levels) < 2:
            return True
        return float(sigma[0]) > active_until(levels, self.until)

    def _patch(self, reads: Reads) -> AttentionPatch:
        """What happens to self-attention in one model call: to its sources, or to queries, keys and values."""
        if self.blend == "input":
            return AttentionPatch("attn1", self.blocks, before=partial(self._sources, reads))
        return AttentionPatch("attn1", self.blocks, around=partial(getattr(self, f"_{self.blend}"), reads))

    def _sources(self, reads: Reads, n: Tensor, k: Tensor, v: Tensor, options: dict) -> tuple[Tensor, Tensor, Tensor]:
        """Before projection."""
        mixed = self._mix(k, reads)
        return n, mixed, mixed if v is k else self._mix(v, reads)

    def _values(self, reads: Reads, attend: Attend, q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        """After projection."""
        return attend(q, self._mix(k, reads), self._mix(v, reads))

    def _output(self, reads: Reads, attend: Attend, q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        """What comes out of attention is blended."""
        return mix_outputs(attend, q, k, v, reads.weights, reads.key_rows, self.strength, reads.groups)

    def _mix(self, features: Tensor, reads: Reads) -> Tensor:
        return mix_rows(features, reads.weights, reads.key_rows, self.strength, reads.groups)


class _TransformerBlend(_Blend):
    """The tokens of the frames' pictures read those of the key pictures in the later half of the blocks, as the UNet's
    decoder is its later half; text and references stay each frame's own. Inputs are blended as keys and values."""

    @staticmethod
    def blocks_of(model) -> list:
        found = list(transformer_blocks(model, NODE))
        return found[len(found) // 2 :]

    def _evaluate(
        self, network: Module, call: ModelCall, reads: Reads, options: dict, evaluate: Callable[[dict], Tensor]
    ) -> Tensor:
        around = partial(self._around, reads)
        with attention_of_call(network, call, options, around, NODE, blocks=self.blocks) as own:
            return evaluate(own)

    def _around(self, reads: Reads, attention: Attention) -> Tensor:
        q, k, v, picture = attention.q, attention.k, attention.v, attention.split.picture
        if attention.kind == "cross":
            return attention.attend(q, k, v)
        mixing = {"weights": reads.weights, "key_rows": reads.key_rows, "groups": reads.groups}
        if self.blend == "output":
            return mix_tokens(attention.attend, attention.plain, q, k, v, picture, strength=self.strength, **mixing)
        k, v = k.clone(), v.clone()
        for one in (k, v):
            one[:, :, picture] = self._mix(one[:, :, picture].flatten(1, 2), reads).unflatten(1, (one.shape[1], -1))
        return attention.attend(q, k, v)
