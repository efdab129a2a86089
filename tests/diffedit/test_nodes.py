"""The node in one process, on tiny models: what comes out, and bad input as sentences."""

import logging

import pytest
import torch
from palimpsest.host.content_cache import RESULTS
from palimpsest.host.diffedit.heat_map import Compared
from palimpsest.nodes.diffedit import DiffEditMask

from ..tiny_models import tiny_cond, tiny_latent, tiny_model

PLAIN = dict(
    seed=0,
    noises=2,
    strength=0.5,
    threshold="adaptive",
    level=0.5,
    outliers="drop the extreme noises",
    gap=1,
    fill_holes=True,
    parts=0,
    complement=False,
    grow=0,
    soft_edge=8,
)


@pytest.fixture(autouse=True)
def inference():
    RESULTS.clear()
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def model():
    return tiny_model("sd1")


def found(model, *, reference=None, query=None, latent=None, **changes):
    reference = tiny_cond("sd1", seed=1) if reference is None else reference
    query = tiny_cond("sd1", seed=2) if query is None else query
    latent = {"samples": tiny_latent("sd1")} if latent is None else latent
    return DiffEditMask.execute(model, reference, query, latent, **{**PLAIN, **changes}).args[:4]


def test_what_comes_out(model):
    latent = {"samples": tiny_latent("sd1", batch=2, size=(8, 12))}
    mask, heat, soft, note = found(model, latent=latent)
    assert mask.shape == soft.shape == (2, 64, 96) and heat.shape == (2, 64, 96, 3)
    assert set(mask.unique().tolist()) == {0.0, 1.0} and (soft >= mask).all()
    assert float(heat.min()) >= 0 and float(heat.max()) <= 1 and torch.equal(heat[..., 0], heat[..., 2])
    assert "8 samples of the network" in note and note.count("of the area") == 2


def test_an_odd_picture_s_mask_has_its_size(model):
    picture = torch.zeros(1, 67, 70, 3)
    mask, heat, soft, _ = found(model, picture=picture)
    assert mask.shape == soft.shape == heat.shape[:3] == (1, 67, 70)
    assert torch.equal(mask[:, 1:65, 3:67], found(model)[0])
    with pytest.raises(ValueError, match="The picture is 90 x 64"):
        found(model, picture=torch.zeros(1, 64, 90, 3))


def test_the_complement(model):
    whole = found(model)[0] + found(model, complement=True)[0]
    assert float((whole == 1).float().mean()) > 0.95


def test_a_picture_s_mask_does_not_depend_on_its_batch(model):
    latent = tiny_latent("sd1", batch=3)
    together = found(model, latent={"samples": latent})[0]
    for i in range(3):
        alone = found(model, latent={"samples": latent[i : i + 1], "batch_index": [i]})[0]
        assert torch.equal(alone[0], together[i])


def test_a_batch_of_prompts_on_one_picture(model):
    queries = tiny_cond("sd1", batch=3, seed=2)
    mask, _, _, note = found(model, query=queries)
    assert mask.shape == (3, 64, 64) and "12 samples" in note
    alone = found(model, query=[[queries[0][0][2:], {}]])[0]
    assert torch.equal(alone[0], mask[2])
    with pytest.raises(ValueError, match="2 pictures and 3 prompts"):
        found(model, query=queries, latent={"samples": tiny_latent("sd1", batch=2)})


def test_inputs_stay_as_they_are(model):
    latent, query = {"samples": tiny_latent("sd1"), "type": "kept"}, tiny_cond("sd1", seed=2)
    kept, words = latent["samples"].clone(), query[0][0].clone()
    found(model, latent=latent, query=query)
    assert torch.equal(latent["samples"], kept) and torch.equal(query[0][0], words)
    assert set(latent) == {"samples", "type"}
    assert not model.wrappers and model.model_options == {"transformer_options": {}}


def test_equal_prompts_are_refused_before_any_work(model):
    with pytest.raises(ValueError, match="The reference and the query prompt are the same"):
        found(model, query=tiny_cond("sd1", seed=1))
    assert len(RESULTS) == 0


