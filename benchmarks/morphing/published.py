"""DiffMorpher as published: frame by frame, stored features, every frame sampled twice. The paper's numbers.

Rank 16, 200 training steps, one picture at a time; 50 DDIM steps each way; the key pictures' attention inputs of each
call stored and read by the frames in between for the first 30 calls; then the reschedule, and all frames again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...inversion.ddim import invert
from ...morphing.fit import LoraRecipe
from ...morphing.latents import morph_latents
from ...morphing.reschedule import reschedule
from ...morphing.schedule import Alphas, schedule
from .methods import Keys
from .pace import plain_steps

STEPS, UNTIL = 50, 0.6
RECIPE = LoraRecipe(check_every=0)


class Store:
    """The attention inputs of the two key pictures, which are sampled first, by step and layer; what the official code
    keeps on the device."""

    def __init__(self):
        self.kept: dict[tuple, list[Tensor]] = {}
        self.alpha, self.step = 0.0, 0

    @property
    def nbytes(self) -> int:
        return sum(part.numel() * part.element_size() for parts in self.kept.values() for part in parts)

    def patch(self, n: Tensor, k: Tensor, v: Tensor, options: dict):
        if options["block"][0] != "output" or self.step >= UNTIL * STEPS:
            return n, k, v
        kept = self.kept.setdefault((self.step, options["block"][1], options["block_index"]), [])
        if len(kept) < 2:
            kept.append(n)
            return n, k, v
        mixed = torch.lerp(*kept, self.alpha)
        return n, mixed, mixed


def _mixed(keys: Keys, loras: list[dict], alphas: Alphas) -> tuple:
    """The model with the mixture of LoRAs, and the prompts, of some frames."""
    from ...host.morphing.conditioning import morphed
    from ...host.morphing.row_lora import interpolated

    return interpolated(keys.model, loras, alphas, mixing="factor"), {"positive": morphed(keys.prompts, alphas)}


def sampled(keys: Keys, loras: list[dict], noise: Tensor, alpha: float, store: Store) -> Tensor:
    """One frame: DDIM, one call a step."""
    from ...host.session import with_denoiser

    model, conds = _mixed(keys, loras, Alphas((alpha,), 2))
    model.set_model_attn1_patch(store.patch)
    levels = keys.fixtures.sigmas(STEPS)
    store.alpha = alpha

    def body(session):
        x = noise.to(session.device)
        for step in range(STEPS):
            store.step = step
            derivative = (x - session.guided(x, levels[step])) / levels[step]
            x = x + (levels[step + 1] - levels[step]) * derivative
        return session.to_raw(x)

    return with_denoiser(model, conds, keys.latents[:1], levels, body)


def inverted(keys: Keys, loras: list[dict], place: int) -> Tensor:
    """The noise of one key picture, with its own LoRA and prompt."""
    from ...host.compatibility import levels_of
    from ...host.session import with_denoiser

    model, conds = _mixed(keys, loras, Alphas((float(place),), 2))
    levels = levels_of(keys.model, keys.fixtures.sigmas(STEPS))
    body = lambda session: invert(session.guided, session.latent, levels, pairing="papers")[-1]
    return with_denoiser(model, conds, keys.latents[place : place + 1], levels.flip(0), body)


def fitted(keys: Keys) -> list[dict]:
    """A LoRA a picture, one after another."""
    from ...host.morphing.lora_fit import fit_loras

    one = lambda place: fit_loras(keys.model, keys.latents[place : place + 1], [keys.prompts[place]], RECIPE)[0].lora
    return [one(0), one(1)]


def morph(keys: Keys, frames: int) -> tuple[Tensor, int, Alphas]:
    """The frames' latents (N, C, h, w), how many bytes of features were stored, and where the frames lie at last."""
    loras = fitted(keys)
    ends = torch.cat([inverted(keys, loras, place) for place in (0, 1)])
    alphas = schedule(frames)
    for again in (False, True):
        store, starts = Store(), morph_latents(ends, alphas)
        order = [0, frames - 1, *range(1, frames - 1)]
        made = {row: sampled(keys, loras, starts[row : row + 1], alphas.values[row], store) for row in order}
        latents = torch.cat([made[row] for row in range(frames)])
        if not again:
            alphas = reschedule(alphas, plain_steps(latents))
    return latents, store.nbytes, alphas
