"""A morph by the pack's own nodes on the Papercut model, stage by stage as in the paper's ablation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace

import torch
from torch import Tensor

from ...guidance.anchor import Anchor
from ...morphing.fit import LoraRecipe
from ...morphing.measured_frames import MeasuredFrames
from ...morphing.schedule import Alphas, schedule
from ...papercut.data import autocast
from ...papercut.scenes import Scene
from .pace import _frames_of, evened, evenest

# Fewer steps at a higher, falling rate: what the docs of LoRA Fit name for a quicker fit.
QUICK = LoraRecipe(steps=24, learning_rate=1e-3, decay=True, check_every=0)
# The spacing of DDIM itself. It ends a step short of pure noise, and pictures come back from it the best.
SCHEDULER = "ddim_uniform"


@dataclass(frozen=True)
class Stage:
    """What of the method is switched on. cross_fade: no model at all; corrected: key pictures, by Trajectory Anchor."""

    cross_fade: bool = False
    lora: bool = False
    attention: bool = False
    adain: bool = False
    reschedule: bool = False
    corrected: bool = False


STAGES = {
    "cross-fade": Stage(cross_fade=True),
    "latent interpolation": Stage(),
    "+ LoRA": Stage(lora=True),
    "+ attention": Stage(lora=True, attention=True),
    "+ AdaIN": Stage(lora=True, attention=True, adain=True),
    "+ reschedule": Stage(lora=True, attention=True, adain=True, reschedule=True, corrected=True),
}


@dataclass(frozen=True)
class Settings:
    """Frames and steps of the run; how pictures are inverted and fitted.

    measured: frames of each run that Reschedule measures, a Reschedule after each; of all these frames the evenest are
    the morph, and nothing is made twice.
    """

    frames: int = 16
    steps: int = 8
    measured: tuple[int, ...] = (9, 16, 16)
    refinement: int = 1
    recipe: LoraRecipe = QUICK


class Fixtures:
    """The shipped model as stock nodes give it, or another MODEL and VAE in its place."""

    def __init__(self, model, clip, vae):
        self.model, self.clip, self.vae = model, clip, vae

    @classmethod
    def papercut(cls) -> Fixtures:
        from ...papercut.shipped import load_shipped

        model, clip, vae = load_shipped()
        # Every frame is decoded for the judges, which would take longer than to morph; this layout is the quicker.
        vae.first_stage_model.to(memory_format=torch.channels_last)
        return cls(model, clip, vae)

    def prompt(self, text: str) -> list:
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def sigmas(self, steps: int) -> Tensor:
        import comfy.samplers

        return comfy.samplers.calculate_sigmas(self.model.get_model_object("model_sampling"), SCHEDULER, steps).cpu()

    def decode(self, latents: Tensor) -> Tensor:
        """(N, H, W, 3) in 0..1, by the VAE; in bfloat16 where that is quicker: far less than what is judged."""
        with autocast():
            return self.vae.decode(latents)[..., :3].float().cpu()

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of pictures for measures alone, as quickly as `decode`."""
        with autocast():
            return self.vae.encode(pictures).float().cpu()


class Keys:
    """Key pictures with their LoRAs and inversions, all made in one batch, for every morph between them."""

    def __init__(self, fixtures: Fixtures, scenes: Sequence[Scene], settings: Settings, model=None):
        self.fixtures, self.settings, self.model = fixtures, settings, model or fixtures.model
        self.pictures = torch.stack([scene.render().movedim(0, -1) for scene in scenes])
        self.prompts = [fixtures.prompt(scene.caption) for scene in scenes]
        self.latents = fixtures.vae.encode(self.pictures)

    @cached_property
    def bound(self) -> Tensor:
        """What the VAE alone makes of the pictures."""
        return self.fixtures.decode(self.latents)

    @cached_property
    def loras(self) -> list[dict]:
        from ...host.morphing.lora_fit import fit_loras

        return [one.lora for one in fit_loras(self.model, self.latents, self.prompts, self.settings.recipe)]

    @cached_property
    def plain_trajectory(self):
        return self._inverted(self.model)

    @cached_property
    def fitted_trajectory(self):
        """Each picture inverted with its own LoRA."""
        from ...host.morphing.row_lora import interpolated

        return self._inverted(interpolated(self.model, self.loras, self._every))

    def on(self, model) -> Keys:
        """The same keys, with the LoRAs and inversions that were made, for another clone of the model."""
        other = copy.copy(self)
        other.model = model
        return other

    @property
    def _every(self) -> Alphas:
        return Alphas(tuple(range(len(self.pictures))), len(self.pictures))

    def _inverted(self, model):
        from ...host.morphing.conditioning import morphed
        from ...nodes.inversion import DDIMInvert

        positive, sigmas = morphed(self.prompts, self._every), self.fixtures.sigmas(self.settings.steps)
        latent, refinement = {"samples": self.latents}, self.settings.refinement
        return DDIMInvert.execute(model, latent, sigmas, refinement=refinement, positive=positive).args[0]


