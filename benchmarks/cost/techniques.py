"""Each technique as it runs in its node's defaults, on any model whose latents have Papercut's channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count

import torch
from torch import Tensor

CFG, ROWS = 5.0, 2
SEEDS = count()
SOURCE = "a red striped heart on a cream checked ground"
EDIT = "a blue striped heart on a cream checked ground"


@dataclass(frozen=True)
class Subject:
    """model: what is measured. side: of its latents. steps: of a run. predictor: of its edges. width: of the prompts'
    embeddings. vae, clip: Papercut's, of the second the tokenizer alone."""

    model: object
    predictor: object
    width: int
    vae: object
    clip: object
    side: int
    steps: int

    def prompt(self, seed: int, rows: int = 1) -> list:
        draw = torch.Generator().manual_seed(seed)
        return [[torch.randn(rows, 77, self.width, generator=draw), {}]]

    @cached_property
    def latent(self) -> Tensor:
        return torch.randn(1, 4, self.side, self.side, generator=torch.Generator().manual_seed(5))

    @cached_property
    def picture(self) -> Tensor:
        return torch.rand(1, 8 * self.side, 8 * self.side, 3, generator=torch.Generator().manual_seed(6))

    @property
    def sigmas(self) -> Tensor:
        import comfy.samplers

        sampling = self.model.get_model_object("model_sampling")
        return comfy.samplers.calculate_sigmas(sampling, "normal", self.steps).cpu()

    @cached_property
    def trajectory(self):
        """Of random latents: costs do not depend on what they show."""
        from ...host.family import latent_format_name
        from ...host.fingerprint import fingerprint
        from ...inversion.trajectory import Trajectory

        path = self.latent.expand(self.steps + 1, -1, -1, -1, -1).clone()
        kind = latent_format_name(self.model)
        return Trajectory(self.sigmas.flip(0), path, "", 1.0, fingerprint(self.model), "eps", kind)

    def run(self, model=None, *, positive=None, sampler=None, latent: Tensor | None = None, guider=None) -> Tensor:
        """The host's sampler; by default what all is compared with: one picture, Euler, a negative prompt."""
        import comfy.samplers

        positive = self.prompt(0) if positive is None else positive
        if guider is None:
            guider = comfy.samplers.CFGGuider(model or self.model)
            guider.set_conds(positive, self.prompt(1))
            guider.set_cfg(CFG)
        latent = self.latent if latent is None else latent
        sampler = sampler or comfy.samplers.sampler_object("euler")
        return guider.sample(torch.randn_like(latent), latent, sampler, self.sigmas, seed=1, disable_pbar=True)


def as_set(node) -> dict:
    """What a node's widgets say when it is new."""
    found = {}
    for one in node.define_schema().inputs:
        value = getattr(one, "default", None)
        options = getattr(one, "options", None)
        found[one.id] = options[0] if value is None and options else value
    return {name: value for name, value in found.items() if value is not None}


def plain(s: Subject):
    return s.run()


def inversion(s: Subject):
    from ...nodes.inversion import DDIMInvert

    return DDIMInvert.execute(s.model, {"samples": s.latent}, s.sigmas, positive=s.prompt(0)).args[0]


