"""What a paper sets in other nodes than ours, CFG and steps, beside what a run really has."""

from __future__ import annotations

from dataclasses import dataclass

from comfy.patcher_extension import WrappersMP

from .notify import notify


@dataclass(frozen=True)
class Sampling:
    """What a paper samples with. cfg: None where it names none."""

    cfg: float | None
    steps: int

    def __str__(self) -> str:
        return (f"CFG {self.cfg:g}, " if self.cfg is not None else "") + f"{self.steps} steps"


def beside_published(model, technique: str, published: Sampling):
    """A clone of the MODEL whose runs say on the running node where they sample otherwise than the paper."""

    def outer_sample(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        cfg = getattr(executor.class_obj, "cfg", None) if published.cfg is not None else None
        run = Sampling(cfg, len(sigmas) - 1)
        if run != published:
            notify(f"{technique}, published: {published}; this run: {run}.")
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, f"palimpsest_published_{technique}", outer_sample)
    return clone