class MorphRun:
    """One morph through some of the key pictures."""

    def __init__(self, keys: Keys, places: Sequence[int]):
        self.keys, self.places, self.fixtures, self.settings = keys, list(places), keys.fixtures, keys.settings
        self.keyframes = len(self.places)
        self.pictures, self.bound = (tensor[self.places] for tensor in (keys.pictures, keys.bound))

    def frames(self, stage: Stage) -> SimpleNamespace:
        """latents (N, C, h, w) and pictures (N, H, W, 3) of the frames, and their alphas."""
        if not stage.reschedule:
            return self.at(schedule(self.settings.frames, self.keyframes), stage)
        chosen = self.rescheduled(stage)
        return SimpleNamespace(**vars(chosen) | {"pictures": self.fixtures.decode(chosen.latents)})

    def at(self, alphas: Alphas, stage: Stage, pictures: bool = True) -> SimpleNamespace:
        """The frames at these alphas; `pictures` are None where nobody will see them."""
        if stage.cross_fade:
            faded = torch.einsum("nk,khwc->nhwc", alphas.weights().float(), self.pictures)
            return SimpleNamespace(pictures=faded, latents=self.fixtures.encode(faded), alphas=alphas)
        latents = self.sampled(alphas, stage, self.settings.steps)
        decoded = self.fixtures.decode(latents) if pictures else None
        return SimpleNamespace(pictures=decoded, latents=latents, alphas=alphas)

    def rescheduled(self, stage: Stage) -> SimpleNamespace:
        """The evenest frames out of those measured; no `pictures`, since measured frames are never decoded."""
        settings = self.settings
        alphas, measured = schedule(settings.measured[0], self.keyframes), []
        for frames in (*settings.measured[1:], settings.frames):
            measured.append(MeasuredFrames(alphas, self.sampled(alphas, stage, settings.steps)))
            alphas = evened(measured, frames)
        return evenest(measured, settings.frames)

    def sampled(self, alphas: Alphas, stage: Stage, steps: int) -> Tensor:
        """All frames in one run of the stock sampler."""
        import comfy.samplers
        from comfy_extras.nodes_custom_sampler import Guider_Basic, SamplerCustomAdvanced

        from ...host.morphing.anchor import key_corrected
        from ...host.morphing.attention_blend import blended
        from ...host.morphing.conditioning import morphed
        from ...host.morphing.row_lora import interpolated
        from ...nodes.morphing import MorphLatents

        every = self.keys.fitted_trajectory if stage.lora else self.keys.plain_trajectory
        model, path = self.keys.model, every.part(self.places)
        if stage.lora:
            model = interpolated(model, [self.keys.loras[place] for place in self.places], alphas)
        start = MorphLatents.execute(model, {"trajectory0": path}, alphas, stage.adain)
        if stage.attention:
            model = blended(model, alphas, keys=path)
        if stage.corrected:
            model = key_corrected(model, Anchor(path), alphas)
        guider = Guider_Basic(model)
        guider.set_conds(morphed([self.keys.prompts[place] for place in self.places], alphas))
        sampler = comfy.samplers.sampler_object("euler")
        made = SamplerCustomAdvanced.execute(start.args[0], guider, sampler, self.fixtures.sigmas(steps), start.args[1])
        return made.args[0]["samples"]


