"""Papercut edits by the pack's DiffEdit, diffusers' pipeline and SDEdit, all on one file of weights.

Masks and costs are measured in float32; `batch_edits.py` makes hundreds of edits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from ...guidance.diffedit.heat_map import DRAFTS, HEAD_START, heat_map, new_shape, off_ground
from ...guidance.diffedit.masks import Frame, MaskRecipe, find, finish, roomy, to_size
from ...guidance.morphology import grow, soften
from ...papercut.scenes import SIZE
from .diffusers_baseline import their_edit, their_mask
from .fixtures import Fixtures

if TYPE_CHECKING:
    from ...inversion.trajectory import Trajectory

NOISES, STRENGTH = 10, 0.5
STEPS, DEPTH, GROW, CFG = 20, 0.65, 6, 7.5  # the blueprint's; the CFG is diffusers' too
OURS = MaskRecipe()
ROOMY = MaskRecipe(room=0.2)  # the blueprint's: for edits, which need room where masks are to be exact
BARE = MaskRecipe(outliers="none", threshold="1.5 x mean", gap=0, fill_holes=False)  # diffusers'
THEIR_STRENGTH = 481 / 999  # the step that diffusers takes for its 0.5
FRAME = Frame(SIZE, SIZE)


# Masks


class Scores(NamedTuple):
    """(B,) each, of masks (B, 256, 256) against the truth."""

    iou: Tensor
    recall: Tensor


def scored(masks: Tensor, fixtures: Fixtures) -> Scores:
    truth = torch.stack([edit.mask for edit in fixtures.edits])
    both = (masks & truth).sum((1, 2)).float()
    return Scores(both / (masks | truth).sum((1, 2)), both / truth.sum((1, 2)))


def our_search(
    fixtures: Fixtures,
    strength: float = STRENGTH,
    noises: int = NOISES,
    *,
    queries: Tensor | None = None,
    references: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The maps of single noises (n, B, 32, 32) and the changes (B, 4, 32, 32) that are found with them.

    queries, references: (B, 77, 192) or one for all; the asked ones and the captions where there are none. What the
    references predict is remembered by the node's own store, as in an artist's session.
    """
    from ...host.diffedit.heat_map import MapRecipe, Prompts, compare

    queries, found = fixtures.asked if queries is None else queries, []
    references = fixtures.before if references is None else references
    for rows, part in fixtures.batches():
        old, new = (texts if texts.shape[0] == 1 else texts[rows] for texts in (references, queries))
        items = list(range(rows.start, rows.stop))
        recipe = MapRecipe(noises=noises, strength=strength)
        found.append(compare(part.model, Prompts([[old, {}]], [[new, {}]]), part.latents, recipe, items))
    return torch.cat([one.maps for one in found], 1), torch.cat([one.change for one in found])


def our_masks(fixtures: Fixtures, maps: Tensor, recipe: MaskRecipe = OURS, *, complement: bool = True) -> Tensor:
    """(B, 256, 256) bool; for a new ground what was not found, unless its own words were asked (`complement` False)."""
    small, _ = find(heat_map(maps, trim=recipe.trims), recipe)
    turned = (fixtures.grounds & complement)[:, None, None]
    return finish(small ^ turned, FRAME, recipe)[0].bool()


class Place(NamedTuple):
    """What an edit takes from DiffEdit Mask. masks: (B, 256, 256) bool. changes: (B, 4, 32, 32), 0 for a new ground."""

    masks: Tensor
    changes: Tensor


def our_places(fixtures: Fixtures, maps: Tensor, changes: Tensor, recipe: MaskRecipe = ROOMY) -> Place:
    """As the node gives them."""
    small, _ = find(heat_map(maps, trim=recipe.trims), recipe)
    turned = fixtures.grounds[:, None, None]
    moved = off_ground(changes, small & ~turned, fixtures.model.model.process_latent_in(fixtures.latents))
    masks = finish(roomy(small ^ turned, new_shape(moved), recipe), FRAME, recipe)[0].bool()
    return Place(masks, moved)


def baseline_masks(fixtures: Fixtures) -> Tensor:
    """diffusers' `generate_mask` for each edit, alone, as a batch would mix their thresholds: (B, 32, 32) bool."""
    made = []
    for i in range(len(fixtures.edits)):
        one = fixtures.part(slice(i, i + 1))
        unit = one.model.model.process_latent_in(one.latents)
        made.append(their_mask(one.pipeline, unit, one.before, one.after, one.empty, seed=i))
    return torch.cat(made)


def faithful_masks(fixtures: Fixtures) -> Tensor:
    """(B, 32, 32) bool: diffusers' rule on our maps with diffusers' own noises, at its noise level."""
    from ...host.diffedit import heat_map as on_host

    made = []
    for i in range(len(fixtures.edits)):
        one, generator = fixtures.part(slice(i, i + 1)), torch.Generator().manual_seed(i)
        noises = torch.randn(NOISES, *one.latents.shape[1:], generator=generator)[:, None]
        with patch.object(on_host, "item_noises", lambda *_, noises=noises: noises):
            on_host.RESULTS.clear()
            maps, _ = our_search(one, THEIR_STRENGTH, queries=one.after)
        made.append(find(heat_map(maps), BARE)[0])
    on_host.RESULTS.clear()
    return torch.cat(made)


def enlarged(small: Tensor) -> Tensor:
    """Masks (B, 32, 32) bool at the size of the picture."""
    return to_size(small.float(), FRAME) > 0.5


# Edits


class Edited(NamedTuple):
    """pictures: (B, 256, 256, 3). soft: (B, 256, 256), what the mask lets through."""

    pictures: Tensor
    soft: Tensor


