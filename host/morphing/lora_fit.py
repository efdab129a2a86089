"""LoRA Fit on the host's MODEL: `morphing/fit.py` inside the host's own sampling set-up, and what was fitted before.

The branches hang on the frozen network as forward hooks for the length of the fit and are gone after it, an
interruption included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from ...morphing.fit import Branches, LoraRecipe, fit
from ...morphing.schedule import Alphas
from ..compatibility import require_invertible
from ..content_cache import RESULTS, content_key, model_key
from ..family import diffusion_model, is_unet, model_class
from ..gradients import plain
from ..memory import chunked, or_sparing
from ..network_calls import require_graph
from ..session import Session, with_denoiser
from ..validation import require_latent_of
from .conditioning import OF_ROWS, key_conditionings, morphed
from .lora import is_linear, lora_model
from .row_lora import layer_hooks

# Queries, keys, values and outputs of every attention: the layers of the paper's code. Families without a UNet name
# the same projections under their own names, some of them fused.
UNET_LAYERS = r"attn[12]\.to_(q|k|v|out\.0)$"
OTHER_LAYERS = r"(attn\w*|attention)\.(to_)?(q|k|v|o|qkv|out|proj|out\.0|add_[qkv]_proj|to_add_out)$"


@dataclass(frozen=True, eq=False)
class Fit:
    """One picture's LORA_MODEL, its loss at each step, its validation losses, and whether it was fitted before."""

    lora: dict[str, Tensor]
    losses: tuple[float, ...]
    checks: dict[int, float]
    reused: bool = False


def fit_loras(
    model, latents: Tensor, conditionings: Sequence[list], recipe: LoraRecipe, *, pictures_at_once: int = 0
) -> list[Fit]:
    """One `Fit` a picture.

    latents: raw LATENT samples (K, C, h, w). conditionings: one CONDITIONING a picture, or one for all.
    pictures_at_once: 0 takes all, and fewer where memory runs out; the result does not depend on it. Where a single one
    does not fit, activations are computed twice instead of kept. A picture that was fitted before, under the same
    prompt, model and recipe, is not fitted again. Raises ValueError for inputs that do not fit.
    """
    require_latent_of(model, latents, "The latent of the key pictures")
    prompts = key_conditionings(conditionings, len(latents))
    names = target_layers(model)
    kind = require_invertible(model, "LoRA Fit")
    network = model_key(model)
    whole = lambda latent, prompt: content_key([network, latent, prompt, asdict(recipe)]) if network else None
    keys = [whole(latent, prompt) for latent, prompt in zip(latents, prompts)]
    # What cannot be recognised by its content is known by its place, and forgotten at once.
    marks = [key or f"picture {place}" for place, key in enumerate(keys)]
    found = {mark: _recalled(mark) for mark in marks}
    missing = [place for place, mark in enumerate(marks) if found[mark] is None and marks.index(mark) == place]

    sparing = False

    def some(chunk: slice) -> list[Fit]:
        places = missing[chunk]

        def together(less: bool) -> list[Fit]:
            nonlocal sparing
            sparing = less
            return _fit_together(model, latents[places], [prompts[i] for i in places], names, kind, recipe, less)

        fits = or_sparing(together, "LoRA Fit", sparing=sparing, helps=len(places) == 1)
        for place, one in zip(places, fits):
            found[marks[place]] = one
            RESULTS.put(model, keys[place], one)
        return fits

    if missing:
        chunked(some, len(missing), size=pictures_at_once or None, what="LoRA Fit")
    return [found[mark] for mark in marks]


def _fit_together(
    model, latents: Tensor, prompts: list[list], names: Sequence[str], kind: str, recipe: LoraRecipe, sparing: bool
) -> list[Fit]:
    """One batch of pictures; sparing: recompute activations in backward, to need less memory."""
    count, samples = len(latents), recipe.samples
    rows = morphed(prompts, Alphas(tuple(range(count)), count))
    rows = [[tokens.repeat_interleave(samples, 0), _repeated(options, samples)] for tokens, options in rows]
    levels = model.get_model_object("model_sampling").sigmas.detach().float().cpu()

    def body(session: Session) -> tuple[list[dict], Tensor, dict[int, Tensor]]:
        network = session.model.diffusion_model
        layers = {name: network.get_submodule(name) for name in names}
        shapes = {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}
        branches = Branches(shapes, count, recipe, session.device)
        hooks = {name: _adding(branches, name) for name in names}

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            x0 = session.denoise(x, sigma)
            require_graph(x0)
            return x0

        with layer_hooks(network, hooks), session.checkpointed() if sparing else nullcontext():
            fitted = fit(
                denoise,
                session.latent[::samples].clone(),
                branches,
                plain(levels).to(session.device),
                kind,
                recipe,
                on_step=lambda step, _, x0: session.report(step, recipe.steps, x0, x0),
                half=session.model.get_dtype_inference() == torch.float16,
            )
        return [lora_model(layers) for layers in fitted.layers], fitted.losses, fitted.checks

    loras, losses, checks = with_denoiser(
        model, {"positive": rows}, latents.repeat_interleave(samples, 0), plain(levels).flip(0), body, gradients=True
    )
    column = lambda picture: {step: float(values[picture]) for step, values in checks.items()}
    return [Fit(lora, tuple(losses[:, place].tolist()), column(place)) for place, lora in enumerate(loras)]


def _adding(branches: Branches, name: str):
    return lambda _module, inputs, output: branches.add(name, inputs[0], output)


def _repeated(options: dict, samples: int) -> dict:
    """A conditioning's options for `samples` rows a picture; a mask of one row serves all."""
    of_rows = {name: options[name] for name in OF_ROWS if isinstance(options.get(name), Tensor)}
    return {**options, **{name: rows.repeat_interleave(samples, 0) for name, rows in of_rows.items() if len(rows) > 1}}


def target_layers(model) -> list[str]:
    """The attention projections that LoRA Fit adapts, by name within the network."""
    pattern = UNET_LAYERS if is_unet(model) else OTHER_LAYERS
    network = diffusion_model(model)
    linear = (name for name, module in network.named_modules() if is_linear(module))
    names = [name for name in linear if re.search(pattern, name)]
    if not names:
        raise ValueError(
            f"LoRA Fit finds no attention layers that it knows in this model ({model_class(model)}): fit with the "
            "host's Train LoRA, whose LoRAs serve as well."
        )
    return names


def _recalled(mark: str) -> Fit | None:
    fitted = RESULTS.get(mark)
    return None if fitted is None else replace(fitted, reused=True)