class Ring:
    """Every pair of neighbours around a chain of K key pictures, in one batch: each pair's frames are what a morph of
    that pair alone would be, since frames read no pictures but their own two.

    per: steps of a pair, whose morph then has per + 1 frames.
    """

    def __init__(self, keys: Keys, per: int):
        self.whole, self.per = MorphRun(keys, range(len(keys.pictures))), per
        self.pairs = [
            MorphRun(keys, (place, (place + 1) % self.whole.keyframes)) for place in range(self.whole.keyframes)
        ]

    def at(self, alphas: Alphas, stage: Stage, pictures: bool = True) -> list[SimpleNamespace]:
        """Each pair's frames, and their alphas from 0 to 1."""
        made = self.whole.at(alphas, stage, pictures)
        return [self._part(made, place) for place in range(len(self.pairs))]

    def even(self) -> Alphas:
        """Alphas at an even pace."""
        return self._around([schedule(self.per + 1)] * len(self.pairs))

    def evened(self, measured: Sequence[Sequence[SimpleNamespace]]) -> Alphas:
        """Alphas rescheduled, each pair by itself, from all runs of the pairs, the latest last."""
        return self._around(
            [evened(seen) for seen in zip(*([_frames_of(pair) for pair in pairs] for pairs in measured))]
        )

    def evenest(
        self, measured: Sequence[Sequence[SimpleNamespace]], distances: Callable[[Tensor], Tensor] | None = None
    ) -> list[SimpleNamespace]:
        """Each pair's evenest frames, out of all runs of the pairs; distances: as `evenest` takes them."""
        chosen = [evenest([_frames_of(pair) for pair in seen], self.per + 1, distances) for seen in zip(*measured)]
        pictures = self.whole.fixtures.decode(torch.cat([pair.latents for pair in chosen])).split(self.per + 1)
        return [SimpleNamespace(**vars(pair) | {"pictures": one}) for pair, one in zip(chosen, pictures)]

    def chain(self, pairs: Sequence[SimpleNamespace]) -> SimpleNamespace:
        """The morph from the first to the last key picture: the frames of the pairs in between, one after another."""
        way = pairs[:-1]
        joined = lambda parts: torch.cat([*(part[:-1] for part in parts), parts[-1][-1:]])
        values = [place + value for place, pair in enumerate(way) for value in pair.alphas.values[:-1]]
        alphas = Alphas((*values, float(len(way))), len(pairs))
        pictures = None if way[0].pictures is None else joined([pair.pictures for pair in way])
        return SimpleNamespace(pictures=pictures, latents=joined([pair.latents for pair in way]), alphas=alphas)

    def _part(self, made: SimpleNamespace, place: int) -> SimpleNamespace:
        """The frames of one pair out of those around the ring."""
        rows = [(place * self.per + step) % len(made.alphas) for step in range(self.per + 1)]
        values = [made.alphas.values[row] - place for row in rows[:-1]] + [1.0]
        pictures = None if made.pictures is None else made.pictures[rows]
        return SimpleNamespace(pictures=pictures, latents=made.latents[rows], alphas=Alphas(tuple(values), 2))

    def _around(self, pairs: Sequence[Alphas]) -> Alphas:
        values = [place + value for place, pair in enumerate(pairs) for value in pair.values[:-1]]
        return Alphas(tuple(values), len(pairs), True)


def host_interpolation() -> Callable[[Tensor, int], Tensor] | None:
    """The host's own frame interpolation: pictures (2, H, W, 3) and how many steps apart they are to be -> the frames
    (steps + 1, H, W, 3). None where its weights are not at hand.
    """
    import folder_paths
    from comfy_extras.nodes_frame_interpolation import FrameInterpolate, FrameInterpolationModelLoader

    names = folder_paths.get_filename_list("frame_interpolation")
    if not names:
        return None
    model = FrameInterpolationModelLoader.execute(names[0]).args[0]
    return lambda pictures, steps: FrameInterpolate.execute(model, pictures, steps).args[0].float().cpu()
