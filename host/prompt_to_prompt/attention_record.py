"""What a sampling run of Prompt-to-Prompt attended to, kept for the nodes that show it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ...guidance.prompt_to_prompt.token_alignment import Prompt

# Runs that are remembered, and the fraction of a run's samples, squared, by which equal ones may differ.
REMEMBERED, SAME = 4, 1e-6


@dataclass(frozen=True, eq=False)
class Record:
    """What a finished run attended to.

    maps: for each row of the batch (K, h, w), where each of its tokens was attended to, the mean over layers and steps,
    CPU; mask: (B, H, W) of the local blend at its last step, or None; columns: of the
    blend's words, for each row; samples: (B, C, H, W) LATENT samples that came of it, CPU."""

    prompts: tuple[Prompt, ...]
    maps: tuple[Tensor, ...]
    mask: Tensor | None
    columns: tuple[tuple[int, ...], ...]
    samples: Tensor


@dataclass
class Recording:
    """Records of the last finished runs, the latest first; they go with the MODEL from node to node."""

    records: list[Record] = field(default_factory=list)

    @property
    def last(self) -> Record | None:
        return self.records[0] if self.records else None

    def keep(self, record: Record) -> None:
        self.records[:] = [record, *self.records][:REMEMBERED]

    def of(self, samples: Tensor) -> Record | None:
        """The record of the run that these samples (B, C, H, W) came of; raises ValueError where it is none of them."""
        for record in self.records:
            if samples.shape == record.samples.shape:
                difference = (samples.to(record.samples) - record.samples).square().mean()
                # The sampler's second output, the denoised latent, differs by rounding alone.
                if difference <= SAME * record.samples.square().mean().clamp_min(1e-12):
                    return record
        if self.records:
            raise ValueError(
                f"The samples are not of one of the last {REMEMBERED} runs of this Prompt-to-Prompt model, and it "
                "remembers no more: connect the latent that its sampler made, or, to look at another picture, the "
                "model as it was before Prompt-to-Prompt."
            )
        return None
