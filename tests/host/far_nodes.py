"""Nodes on a far device and on the CPU, in half precision: a line of JSON each, how far they differ or what failed.

`python -m palimpsest.tests.host.far_nodes`, in a process of its own.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator

from palimpsest.tools.inprocess import enter_host

enter_host(cpu=True)

import comfy.model_management as management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import torch  # noqa: E402
from palimpsest.inversion.null_text_run import MODES  # noqa: E402
from palimpsest.nodes.inversion import DDIMInvert  # noqa: E402
from palimpsest.nodes.inversion_anchor import TrajectoryAnchor  # noqa: E402
from palimpsest.nodes.inversion_null_text import NegativePromptInversion, NullTextOptimize, ProximalGuidance  # noqa: E402
from palimpsest.nodes.prompt_to_prompt import PromptToPrompt  # noqa: E402
from palimpsest.nodes.prompt_to_prompt_results import WordAttentionMask  # noqa: E402
from palimpsest.tests.host.far_device import FAR, Dispatch, send  # noqa: E402
from palimpsest.tests.prompt_to_prompt.tiny_clip import tiny_clip  # noqa: E402
from palimpsest.tests.tiny_models import tiny_cond, tiny_latent, tiny_model  # noqa: E402
from torch import Tensor  # noqa: E402

SIZE, STEPS, PLENTY = (12, 8), 4, 1e12
SOURCE, EDITS = "a red heart on grey", "a blue heart on grey\na red (heart:2) on grey paper"


def half(family: str):
    """A tiny model whose weights and arithmetic are in half precision."""
    model = tiny_model(family, dtype=torch.float16)
    model.model.manual_cast_dtype = None
    return model


def far_half(family: str):
    """The same, beyond the wall."""
    model = half(family)
    send(model.model)
    model.load_device = model.model.device = FAR
    return model


def host_is_far() -> None:
    """The host takes the far device for its own, finds all models there and has memory in plenty."""
    management.get_torch_device = lambda: FAR
    management.load_models_gpu = lambda *_, **__: None
    management.free_memory = lambda *_, **__: []
    management.soft_empty_cache = lambda *_, **__: None
    management.get_free_memory = lambda device=None, torch_free_too=False: (PLENTY,) * 2 if torch_free_too else PLENTY
    comfy.model_patcher.ModelPatcher.get_free_memory = lambda self, device: PLENTY


class Work:
    """What the nodes make of one model, step by step; results are latents, embeddings or masks on the CPU."""

    def __init__(self, family: str, model):
        self.family, self.model, self.clip = family, model, tiny_clip(family)
        self.cond, self.other = tiny_cond(family), tiny_cond(family, seed=3)
        sampling = model.get_model_object("model_sampling")
        self.sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", STEPS).cpu()
        self.raw = tiny_latent(family, size=SIZE)
        self.trajectory = None

    def sampled(self, model, positive, negative, rows: int = 1, sampler: str = "euler") -> Tensor:
        noise = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(2)).expand(rows, -1, -1, -1).clone()
        return comfy.sample.sample_custom(
            model,
            noise,
            4.0,
            comfy.samplers.sampler_object(sampler),
            self.sigmas,
            positive,
            negative,
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=1,
        )

    def inverted(self) -> Tensor:
        self.trajectory = DDIMInvert.execute(
            self.model, {"samples": self.raw}, self.sigmas, refinement=1, positive=self.cond
        ).args[0]
        return self.trajectory.latents

    def fitted(self, mode: str) -> Tensor:
        """How far each level's embedding has moved from where it began; the stock sampler takes them as well."""
        negative = NullTextOptimize.execute(
            self.model,
            self.trajectory,
            self.cond,
            7.5,
            mode,
            negative=self.other,
            tolerance=1e-9,
            levels_at_once=3,
            inner_steps=4 if mode == "fast" else 2,
        ).args[0]
        self.sampled(self.model, self.cond, negative)
        return torch.cat([entry[0] for entry in negative]) - (self.cond if mode == "fast" else self.other)[0][0]

    def edited(self, anchor: bool, sampler: str = "euler") -> Tensor:
        """Prompt-to-Prompt with a local blend; the latents, and the mask that it used."""
        source = NegativePromptInversion.execute(self.clip.encode_from_tokens_scheduled(self.clip.tokenize(SOURCE)))
        model, positive, _, negative = PromptToPrompt.execute(
            self.model,
            self.clip,
            SOURCE,
            EDITS,
            blend_words="heart",
            keep_words="grey",
            source_negative=None if anchor else source.args[0],
        ).args[:4]
        if anchor:
            model = TrajectoryAnchor.execute(model, self.trajectory, rows="0", start_from_source=True).args[0]
        latents = self.sampled(model, positive, negative, 3, sampler)
        mask = WordAttentionMask.execute(model, self.clip, "", "", samples={"samples": latents}).args[0]
        return torch.cat([latents.flatten(), mask.flatten()])

    def looked(self, **where) -> Tensor:
        return WordAttentionMask.execute(self.model, self.clip, SOURCE, "heart", levels=2, **where).args[1]

    def guided(self, threshold: str) -> Tensor:
        model = ProximalGuidance.execute(self.model, 0.7, threshold, self.trajectory).args[0]
        return self.sampled(model, self.cond, self.other)

    def with_anchor(self, sampler: str) -> Tensor:
        mask = torch.linspace(-0.5, 1.5, 96)[None, :, None].clamp(0, 1).expand(1, -1, 64)
        model = TrajectoryAnchor.execute(self.model, self.trajectory, mask=mask).args[0]
        return self.sampled(model, self.cond, self.other, sampler=sampler)

    def steps(self) -> Iterator[tuple[str, Callable[[], Tensor]]]:
        """All for Stable Diffusion 1, and what another family could change."""
        every = self.family == "sd1"
        yield "DDIM Invert", self.inverted
        for mode in MODES if every else ("fast",):
            yield f"NullText Optimize, {mode}", lambda: self.fitted(mode)
        yield "Prompt-to-Prompt, anchored", lambda: self.edited(True)
        if every:
            yield "Prompt-to-Prompt", lambda: self.edited(False)
            yield "Prompt-to-Prompt, dpmpp_2m", lambda: self.edited(False, "dpmpp_2m")
            yield "Word Attention Mask, trajectory", lambda: self.looked(trajectory=self.trajectory)
            yield "Word Attention Mask, samples", lambda: self.looked(samples={"samples": self.raw})
            yield "Proximal Guidance", lambda: self.guided("soft")
            yield "Trajectory Anchor, heun", lambda: self.with_anchor("heun")
        yield "Trajectory Anchor", lambda: self.with_anchor("euler")


def main() -> None:
    families = ("sd1", "sdxl")
    with torch.no_grad():
        wanted = {(family, name): step() for family in families for name, step in Work(family, half(family)).steps()}
        host_is_far()
        with Dispatch():
            for family in families:
                for name, step in Work(family, far_half(family)).steps():
                    print(json.dumps(compared(f"{family}: {name}", step, wanted[family, name])), flush=True)


def compared(name: str, step: Callable[[], Tensor], wanted: Tensor) -> dict:
    try:
        found = step()
    except Exception as error:
        places = [f"{one.filename}:{one.lineno}" for one in traceback.extract_tb(error.__traceback__)]
        return {"name": name, "error": f"{error} ({', '.join(p for p in places if '/torch/' not in p)})"}
    difference = (found - wanted).float().abs().mean() / wanted.float().abs().mean()
    return {"name": name, "device": found.device.type, "difference": float(difference)}


if __name__ == "__main__":
    main()
