"""Best Seed's parts: which levels it looks at, how it compares, and how it ranks."""

import pytest
import torch
from palimpsest.guidance.best_seed import cheap_levels, flow_distance, ranking, sketch_distance
from palimpsest.guidance.sketch.guidance import sketch_target
from palimpsest.guidance.sketch.predictor import PredictorSpec
from palimpsest.nodes.best_seed import BestSeed
from palimpsest.tests.sketch.fixtures import drawing, tiny_predictor
from palimpsest.tests.tiny_models import tiny_cond, tiny_latent, tiny_model, tiny_vae

SIGMAS = torch.tensor([14.6, 9.0, 6.0, 4.0, 2.5, 1.5, 0.8, 0.3, 0.0])


@pytest.mark.parametrize(
    "steps,lowest,found",
    [(3, 2.5, [14.6, 9, 4, 2.5]), (8, 2.5, [14.6, 9, 6, 4, 2.5]), (1, 2.5, [14.6, 2.5]), (2, 14.6, [14.6, 9])],
)
def test_a_few_levels_from_the_first_to_where_the_composition_stands(steps, lowest, found):
    assert cheap_levels(SIGMAS, steps, lowest).tolist() == pytest.approx(found)


def test_a_schedule_that_starts_too_late_is_a_sentence():
    with pytest.raises(ValueError, match="full denoise"):
        cheap_levels(SIGMAS[5:], 3, 4.0)


def test_sketches_of_any_length_compare():
    """The distance is a mean over what counts: the same misfit twice as long is as far away."""
    spec = PredictorSpec("sd1", "SD15", ("a",), (4,), detail=1)
    lines = torch.zeros(2, 64, 64, dtype=torch.bool)
    lines[0, 16, :], lines[1, 16, :], lines[1, 48, :] = True, True, True
    target = sketch_target(spec, lines, lines.float(), (8, 8), one_sided=1.0)
    blank = torch.full((2, 1, 8, 8), -4.0)
    distance = sketch_distance(blank, target)
    assert float(distance[0]) == pytest.approx(float(distance[1]), rel=1e-3) and float(distance[0]) > 0.5


def test_the_candidate_that_moved_with_the_flow_is_nearest():
    source = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    flow = torch.zeros(1, 16, 16, 2)
    flow[..., 0] = 4
    candidates = torch.cat((source, source.roll(4, -1), source.roll(-4, -1)))
    distance = flow_distance(candidates, source, flow)
    assert int(distance.argmin()) == 1 and float(distance[1]) < 1e-4 < float(distance[0])


def test_the_first_of_equals_comes_first_and_what_is_no_number_last():
    assert ranking(torch.tensor([2.0, float("nan"), 1.0, 1.0])) == [2, 3, 0, 1]
    with pytest.raises(ValueError, match="No seed could be scored"):
        ranking(torch.full((3,), float("nan")))


def test_seeds_are_judged_by_a_flow_of_the_source():
    """Both noises of a batch of candidates are the host's own; the report names them in the order of their distance."""
    with torch.inference_mode():
        model, vae = tiny_model("sd1"), tiny_vae()
        source = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
        flow = torch.zeros(1, 64, 64, 2)
        flow[..., 0] = 8
        out = BestSeed.execute(
            model,
            tiny_cond("sd1"),
            {"samples": torch.zeros_like(tiny_latent("sd1"))},
            SIGMAS,
            seed=3,
            candidates=4,
            steps=2,
            cfg=2.0,
            negative=tiny_cond("sd1", seed=1),
            flow=flow,
            source=source,
            vae=vae,
        )
        with pytest.raises(ValueError, match="connect the source picture"):
            BestSeed.execute(model, tiny_cond("sd1"), {"samples": tiny_latent("sd1")}, SIGMAS, cfg=1.0, flow=flow)
    noise, best, drafts, report = out.args
    scores = [float(line.split(":")[1]) for line in report.splitlines()]
    assert noise.seed == best == int(report.split(":")[0].split()[1]) and scores == sorted(scores)
    assert drafts["samples"].shape == (4, 4, 8, 8) and best in range(3, 7)


def test_blank_paper_always_counts_a_little_when_seeds_are_compared():
    """By the strokes alone, seeds that draw something everywhere would win."""
    with torch.inference_mode():
        model = tiny_model("sd1")
        sketch = drawing().lines.float()[..., None].expand(-1, -1, -1, 3)

        def report(unfinished):
            return BestSeed.execute(
                model,
                tiny_cond("sd1"),
                {"samples": torch.zeros_like(tiny_latent("sd1"))},
                SIGMAS,
                candidates=2,
                steps=2,
                cfg=1.0,
                edge_predictor=tiny_predictor(model),
                sketch=sketch,
                unfinished=unfinished,
            ).args[3]

        assert report(1.0) == report(0.9) != report(0.5)
