"""What has left is cut from the clean estimate where it was, and nothing else is."""

from dataclasses import replace

import torch
from palimpsest.guidance.flow.fields import Transform, transform_flow
from palimpsest.guidance.flow.warp import forward_warp, land
from palimpsest.guidance.morphology import dilate
from palimpsest.guidance.motion.ghost_removal import CAP, ghost_removal
from palimpsest.guidance.motion.guided_ddim import Guide, guided_ddim
from palimpsest.guidance.motion.loss import objective
from palimpsest.guidance.motion.recipe import DRAFT, Record

from .test_motion import ToySetting, decode

SIZE = 24


def scene(colours=(3.0, -2.0, 1.0, 2.0)):
    """A thing of one colour on a ground of zeros, moved by (10, 0); a cell is a pixel."""
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, 8:15, 3:9] = 1
    source = mask[:, None].double() * torch.tensor(colours, dtype=torch.float64)[:, None, None]
    flow = transform_flow(mask, Transform(move=(10, 0))).double()
    landing = land(flow)
    return source, flow, landing, forward_warp(source, landing, grow=1)


def test_the_thing_at_its_old_place_is_cut_to_the_cap_and_the_rest_stays():
    source, _, landing, moved = scene()
    cut = ghost_removal(source, moved, landing, 1).cut
    old, new = landing.vacated[0], landing.arrived[0]
    within = ~dilate(~landing.vacated, 1)[0]
    both = torch.where(landing.arrived[:, None], moved, source)
    result = cut(both)
    assert torch.allclose(result[0, :, within], CAP * source[0, :, within])
    # At the rim the cells beside it, which are empty, have a say.
    assert (result[0, :, old].norm(dim=0) < 0.8 * source[0, :, old].norm(dim=0)).all()
    assert torch.equal(result[0, :, new], both[0, :, new])
    assert torch.equal(cut(moved), moved) and torch.equal(cut(both, 0.0), both)


def test_a_ground_of_other_colours_is_the_models_own():
    source, _, landing, moved = scene()
    pattern = torch.tensor([1.0, 1.5, 0.0, 0.0], dtype=torch.float64)[:, None, None]
    painted = torch.where(landing.uncovered[:, None], moved + pattern, moved)
    assert torch.equal(ghost_removal(source, moved, landing, 1).cut(painted), painted)


def test_a_thing_that_hardly_differs_from_its_ground_is_no_direction():
    source, _, landing, moved = scene((0.02, 0.0, 0.0, 0.0))
    wild = torch.randn(moved.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert (ghost_removal(source, moved, landing, 1).cut(wild) - wild).abs().max() < 0.05


def test_rows_do_not_meet():
    source, _, landing, moved = scene()
    double = type(landing)(*(torch.cat([value, value]) for value in vars(landing).values()))
    batch = ghost_removal(torch.cat([source, 0 * source]), torch.cat([moved, 0 * moved]), double, 1)
    assert torch.equal(batch.cut(torch.cat([source, source]))[:1], ghost_removal(source, moved, landing, 1).cut(source))


def test_a_run_whose_model_paints_the_thing_again_leaves_the_old_place_empty():
    source, flow, landing, moved = scene()

    class Stubborn(ToySetting):
        def denoise(self, x, sigma):
            return torch.where(landing.arrived[:, None], moved, source)

    goal = objective(decode(source), flow, landing, colour=100.0, motion=3.0, grow=1)
    guide = Guide(
        goal,
        decode,
        None,
        landing.edit_mask(1)[:, None].double(),
        moved=moved,
        settled=landing.arrived[:, None].double(),
    )
    fractions, record = [], Record()
    for given in (guide, replace(guide, ghost_removal=ghost_removal(source, moved, landing, 1))):
        x = moved + 2.0 * torch.randn(moved.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        sigmas = torch.tensor([2.0, 0.8, 0.0], dtype=torch.float64)
        result = guided_ddim(x, sigmas, Stubborn(source), given, replace(DRAFT, clip=0.0), record)
        old = landing.vacated[0]
        fractions.append(float((result[0, :, old] * source[0, :, old]).sum() / source[0, :, old].square().sum()))
    assert fractions[0] > 0.9 and fractions[1] < 2 * CAP
    assert record.decoder_gradients == 0 and len(record.steps) == 4
