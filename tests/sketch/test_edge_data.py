"""Pictures and edges on their way to the training: pairs, sizes, prompts."""

from dataclasses import replace

import pytest
import torch
from palimpsest.guidance.sketch.predictor import PredictorSpec
from palimpsest.host.sketch.examples import in_order, make_examples, require_plain_prompt, single_pictures, together
from palimpsest.host.sketch.training import LevelRange, new_spec
from palimpsest.nodes.sketch_train import continued
from palimpsest.tests.tiny_models import tiny_cond, tiny_model, tiny_vae


@pytest.fixture(scope="module")
def model():
    with torch.inference_mode():
        return tiny_model("sd1"), tiny_vae()


def pair(place: int, side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright square on dark ground, and its outline."""
    picture, edges = torch.full((1, side, side, 3), 0.2), torch.zeros(1, side, side, 3)
    a, b = slice(8 + place, 30 + place), slice(12, 40)
    picture[:, a, b] = 0.8
    edges[:, a, b] = 1.0
    edges[:, 9 + place : 29 + place, 13:39] = 0.0
    return picture, edges


def examples(model, places=(0, 6, 12), *, edges=None, prompts=1, flips=False, **spec):
    levels = LevelRange(model[0].get_model_object("model_sampling"), 0.0, 0.8)
    pairs = [pair(place) for place in places]
    drawn = [e for _, e in pairs] if edges is None else edges
    made = new_spec(model[0], levels, **{"detail": 2, **spec})
    with torch.inference_mode():
        return make_examples(*model, made, [p for p, _ in pairs], drawn, prompts, flips=flips)


def test_a_picture_becomes_a_latent_and_a_target(model):
    found = examples(model)
    assert [e.picture for e in found] == [0, 1, 2] and all(e.prompt == 0 for e in found)
    assert found[0].latent.shape == (4, 8, 8) and found[0].target.shape == (1, 16, 16)
    assert 0.3 < float(found[0].target.max()) <= 1


def test_mirrored_pictures_bring_their_own_latents_and_mirrored_targets(model):
    found = examples(model, flips=True, prompts=3)
    assert [e.picture for e in found] == [0, 0, 1, 1, 2, 2] and [e.prompt for e in found] == [0, 0, 1, 1, 2, 2]
    assert torch.allclose(found[0].target.flip(-1), found[1].target, atol=1e-5)
    assert not torch.allclose(found[0].latent.flip(-1), found[1].latent, atol=1e-3)


def test_digests_know_pictures_edges_and_prompts_again(model):
    contents = [[e.content for e in examples(model, places)] for places in ((0, 6), (0, 6), (6, 12))]
    assert contents[0] == contents[1] and contents[0][1] == contents[2][0]
    assert len({*contents[0], *contents[2]}) == 3
    lines = [edges.roll(2, 1) for edges in (pair(0)[1], pair(6)[1])]
    assert not {e.content for e in examples(model, (0, 6), edges=lines)} & {*contents[0]}


def test_a_training_that_goes_on_keeps_its_layers_and_covers_the_levels_of_both(caplog):
    start = PredictorSpec("sd1", "SD15", ("a",), (4,), widths=(16,), sigma_low=0.5, sigma_high=10.0)
    asked = replace(start, sigma_low=0.1, sigma_high=5.0)
    made = continued(start, asked)
    assert (made.sigma_low, made.sigma_high) == (0.1, 10.0) and not caplog.records
    assert continued(start, replace(asked, detail=4)).detail == start.detail
    assert "keeps its own target, detail and width" in caplog.text


def test_encoded_edges(model):
    assert examples(model, target="latent", detail=1)[0].target.shape == (4, 8, 8)


def test_the_levels_run_from_pure_noise_to_the_fraction_asked_for(model):
    sampling = model[0].get_model_object("model_sampling")
    levels = LevelRange(sampling, 0.0, 0.5)
    low, high = levels.bounds
    assert high == pytest.approx(float(sampling.sigma_max), rel=1e-4)
    assert low == pytest.approx(float(sampling.percent_to_sigma(0.5)), rel=1e-2)
    fractions = levels.sigmas(torch.linspace(0, 1, 5))
    assert bool((fractions[1:] < fractions[:-1]).all())


def test_lists_and_batches_become_single_pictures_of_whole_latents():
    found = single_pictures([torch.rand(2, 67, 70, 4), torch.rand(1, 32, 40, 3)], "The pictures")
    assert [tuple(p.shape) for p in found] == [(1, 64, 64, 3), (1, 64, 64, 3), (1, 32, 40, 3)]
    with pytest.raises(ValueError, match="too small"):
        single_pictures([torch.rand(1, 7, 64, 3)], "The pictures")
    with pytest.raises(ValueError, match="not numbers"):
        single_pictures([torch.full((1, 64, 64, 3), float("nan"))], "The pictures")


def test_the_default_width_is_the_papers():
    from palimpsest.guidance.sketch.predictor import WIDTHS
    from palimpsest.nodes.sketch_train import widths

    assert widths(512) == WIDTHS and widths(256) == (256, 128, 64, 32)


def test_edges_in_another_order_are_noticed():
    pairs = [pair(place) for place in (0, 6, 12, 18)]
    pictures, lines = [p for p, _ in pairs], [e[..., 0] > 0.5 for _, e in pairs]
    assert in_order(pictures, lines) and not in_order(pictures, [*lines[1:], lines[0]])
    assert not in_order(pictures, [lines[2], lines[1], lines[3], lines[0]])
    assert in_order(pictures[:1], lines[:1])


@pytest.mark.parametrize(
    "edges,message",
    [
        ([torch.zeros(1, 64, 64, 3)] * 3, "Edge picture 1 is blank"),
        ([torch.rand(1, 64, 64, 3)] * 2, "3 pictures and 2 edge pictures"),
        ([torch.rand(1, 64, 72, 3)] * 3, "is 64 x 64 and its edge picture 72 x 64"),
    ],
)
def test_what_does_not_pair_is_a_sentence(model, edges, message):
    with pytest.raises(ValueError, match=message):
        examples(model, edges=edges)


def test_the_number_of_prompts_is_checked(model):
    with pytest.raises(ValueError, match="2 conditionings for 3 pictures"):
        examples(model, prompts=2)


def test_prompts_of_different_lengths_go_into_one_batch_as_in_the_host():
    short, long = tiny_cond("sdxl"), tiny_cond("sdxl", seed=3)
    long = [[torch.cat([long[0][0]] * 2, 1), long[0][1]]]
    rows = together([short, long, short])
    tokens, options = rows[0]
    assert tokens.shape[:2] == (3, 14) and options["pooled_output"].shape[0] == 3
    assert torch.equal(tokens[0], short[0][0].repeat(1, 2, 1)[0]) and torch.equal(tokens[1], long[0][0][0])
    assert torch.equal(options["pooled_output"][1], long[0][1]["pooled_output"][0])


@pytest.mark.parametrize(
    "prompt,message",
    [
        ([*tiny_cond("sd1"), *tiny_cond("sd1", seed=1)], "of several parts"),
        ([[tiny_cond("sd1")[0][0], {"area": (8, 8, 0, 0)}]], "with area"),
        ([], "is empty"),
    ],
)
def test_only_plain_prompts_are_learned_from(prompt, message):
    with pytest.raises(ValueError, match=message):
        require_plain_prompt(prompt, "The conditioning")


@pytest.mark.parametrize("checks", [1, 10])
def test_looking_at_the_edges_can_be_interrupted(model, monkeypatch, checks):
    """Before the first picture is encoded: reading lines and comparing pictures takes as long."""
    left = iter(range(checks))

    def check():
        if next(left, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr("palimpsest.host.sketch.examples.check_interrupt", check)
    monkeypatch.setattr("palimpsest.host.sketch.examples._encoded", lambda *_: pytest.fail("went on"))
    with pytest.raises(KeyboardInterrupt):
        examples(model)
