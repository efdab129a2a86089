"""A morph by the pack's own nodes on the Papercut model, stage by stage as in the paper's ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace

import torch
from torch import Tensor

from ...morphing.fit import Recipe
from ...morphing.schedule import Alphas, schedule
from ...papercut.scenes import Scene

# Fewer steps at a higher, falling rate: what the docs of LoRA Fit name for a quicker fit.
QUICK = Recipe(steps=40, learning_rate=1e-3, decay=True, check_every=0)


@dataclass(frozen=True)
class Stage:
    """What of the method is switched on. cross_fade: no model at all."""

    cross_fade: bool = False
    lora: bool = False
    attention: bool = False
    adain: bool = False
    reschedule: bool = False


STAGES = {
    "cross-fade": Stage(cross_fade=True),
    "latent interpolation": Stage(),
    "+ LoRA": Stage(lora=True),
    "+ attention": Stage(lora=True, attention=True),
    "+ AdaIN": Stage(lora=True, attention=True, adain=True),
    "+ reschedule": Stage(lora=True, attention=True, adain=True, reschedule=True),
}


@dataclass(frozen=True)
class Settings:
    """Steps of the run; frames and steps of each probe, a probe a round; how pictures are inverted and fitted."""

    frames: int = 16
    steps: int = 20
    probe_frames: int = 9
    probe_steps: int = 8
    rounds: int = 1
    refinement: int = 0
    recipe: Recipe = QUICK


class World:
    """The shipped model as stock nodes give it, or another MODEL and VAE in its place."""

    def __init__(self, model, clip, vae):
        self.model, self.clip, self.vae = model, clip, vae

    @classmethod
    def papercut(cls) -> World:
        import comfy.sd

        from ...papercut.companion.model import register
        from ...papercut.export import FILE

        register()
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(FILE))
        # Every frame is decoded to be looked at, which would take longer than to morph; this layout is the quicker.
        vae.first_stage_model.to(memory_format=torch.channels_last)
        return cls(model, clip, vae)

    def prompt(self, text: str) -> list:
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def sigmas(self, steps: int) -> Tensor:
        import comfy.samplers

        return comfy.samplers.calculate_sigmas(self.model.get_model_object("model_sampling"), "normal", steps).cpu()

    def decode(self, latents: Tensor) -> Tensor:
        """(N, H, W, 3) in 0..1, by the VAE; in bfloat16 on a CPU: the difference is far below what is judged."""
        with torch.autocast("cpu", torch.bfloat16, enabled=not torch.cuda.is_available()):
            return self.vae.decode(latents)[..., :3].float().cpu()


class Keys:
    """Key pictures with their LoRAs and inversions, all made in one batch, for every morph between them."""

    def __init__(self, world: World, scenes: Sequence[Scene], settings: Settings, model=None):
        self.world, self.settings, self.model = world, settings, model or world.model
        self.pictures = torch.stack([scene.render().movedim(0, -1) for scene in scenes])
        self.prompts = [world.prompt(scene.caption) for scene in scenes]
        self.latents = world.vae.encode(self.pictures)

    @cached_property
    def bound(self) -> Tensor:
        """What the VAE alone makes of the pictures."""
        return self.world.decode(self.latents)

    @cached_property
    def loras(self) -> list[dict]:
        from ...host.lora_fit import fit_loras

        return [one.lora for one in fit_loras(self.model, self.latents, self.prompts, self.settings.recipe)]

    @cached_property
    def plain_way(self):
        return self._inverted(self.model)

    @cached_property
    def fitted_way(self):
        """Each picture inverted with its own LoRA."""
        from ...host.row_lora import interpolated

        return self._inverted(interpolated(self.model, self.loras, self._every))

    @property
    def _every(self) -> Alphas:
        return Alphas(tuple(range(len(self.pictures))), len(self.pictures))

    def _inverted(self, model):
        from ...host.morph_conditioning import morphed
        from ...nodes.inversion import DDIMInvert

        positive, sigmas = morphed(self.prompts, self._every), self.world.sigmas(self.settings.steps)
        latent, refinement = {"samples": self.latents}, self.settings.refinement
        return DDIMInvert.execute(model, latent, sigmas, refinement=refinement, positive=positive).args[0]


class Run:
    """One morph through some of the key pictures."""

    def __init__(self, keys: Keys, places: Sequence[int]):
        self.keys, self.places, self.world, self.settings = keys, list(places), keys.world, keys.settings
        self.keyframes = len(self.places)
        self.pictures, self.bound = (tensor[self.places] for tensor in (keys.pictures, keys.bound))

    def frames(self, stage: Stage) -> SimpleNamespace:
        """latents (N, C, h, w) and pictures (N, H, W, 3) of the frames, and their alphas."""
        alphas = schedule(self.settings.frames, self.keyframes)
        if stage.cross_fade:
            pictures = torch.einsum("nk,khwc->nhwc", alphas.weights().float(), self.pictures)
            return SimpleNamespace(pictures=pictures, latents=self.world.vae.encode(pictures), alphas=alphas)
        if stage.reschedule:
            alphas = self.rescheduled(stage)
        latents = self.sampled(alphas, stage, self.settings.steps)
        return SimpleNamespace(pictures=self.world.decode(latents), latents=latents, alphas=alphas)

    def rescheduled(self, stage: Stage) -> Alphas:
        """Even steps, from probes of few steps that are never decoded."""
        from ...morphing.distances import plain_steps
        from ...morphing.reschedule import reschedule

        settings = self.settings
        alphas = schedule(settings.probe_frames, self.keyframes)
        for last in (number == settings.rounds - 1 for number in range(settings.rounds)):
            steps = plain_steps(self.sampled(alphas, stage, settings.probe_steps))
            alphas = reschedule(alphas, steps, frames=settings.frames if last else None)
        return alphas

    def sampled(self, alphas: Alphas, stage: Stage, steps: int) -> Tensor:
        """All frames in one run of the stock sampler."""
        import comfy.samplers
        from comfy_extras.nodes_custom_sampler import Guider_Basic, SamplerCustomAdvanced

        from ...host.attention_blend import blended
        from ...host.morph_conditioning import morphed
        from ...host.row_lora import interpolated
        from ...nodes.morph import MorphLatents

        model, way = self.keys.model, self._way(self.keys.fitted_way if stage.lora else self.keys.plain_way)
        if stage.lora:
            model = interpolated(model, [self.keys.loras[place] for place in self.places], alphas)
        starts = MorphLatents.execute(model, {"trajectory0": way}, alphas, stage.adain)
        if stage.attention:
            model = blended(model, alphas, keys=way)
        guider = Guider_Basic(model)
        guider.set_conds(morphed([self.keys.prompts[place] for place in self.places], alphas))
        sampler = comfy.samplers.sampler_object("euler")
        made = SamplerCustomAdvanced.execute(starts.args[0], guider, sampler, self.world.sigmas(steps), starts.args[1])
        return made.args[0]["samples"]

    def _way(self, way):
        return replace(way, latents=way.latents[:, self.places])


class Counter:
    """Counts what a MODEL is asked: `calls`, and `rows` of all calls together. `model` is the counted clone."""

    def __init__(self, model):
        from comfy.patcher_extension import WrappersMP

        self.calls = self.rows = 0
        self.model = model.clone()
        self.model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", self._call)

    def _call(self, executor, x, *args, **kwargs):
        self.calls += 1
        self.rows += x.shape[0]
        return executor(x, *args, **kwargs)
