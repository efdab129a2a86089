"""What a paper sets in other nodes than ours, CFG and steps, beside what a run really has."""

from __future__ import annotations

from dataclasses import dataclass

from comfy.patcher_extension import WrappersMP

from .notify import notify


@dataclass(frozen=True)
class Sampling:
    """What a run samples with, or a paper as far as it says so."""

    cfg: float | None = None
    steps: int | None = None

    def __str__(self) -> str:
        cfg = [f"CFG {self.cfg:g}"] if self.cfg is not None else []
        return ", ".join(cfg + ([f"{self.steps} steps"] if self.steps is not None else []))


def beside_published(model, technique: str, published: Sampling):
    """A clone of the MODEL whose runs say on the running node where they sample otherwise than the paper."""

    def outer_sample(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        run = Sampling(getattr(executor.class_obj, "cfg", None), len(sigmas) - 1)
        if (published.cfg or run.cfg, published.steps or run.steps) != (run.cfg, run.steps):
            notify(f"{technique}, published: {published}; this run: {run}.")
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, f"palimpsest_published_{technique}", outer_sample)
    return clone