def test_an_equal_pair_within_a_batch_gets_an_empty_mask_and_a_warning(model, caplog):
    reference = tiny_cond("sd1", seed=1)
    query = [[torch.cat((reference[0][0], tiny_cond("sd1", seed=2)[0][0])), {}]]
    with caplog.at_level(logging.WARNING):
        mask, _, _, note = found(model, reference=reference, query=query, complement=True)
    assert not mask[0].any() and mask[1].any()
    assert "Picture 0: The reference and the query prompt are the same" in note and note.splitlines()[2] in caplog.text


def test_an_empty_mask_is_named(model, caplog):
    with caplog.at_level(logging.WARNING):
        mask, _, soft, note = found(model, grow=-200)
    assert not mask.any() and not soft.any()
    assert "The mask of picture 0 is empty" in note and "The mask of picture 0 is empty" in caplog.text


def test_nothing_found_is_no_reason_to_change_all(model):
    mask, _, soft, note = found(model, threshold="fixed", level=1.0, complement=True)
    assert not mask.any() and not soft.any() and "The mask of picture 0 is empty" in note


def test_texts_that_hardly_differ_are_doubted(model, caplog):
    reference = tiny_cond("sd1", seed=1)
    query = [[torch.lerp(reference[0][0], tiny_cond("sd1", seed=2)[0][0], 0.002), {}]]
    with caplog.at_level(logging.WARNING):
        note = found(model, reference=reference, query=query)[3]
    assert "hardly differ to the model on picture 0" in note and "hardly differ" in caplog.text
    assert "hardly differ" not in found(model)[3]


def test_a_map_that_other_noises_would_not_give_is_doubted(model, monkeypatch):
    maps = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    found_ = Compared(maps, torch.zeros(1, 4, 8, 8), 8)
    monkeypatch.setattr("palimpsest.nodes.diffedit.compare", lambda *_: found_)
    assert "The map of picture 0 depends on the noises" in found(model, noises=4)[3]


def test_a_map_without_two_levels_is_named(model, monkeypatch, caplog):
    """All noises agree on a map of one population; a clear thing in it is two levels."""
    rough = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(3)).expand(4, -1, -1, -1)
    latent = {"samples": tiny_latent("sd1", size=(16, 16))}

    def note(maps, **changes):
        monkeypatch.setattr(
            "palimpsest.nodes.diffedit.compare", lambda *_: Compared(maps, torch.zeros(1, 4, 16, 16), 8)
        )
        return found(model, noises=4, latent=latent, **changes)[3]

    said = "The map of picture 0 has no two levels"
    with caplog.at_level(logging.WARNING):
        assert said in note(1 + 0.2 * rough) and said in caplog.text
    assert said not in note(1 + 0.2 * rough, threshold="fixed")
    clear = 1 + 0.2 * rough
    clear[..., 4:8, 4:8] *= 4
    assert said not in note(clear)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strength": 0.0}, "leaves no noise"),
        ({"strength": 1.0}, "leaves no picture"),
        ({"latent": {"samples": torch.zeros(1, 16, 8, 8)}}, "16 channels"),
        ({"latent": {"samples": torch.full((1, 4, 8, 8), float("nan"))}}, "not numbers"),
        ({"reference": []}, "The reference prompt is empty"),
        ({"query": []}, "The query prompt is empty"),
        ({"reference_negative": tiny_cond("sd1", seed=3)}, "'query_negative' is not connected"),
    ],
)
def test_bad_input_gets_a_sentence(model, changes, words):
    with pytest.raises(ValueError, match=words):
        found(model, **changes)


def test_a_model_that_overflows_gets_a_sentence(model):
    broken = model.clone()
    run = lambda apply, args: apply(args["input"], args["timestep"], **args["c"])
    broken.set_model_unet_function_wrapper(lambda apply, args: run(apply, args) * torch.nan)
    with pytest.raises(ValueError, match="not numbers"):
        found(broken)
