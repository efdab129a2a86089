"""Prompt-to-Prompt Image Editing with Cross Attention Control (arXiv 2208.01626): what is to happen, decided before a
run from the words alone. Row 0 of a batch is the source, the others are edits of it; `attention_control` and
`local_blend` do the work, `host/prompt_to_prompt/patch.py` brings it into the host's sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention_control import Roles
from .local_blend import heat, outline
from .pairing import Method
from .token_alignment import Alignment, Prompt, align
from .windows import WordWindow, windows_of, within

# Half of the strongest: where a smooth map has its outline.
HALF = 0.5


@dataclass(frozen=True)
class LocalBlend:
    """Local blend: columns of the chosen words for each row (the source first); from which fraction of the run on; and
    which fraction of the strongest place still counts. kept: the same for words whose place stays as it is. sources:
    columns of the source for each edit, where not all edits change the same; empty: columns[0] for all."""

    columns: tuple[tuple[int, ...], ...]
    start: float = 0.2
    threshold: float = 0.4
    kept: tuple[tuple[int, ...], ...] = ()
    sources: tuple[tuple[int, ...], ...] = ()

    def pair(self, edit: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The chosen columns of the source and of an edit, which is counted from 0."""
        return self.sources[edit] if self.sources else self.columns[0], self.columns[edit + 1]


@dataclass(frozen=True, eq=False)
class EditPlan:
    """cross_steps, self_steps: fractions (0..1) of the run's steps with the source's attention.
    self_reduction, self_cells: self-attention is kept where the map is at least so many times smaller than the latent,
    and has at most so many cells; depth: of a transformer, whose maps have one size, the fraction (0..1) of its blocks
    that are edited, from the first on. windows: (K, 2) for each edit, where words have steps of their own."""

    source: Prompt
    edits: tuple[Prompt, ...]
    alignments: tuple[Alignment, ...]
    cross_steps: float = 0.8
    self_steps: float = 0.5
    self_reduction: int = 2
    blend: LocalBlend | None = None
    depth: float = 1.0
    self_cells: int | None = None
    windows: tuple[Tensor, ...] = ()

    def alignments_at(self, step: int, steps: int) -> tuple[Alignment, ...]:
        """How the edits' attention is made in a step (from 0) of a run of `steps`; nothing where it is their own."""
        if not self.windows:
            return self.alignments if step < int(steps * self.cross_steps + 1e-6) else ()
        found = tuple(within(one, window, step, steps) for one, window in zip(self.alignments, self.windows))
        return found if any(bool(one.take.any()) for one in found) else ()

    @property
    def rows(self) -> int:
        return 1 + len(self.edits)

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return (self.source, *self.edits)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(prompt.text for prompt in self.prompts)

    def report(self) -> str:
        """A line for each row, and warnings."""
        lines = [f"row 0, the source: {self.source.text}"]
        for i, (edit, alignment) in enumerate(zip(self.edits, self.alignments)):
            lines.append(f"row {i + 1}, {alignment.describe(edit)}")
        lines += self.warnings()
        return "\n".join(lines)

    def warnings(self) -> list[str]:
        """What the artist should check before sampling."""
        found = []
        guessed = [alignment for alignment in self.alignments if alignment.guessed]
        if guessed:
            pairs = ", ".join(f"'{old}' becomes '{new}'" for alignment in guessed for old, new in alignment.swaps)
            found.append(
                "The texts have none of the English words (a, of, with, in ...) that separate phrases, so "
                f"that words were paired from the right: check that {pairs} is meant."
            )
        if self.cross_steps == 0 and any(bool((alignment.scale != 1).any()) for alignment in self.alignments):
            found.append("Weights act in the fraction of cross_steps alone, and at 0 they do nothing: raise it.")
        return found

    def masks(self, maps: Sequence[Tensor], roles: Roles, size: tuple[int, int]) -> Tensor:
        """maps: for each row of the batch (K, h, w), the run's sums -> (len(roles.rows), H, W), 1 = edit.

        A row whose words have not been seen anywhere is free everywhere, but for what is to be kept.
        """
        blend, found = self.blend, []
        assert blend is not None, "only a plan with a blend has masks"
        for row, source, which in zip(roles.rows, roles.sources, roles.which):
            both = (maps[source], maps[row])
            mask = self._place(both, blend.pair(which), size, blend.threshold)
            mask = mask if bool(mask.any()) else torch.ones_like(mask)
            if blend.kept:
                columns = (blend.kept[0], blend.kept[which + 1])
                mask = mask * (1 - self._place(both, columns, size, max(blend.threshold, HALF), kept=True))
            found.append(mask)
        return torch.stack(found)

    def _place(
        self,
        both: Sequence[Tensor],
        columns: Sequence[Sequence[int]],
        size: tuple[int, int],
        threshold: float,
        *,
        kept: bool = False,
    ) -> Tensor:
        """(H, W) mask of where the source or the edit has its words; both: their maps (K, h, w).

        kept: the thing alone and nothing around it, or what is to change would keep a rim of the old.
        """
        parts = [outline(heat(maps, words), size, threshold, grow=not kept) for maps, words in zip(both, columns)]
        return torch.maximum(*parts)