def anchor(s: Subject):
    from ...guidance.anchor import Anchor
    from ...host.inversion.anchor import anchored

    mask = torch.ones(1, s.side, s.side)
    mask[..., : s.side // 2] = 0
    return s.run(anchored(s.model, Anchor(s.trajectory, mask)))


def null_text(s: Subject, mode: str, inner_steps: int = 10):
    """Without a tolerance, so that no update is left out."""
    from ...nodes.inversion_null_text import NullTextOptimize

    given = {"negative": s.prompt(1), "inner_steps": inner_steps, "tolerance": 0.0}
    return NullTextOptimize.execute(s.model, s.trajectory, s.prompt(0), CFG, mode, **given).args[0]


def proximal(s: Subject):
    from ...nodes.inversion_null_text import ProximalGuidance

    return s.run(ProximalGuidance.execute(s.model).args[0])


def word_edit(s: Subject):
    """The source and one edit."""
    from ...guidance.prompt_to_prompt.plan import plan_edits
    from ...host.prompt_to_prompt.patch import with_prompt_to_prompt
    from ...host.prompt_to_prompt.tokens import read_prompt

    source, edit = (read_prompt(s.clip, text)[0] for text in (SOURCE, EDIT))
    model = with_prompt_to_prompt(s.model, plan_edits(source, [edit]))
    return s.run(model, positive=s.prompt(0, ROWS), latent=s.latent.expand(ROWS, -1, -1, -1))


def word_map(s: Subject):
    from ...host.prompt_to_prompt.tokens import read_prompt
    from ...host.prompt_to_prompt.word_maps import maps_of_picture

    prompt, _ = read_prompt(s.clip, SOURCE)
    return maps_of_picture(s.model, prompt, s.prompt(0), {"samples": s.latent}, 8, 0)


def change_mask(s: Subject):
    from ...nodes.diffedit import DiffEditMask

    asked = {"model": s.model, "reference": s.prompt(0), "query": s.prompt(1), "latent": {"samples": s.latent}}
    return DiffEditMask.execute(**{**as_set(DiffEditMask), **asked}).args[0]


def source_guidance(s: Subject):
    from ...nodes.source_guidance import SourceGuidanceNode

    return s.run(guider=SourceGuidanceNode.execute(s.model, s.prompt(0), s.prompt(1)).args[0])


def inversion_free(s: Subject):
    from ...nodes.inversion_free import InversionFreeEdit

    return s.run(sampler=InversionFreeEdit.execute().args[0])


def moved(s: Subject):
    from ...nodes.motion import FlowGuidanceSamplerNode

    flow = torch.zeros(1, 8 * s.side, 8 * s.side, 2)
    flow[:, : 4 * s.side, : 4 * s.side, 0] = 2.0 * s.side
    asked = {"vae": s.vae, "flow": flow, "image": s.picture}
    return s.run(sampler=FlowGuidanceSamplerNode.execute(**{**as_set(FlowGuidanceSamplerNode), **asked}).args[0])


def sketch(s: Subject):
    from ...guidance.sketch.guidance import SketchRecipe
    from ...guidance.sketch.prepare import Strokes
    from ...host.sketch.patch import Sketch, sketch_guided

    lines = torch.zeros(1, 8 * s.side, 8 * s.side, dtype=torch.bool)
    lines[:, 4 * s.side, 20:-20] = True
    return s.run(sketch_guided(s.model, s.predictor, Sketch(Strokes(lines, lines.float())), SketchRecipe()))


def best_seed(s: Subject, steps: int = 3):
    """Eight candidates, judged by a sketch."""
    from ...nodes.best_seed import BestSeed

    drawn = torch.zeros(1, 8 * s.side, 8 * s.side, 3)
    drawn[:, 4 * s.side, 20:-20] = 1
    latent = {"samples": torch.zeros_like(s.latent)}
    given = {"negative": s.prompt(1), "edge_predictor": s.predictor, "sketch": drawn, "steps": steps, "cfg": CFG}
    return BestSeed.execute(s.model, s.prompt(0), latent, s.sigmas, **given).args[0]


def fit(s: Subject, steps: int = 200):
    """One picture, anew each time: the host's process remembers fits."""
    from ...host.morphing.lora_fit import fit_loras
    from ...morphing.fit import LoraRecipe

    return fit_loras(s.model, s.latent, [s.prompt(0)], LoraRecipe(steps=steps, patience=0, seed=next(SEEDS)))


def morph(s: Subject, frames: int = 4):
    """Frames between two pictures, of LoRAs and attention, without a negative prompt as in the blueprint."""
    import comfy.samplers

    from ...host.morphing.attention_blend import blended
    from ...host.morphing.conditioning import morphed
    from ...host.morphing.row_lora import interpolated
    from ...morphing.schedule import schedule

    alphas = schedule(frames)
    loras = [one.lora for one in fit(s, 1)] * 2
    model = blended(interpolated(s.model, loras, alphas), alphas)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(morphed([s.prompt(0), s.prompt(1)], alphas), s.prompt(1))
    guider.set_cfg(1.0)
    return s.run(guider=guider, latent=s.latent.expand(frames, -1, -1, -1))


TECHNIQUES: dict[str, Callable[[Subject], object]] = {
    "DDIM Invert": inversion,
    "Trajectory Anchor": anchor,
    "NullText Optimize, fast": partial(null_text, mode="fast"),
    "NullText Optimize, faithful": partial(null_text, mode="faithful"),
    "Proximal Guidance": proximal,
    "Prompt-to-Prompt, one edit": word_edit,
    "Word Attention Mask": word_map,
    "DiffEdit Mask": change_mask,
    "Source Guidance": source_guidance,
    "Inversion-Free Edit": inversion_free,
    "Flow Guidance Sampler": moved,
    "Edge Predictor Guidance": sketch,
    "Best Seed, 8 candidates": best_seed,
    "LoRA Fit, a picture in 200 steps": fit,
    "LoRA Interpolator and Attention Blend, 4 frames": morph,
}

# Their memory is that of any of their steps.
BRIEF = TECHNIQUES | {
    "NullText Optimize, fast": partial(null_text, mode="fast", inner_steps=1),
    "NullText Optimize, faithful": partial(null_text, mode="faithful", inner_steps=1),
    "Best Seed, 8 candidates": partial(best_seed, steps=1),
    "LoRA Fit, a picture in 200 steps": partial(fit, steps=1),
}
