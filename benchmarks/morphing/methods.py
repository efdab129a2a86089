"""A morph by the pack's own nodes on the Papercut model, stage by stage as in the paper's ablation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace

import torch
from torch import Tensor

from ...guidance.anchor import Anchor
from ...morphing.frame_selection import choose
from ...morphing.frame_distance import plain_between, plain_steps, table
from ...morphing.fit import Recipe
from ...morphing.measured_frames import Look, together
from ...morphing.reschedule import reschedule
from ...morphing.schedule import Alphas, schedule
from ...papercut.data import autocast
from ...papercut.scenes import Scene

# Fewer steps at a higher, falling rate: what the docs of LoRA Fit name for a quicker fit.
QUICK = Recipe(steps=24, learning_rate=1e-3, decay=True, check_every=0)
# The spacing of DDIM itself. It ends a step short of pure noise, and pictures come back from it the best.
SCHEDULER = "ddim_uniform"


@dataclass(frozen=True)
class Stage:
    """What of the method is switched on. cross_fade: no model at all; held: key pictures, by Trajectory Anchor."""

    cross_fade: bool = False
    lora: bool = False
    attention: bool = False
    adain: bool = False
    reschedule: bool = False
    held: bool = False


STAGES = {
    "cross-fade": Stage(cross_fade=True),
    "latent interpolation": Stage(),
    "+ LoRA": Stage(lora=True),
    "+ attention": Stage(lora=True, attention=True),
    "+ AdaIN": Stage(lora=True, attention=True, adain=True),
    "+ reschedule": Stage(lora=True, attention=True, adain=True, reschedule=True, held=True),
}


@dataclass(frozen=True)
class Settings:
    """Frames and steps of the run; how pictures are inverted and fitted.

    looks: frames of each run that Reschedule looks at, a Reschedule after each; of all these frames the evenest are
    the morph, and nothing is made twice.
    """

    frames: int = 16
    steps: int = 8
    looks: tuple[int, ...] = (9, 16, 16)
    refinement: int = 1
    recipe: Recipe = QUICK


class World:
    """The shipped model as stock nodes give it, or another MODEL and VAE in its place."""

    def __init__(self, model, clip, vae):
        self.model, self.clip, self.vae = model, clip, vae

    @classmethod
    def papercut(cls) -> World:
        from ...papercut.shipped import load_shipped

        model, clip, vae = load_shipped()
        # Every frame is decoded to be looked at, which would take longer than to morph; this layout is the quicker.
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
        """Latents of pictures that are looked at alone, as quickly as `decode`."""
        with autocast():
            return self.vae.encode(pictures).float().cpu()


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
        from ...host.morphing.lora_fit import fit_loras

        return [one.lora for one in fit_loras(self.model, self.latents, self.prompts, self.settings.recipe)]

    @cached_property
    def plain_way(self):
        return self._inverted(self.model)

    @cached_property
    def fitted_way(self):
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
        if not stage.reschedule:
            return self.at(schedule(self.settings.frames, self.keyframes), stage)
        chosen = self.rescheduled(stage)
        return SimpleNamespace(**vars(chosen) | {"pictures": self.world.decode(chosen.latents)})

    def at(self, alphas: Alphas, stage: Stage, pictures: bool = True) -> SimpleNamespace:
        """The frames at these alphas; `pictures` are None where nobody will see them."""
        if stage.cross_fade:
            faded = torch.einsum("nk,khwc->nhwc", alphas.weights().float(), self.pictures)
            return SimpleNamespace(pictures=faded, latents=self.world.encode(faded), alphas=alphas)
        latents = self.sampled(alphas, stage, self.settings.steps)
        decoded = self.world.decode(latents) if pictures else None
        return SimpleNamespace(pictures=decoded, latents=latents, alphas=alphas)

    def rescheduled(self, stage: Stage) -> SimpleNamespace:
        """The evenest frames out of those looked at; no `pictures`, since looks are never decoded."""
        settings = self.settings
        alphas, looks = schedule(settings.looks[0], self.keyframes), []
        for frames in (*settings.looks[1:], settings.frames):
            looks.append(Look(alphas, self.sampled(alphas, stage, settings.steps)))
            alphas = evened(looks, frames)
        return evenest(looks, settings.frames)

    def sampled(self, alphas: Alphas, stage: Stage, steps: int) -> Tensor:
        """All frames in one run of the stock sampler."""
        import comfy.samplers
        from comfy_extras.nodes_custom_sampler import Guider_Basic, SamplerCustomAdvanced

        from ...host.morphing.attention_blend import blended
        from ...host.morphing.anchor import held_morph
        from ...host.morphing.conditioning import morphed
        from ...host.morphing.row_lora import interpolated
        from ...nodes.morphing import MorphLatents

        model, way = self.keys.model, self._way(self.keys.fitted_way if stage.lora else self.keys.plain_way)
        if stage.lora:
            model = interpolated(model, [self.keys.loras[place] for place in self.places], alphas)
        starts = MorphLatents.execute(model, {"trajectory0": way}, alphas, stage.adain)
        if stage.attention:
            model = blended(model, alphas, keys=way)
        if stage.held:
            model = held_morph(model, Anchor(way), alphas)
        guider = Guider_Basic(model)
        guider.set_conds(morphed([self.keys.prompts[place] for place in self.places], alphas))
        sampler = comfy.samplers.sampler_object("euler")
        made = SamplerCustomAdvanced.execute(starts.args[0], guider, sampler, self.world.sigmas(steps), starts.args[1])
        return made.args[0]["samples"]

    def _way(self, way):
        return replace(way, latents=way.latents[:, self.places])


class Ring:
    """Every pair of neighbours around a chain of K key pictures, in one batch: each pair's frames are what a morph of
    that pair alone would be, since frames read no pictures but their own two.

    per: steps of a pair, whose morph then has per + 1 frames.
    """

    def __init__(self, keys: Keys, per: int):
        self.whole, self.per = Run(keys, range(len(keys.pictures))), per
        self.pairs = [Run(keys, (place, (place + 1) % self.whole.keyframes)) for place in range(self.whole.keyframes)]

    def at(self, alphas: Alphas, stage: Stage, pictures: bool = True) -> list[SimpleNamespace]:
        """Each pair's frames, and their alphas from 0 to 1."""
        made = self.whole.at(alphas, stage, pictures)
        return [self._part(made, place) for place in range(len(self.pairs))]

    def even(self) -> Alphas:
        """Alphas at an even pace."""
        return self._around([schedule(self.per + 1)] * len(self.pairs))

    def evened(self, looks: Sequence[Sequence[SimpleNamespace]]) -> Alphas:
        """Alphas rescheduled, each pair by itself, from all looks at the pairs, the latest last."""
        return self._around([evened(seen) for seen in zip(*([_look(pair) for pair in pairs] for pairs in looks))])

    def evenest(
        self, looks: Sequence[Sequence[SimpleNamespace]], distances: Callable[[Tensor], Tensor] | None = None
    ) -> list[SimpleNamespace]:
        """Each pair's evenest frames, out of all looks at the pairs; distances: as `evenest` takes them."""
        chosen = [evenest([_look(pair) for pair in seen], self.per + 1, distances) for seen in zip(*looks)]
        pictures = self.whole.world.decode(torch.cat([pair.latents for pair in chosen])).split(self.per + 1)
        return [SimpleNamespace(**vars(pair) | {"pictures": one}) for pair, one in zip(chosen, pictures)]

    def chain(self, pairs: Sequence[SimpleNamespace]) -> SimpleNamespace:
        """The morph from the first to the last key picture: the frames of the pairs on the way, one after another."""
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


def _look(made: SimpleNamespace) -> Look:
    return Look(made.alphas, made.latents)


def evened(looks: Sequence[Look], frames: int | None = None) -> Alphas:
    """Alphas rescheduled from all that was seen; None keeps the number of frames of the last look."""
    seen = together(looks)
    return reschedule(seen.alphas, plain_steps(seen.latents), frames=frames or len(looks[-1].alphas))


def evenest(looks: Sequence[Look], frames: int, distances: Callable[[Tensor], Tensor] | None = None) -> SimpleNamespace:
    """The frames that make the evenest morph, out of all that was seen; no `pictures`.

    distances: latents (P, C, h, w) -> (P, P), of any two frames; None for those of the latents themselves.
    """
    seen = together(looks)
    between = distances(seen.latents) if distances else table(seen.latents, plain_between)
    rows = choose(seen.alphas, between, frames)
    alphas = replace(seen.alphas, values=tuple(seen.alphas.values[row] for row in rows))
    return SimpleNamespace(pictures=None, latents=seen.latents[rows], alphas=alphas)


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