def inverted(fixtures: Fixtures, depth: float = DEPTH, *, named: bool = False) -> Trajectory:
    """All pictures up to `depth` at CFG 1, with the empty text as in the paper, or with captions."""
    from ...nodes.inversion import DDIMInvert

    text = [[fixtures.before if named else fixtures.empty, {}]]
    return DDIMInvert.execute(
        fixtures.model, {"samples": fixtures.latents}, schedule(fixtures, depth), positive=text
    ).args[0]


def anchored_edit(
    fixtures: Fixtures,
    masks: Tensor,
    changes: Tensor | None,
    trajectory: Trajectory,
    depth: float = DEPTH,
    *,
    fresh: bool = False,
    wider: int = GROW,
    cfg: float = CFG,
    drafts: int = DRAFTS,
) -> Edited:
    """Anchored sampling and pasting, as in the blueprint. masks: (B, 256, 256) bool, which are made wider by so many
    pixels. changes: (B, 4, 32, 32), along which the edit gets its head start; None: none, as in the paper. fresh:
    within the mask sampling starts from the picture under fresh noise, and not from the inverted one. drafts: of new
    shapes."""
    from ...guidance.anchor import Anchor
    from ...host.diffedit.head_start import with_head_start
    from ...host.inversion.anchor import anchored

    hard = grow(masks.float(), wider)
    soft = soften(hard, OURS.soft_edge)
    anchored_model = anchored(fixtures.model, Anchor(trajectory, hard), start_from_source=not fresh)
    if changes is not None:
        anchored_model = with_head_start(anchored_model, changes, HEAD_START, drafts=drafts)
    return Edited(
        pasted(fixtures.pictures, decoded(fixtures, _sample(anchored_model, fixtures, depth, cfg)), soft), soft
    )


def pasted(pictures: Tensor, made: Tensor, soft: Tensor) -> Tensor:
    """The host's own Image Composite Masked, as in the blueprint and in the example workflows."""
    from comfy_extras.nodes_mask import ImageCompositeMasked

    return ImageCompositeMasked.execute(pictures, made, 0, 0, False, soft).args[0]


def decoded(fixtures: Fixtures, latents: Tensor) -> Tensor:
    """(B, 256, 256, 3), by two, which is quicker on a CPU than all at once."""
    return torch.cat([fixtures.vae.decode(some) for some in latents.split(2)])


def whole_edit(fixtures: Fixtures) -> Edited:
    """All of the blueprint, from picture to picture: encoding, map, mask, inversion, anchored sampling, pasting."""
    fixtures = fixtures._replace(latents=fixtures.vae.encode(fixtures.pictures))
    return anchored_edit(fixtures, *fresh_mask(fixtures), inverted(fixtures))


def fresh_mask(fixtures: Fixtures) -> Place:
    """The masks and changes, with nothing remembered from before."""
    from ...host.content_cache import RESULTS

    RESULTS.clear()
    return our_places(fixtures, *our_search(fixtures))


def sdedit(fixtures: Fixtures, depth: float = DEPTH, seed: int = 0) -> Tensor:
    """Noise, and sampling with the new caption, by the stock KSampler with this denoise (arXiv 2108.01073): pictures
    (B, 256, 256, 3)."""
    import comfy.utils

    from nodes import KSampler

    texts, latent = ([[fixtures.after, {}]], [[fixtures.empty, {}]]), {"samples": fixtures.latents}
    steps = round(STEPS * depth)
    with patch.object(comfy.utils, "PROGRESS_BAR_ENABLED", False):
        (made,) = KSampler().sample(fixtures.model, seed, steps, CFG, "euler", "normal", *texts, latent, depth)
    return decoded(fixtures, made["samples"])


def baseline_edit(fixtures: Fixtures, masks: Tensor) -> Tensor:
    """diffusers' inversion and decode with their defaults: pictures (B, 256, 256, 3). masks: (B, 32, 32)."""
    unit = fixtures.model.model.process_latent_in(fixtures.latents)
    made = their_edit(fixtures.pipeline, unit, masks, fixtures.before, fixtures.after, fixtures.empty, CFG)
    return torch.cat([fixtures.reference.pictures(some) for some in made.split(2)]).movedim(1, -1)


def whole_baseline_edit(fixtures: Fixtures) -> Tensor:
    """diffusers' three calls for one edit, from picture to picture."""
    picture, texts = fixtures.pictures.movedim(-1, 1), (fixtures.before, fixtures.after, fixtures.empty)
    mask = their_mask(fixtures.pipeline, picture, *texts, seed=0)
    made = their_edit(fixtures.pipeline, picture, mask, *texts, CFG)
    return fixtures.reference.pictures(made).movedim(1, -1)


def schedule(fixtures: Fixtures, depth: float) -> Tensor:
    """The low part of the STEPS levels that BasicScheduler gives."""
    from comfy_extras.nodes_custom_sampler import BasicScheduler

    return BasicScheduler.execute(fixtures.model, "normal", round(STEPS * depth), depth).args[0]


def _sample(model, fixtures: Fixtures, depth: float, cfg: float) -> Tensor:
    import comfy.sample
    import comfy.samplers

    return comfy.sample.sample_custom(
        model,
        comfy.sample.prepare_noise(fixtures.latents, 0),
        cfg,
        comfy.samplers.sampler_object("euler"),
        schedule(fixtures, depth),
        [[fixtures.after, {}]],
        [[fixtures.empty, {}]],
        fixtures.latents,
        disable_pbar=True,
        seed=0,
    )