def plan_edits(
    source: Prompt,
    edits: Sequence[Prompt],
    *,
    cross_steps: float = 0.8,
    self_steps: float = 0.5,
    self_reduction: int = 2,
    blend: LocalBlend | None = None,
    pairing: Method = "by phrase",
    depth: float = 1.0,
    self_cells: int | None = None,
    word_steps: Sequence[WordWindow] = (),
    own_maps: bool = False,
) -> EditPlan:
    """own_maps: whether words that replace others keep their own attention; word_steps: windows of single words.

    Raises ValueError for an empty source, no edits, or an edit that changes nothing."""
    if not source.words:
        raise ValueError("The source text is empty: write the caption that the picture was inverted with.")
    if not edits:
        raise ValueError("There is no edited text: write one on a line of its own for each picture to make.")
    alignments = tuple(align(source, edit, pairing, own_maps=own_maps) for edit in edits)
    for number, (edit, alignment) in enumerate(zip(edits, alignments), 1):
        if not edit.words:
            raise ValueError(f"Edited text {number} is empty: write what its picture should show, or remove the line.")
        if alignment.identity:
            raise ValueError(
                f"Edited text {number} ('{edit.text}') says the same as the source: change a word, or give one a "
                "weight, as in (word:1.5)."
            )
    return EditPlan(
        source=source,
        edits=tuple(edits),
        alignments=alignments,
        cross_steps=cross_steps,
        self_steps=self_steps,
        self_reduction=self_reduction,
        blend=blend,
        depth=depth,
        self_cells=self_cells,
        windows=windows_of(edits, word_steps, cross_steps),
    )


def chosen_columns(
    prompts: Sequence[Prompt], phrases: Sequence[Prompt], *, name: str = "The blend words"
) -> tuple[tuple[int, ...], ...]:
    """For each prompt the columns of all phrases that it has.

    Raises ValueError for a phrase that none of the prompts has.
    """
    for phrase in phrases:
        if not any(prompt.find(phrase) for prompt in prompts):
            known = ", ".join(dict.fromkeys(word.text for prompt in prompts for word in prompt.words))
            wanted = phrase.text.strip()
            raise ValueError(f"{name} have '{wanted}', which is in none of the texts: choose from {known}.")
    return tuple(
        tuple(dict.fromkeys(column for phrase in phrases for column in prompt.find(phrase))) for prompt in prompts
    )


def uncovered(plan: EditPlan) -> list[int]:
    """Edits (from 1) for which local blend has no words in either text: they would be blended nowhere."""
    if plan.blend is None:
        return []
    return [i + 1 for i in range(len(plan.edits)) if not any(plan.blend.pair(i))]
