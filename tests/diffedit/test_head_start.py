"""The change that is found with the mask, and sampling runs that start some way along it."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from palimpsest.guidance.anchor import Anchor
from palimpsest.guidance.diffedit.heat_map import change, differences, evenness, new_shape, off_ground
from palimpsest.host.content_cache import RESULTS
from palimpsest.host.diffedit.head_start import with_head_start
from palimpsest.host.diffedit.heat_map import MapRecipe, Prompts, compare
from palimpsest.host.inversion.anchor import anchored
from palimpsest.inversion.trajectory import Trajectory
from palimpsest.nodes.diffedit import DiffEditMask
from palimpsest.nodes.diffedit_head_start import DiffEditHeadStart

from ..tiny_models import tiny_cond, tiny_latent, tiny_model


@pytest.fixture(autouse=True)
def inference():
    RESULTS.clear()
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def models():
    return {family: tiny_model(family) for family in ("sd1", "sd3")}


def levels(model, steps):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)


def run(model, family, noise, latent, sigmas=None, seed=0):
    sigmas = levels(model, 6)[3:] if sigmas is None else sigmas
    euler, conds = comfy.samplers.sampler_object("euler"), (tiny_cond(family, seed=1), tiny_cond(family, seed=2))
    return comfy.sample.sample_custom(model, noise, 2.0, euler, sigmas, *conds, latent, disable_pbar=True, seed=seed)


def test_the_change_is_the_mean_of_the_signed_differences():
    """Predictions of one noise minus those of another, known to the last bit; its size is that of the map."""
    generator = torch.Generator().manual_seed(0)
    eps_query, eps_reference = torch.randn(2, 5, 2, 4, 6, 6, generator=generator)
    x, sigma = torch.randn(5, 2, 4, 6, 6, generator=generator), 1.7
    found = change(x - sigma * eps_query, x - sigma * eps_reference, sigma)
    torch.testing.assert_close(found, (eps_reference - eps_query).mean(0), atol=1e-5, rtol=1e-4)
    one = slice(0, 1)
    map_ = differences(x[one] - sigma * eps_query[one], x[one] - sigma * eps_reference[one], sigma)[0]
    single = change(x[one] - sigma * eps_query[one], x[one] - sigma * eps_reference[one], sigma)
    torch.testing.assert_close(single.abs().mean(1), map_, atol=1e-5, rtol=1e-4)


@pytest.fixture
def object_on_ground():
    """Zeros on a ground of 2 in the first of two channels, which is the way to it; nothing is marked in the third."""
    mask = torch.zeros(3, 16, 16, dtype=torch.bool)
    mask[:2, 4:10, 4:10] = True
    latent = torch.zeros(3, 2, 16, 16)
    latent[:, 0] = torch.where(mask, 0.0, 2.0)
    return mask, latent


def test_an_even_change_keeps_off_the_ground_and_goes_everywhere_else(object_on_ground):
    mask, latent = object_on_ground
    changes = torch.tensor([[3.0, -4.0], [-3.0, 1.0], [1.0, 1.0]])[:, :, None, None].expand(3, 2, 16, 16)
    found = off_ground(changes, mask, latent)
    assert not found.movedim(1, -1)[~mask].any()
    assert found[0, :, 7, 7].tolist() == [0.0, -4.0] and found[1, :, 7, 7].tolist() == [-3.0, 1.0]
    assert torch.equal(off_ground(changes, torch.ones_like(mask), latent), changes)  # no ground to be seen
    far = latent.clone()
    far[:, 0, 15] = 50.0  # beyond the ring round the object
    assert torch.equal(off_ground(changes, mask, far), off_ground(changes, mask, latent))
    alone = torch.cat([off_ground(*(one[i : i + 1] for one in (changes, mask, latent))) for i in range(3)])
    assert torch.equal(alone, found)


def test_an_uneven_change_may_lead_to_the_ground(object_on_ground):
    """Half of the object to the ground and half away from it, as where a shape moves: no part of that is the mean."""
    mask, latent = object_on_ground
    changes = torch.zeros(3, 2, 16, 16)
    changes[:, 0, :, :7], changes[:, 0, :, 7:] = 3.0, -3.0
    marked = mask[:, None].float()
    assert torch.equal(off_ground(changes, mask, latent), changes * marked)
    assert not evenness(changes, marked).any() and evenness(changes.abs(), marked).flatten().tolist() == [1, 1, 0]
    shifted = changes + 1.0  # mean energy 2 (one in each channel) of 11
    assert evenness(shifted, marked)[:2].flatten().tolist() == pytest.approx([2 / 11] * 2)


def test_a_shape_comes_in_where_another_leaves():
    """Next to nothing of its change is the mean; of a colour's much is, of nothing there is none."""
    changes = torch.zeros(3, 2, 8, 8)
    changes[0, :, 2:6, 2:4], changes[0, :, 2:6, 4:6] = 1.0, -1.1
    changes[1, 0, 2:6, 2:6] = 1.0
    assert new_shape(changes).tolist() == [True, False, False]
    assert new_shape(changes[:1] + 0.5 * (changes[:1] != 0)).tolist() == [False]


@pytest.mark.parametrize(("said", "found"), [("yes", [True, True, False]), ("no", [False] * 3)])
def test_the_artist_may_say_whether_the_shape_changes(said, found):
    """Where nothing changes no shape does."""
    changes = torch.zeros(3, 2, 8, 8)
    changes[0, :, 2:6, 2:4], changes[0, :, 2:6, 4:6] = 1.0, -1.1
    changes[1, 0, 2:6, 2:6] = 1.0
    assert new_shape(changes, said).tolist() == found


def test_a_known_new_shape_may_lead_to_the_ground(object_on_ground):
    mask, latent = object_on_ground
    changes = torch.tensor([3.0, -4.0])[None, :, None, None].expand(3, 2, 16, 16)
    assert torch.equal(off_ground(changes, mask, latent, "yes"), changes * mask[:, None])
    assert torch.equal(off_ground(changes, mask, latent, "no"), off_ground(changes, mask, latent))


@pytest.mark.parametrize(("said", "drafted"), [("detect", 1), ("yes", 1), ("no", 0)])
def test_drafts_are_made_where_the_shape_changes(models, said, drafted):
    model, latent = models["sd1"], tiny_latent("sd1")
    calls = []

    def spy(executor, x, timestep, *args, **kwargs):
        calls.append(float(timestep[0]))
        return executor(x, timestep, *args, **kwargs)

    spied = model.clone()
    spied.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "spy", spy)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(5))
    (guided,) = DiffEditHeadStart.execute(spied, {"samples": shaped_change(latent)}, 3.0, 1, said).args
    run(guided, "sd1", noise, latent)
    assert calls.count(calls[0]) == 1 + drafted


def shaped_change(latent, seed=4):
    """A change whose mean is zero, so that it counts as a new shape's."""
    found = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    return found - found.mean((2, 3), keepdim=True)


@pytest.mark.parametrize("family", ["sd1", "sd3"])
@pytest.mark.parametrize("drafts", [1, 2])
def test_a_new_shape_starts_from_its_draft_under_fresh_noise(models, family, drafts):
    """The first calls see the plain start and the drafts; the run begins as one whose picture is the last draft."""
    model, latent = models[family], tiny_latent(family)
    moved, noise = shaped_change(latent), torch.randn(latent.shape, generator=torch.Generator().manual_seed(5))
    calls = []

    def spy(executor, x, timestep, *args, **kwargs):
        calls.append((x.clone(), float(timestep[0]), executor(x, timestep, *args, **kwargs)))
        return calls[-1][2]

    spied = model.clone()
    spied.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "spy", spy)
    plain = run(with_head_start(spied, moved, 3.0), family, noise, latent)
    steps, start = len(calls), calls[0][0]
    calls.clear()
    made = run(with_head_start(spied, moved, 3.0, drafts=drafts), family, noise, latent)
    assert len(calls) == steps + drafts and torch.equal(calls[0][0], start)
    for number in range(drafts):
        (_, sigma, draft), (begun, level, _) = calls[number], calls[number + 1]
        fresh = comfy.sample.prepare_noise(draft, 1 + number)
        fraction = 1 - sigma if family == "sd3" else 1.0
        assert level == sigma
        torch.testing.assert_close(begun, fraction * draft + sigma * fresh, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(made, plain, atol=1e-3)


@pytest.mark.parametrize("family", ["sd1", "sd3"])
def test_inversions_and_single_levels_are_not_drafted_and_any_seed_will_do(models, family):
    model, latent = models[family], tiny_latent(family)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(5))
    plain, drafted = (with_head_start(model, shaped_change(latent), 3.0, drafts=d) for d in (0, 1))
    falling = levels(model, 6)
    for sigmas in (falling[:-1].flip(0), falling[2:3]):
        assert torch.equal(*(run(one, family, noise, latent, sigmas) for one in (plain, drafted)))
    greatest, first = (run(drafted, family, noise, latent, seed=seed) for seed in (2**64 - 1, 0))
    assert greatest.isfinite().all() and not torch.equal(greatest, first)


def test_only_pictures_that_get_another_shape_are_drafted(models):
    model, latent = models["sd1"], tiny_latent("sd1", batch=2)
    moved = shaped_change(latent)
    moved[1] = 1.0
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(5))
    plain, drafted = (run(with_head_start(model, moved, 3.0, drafts=d), "sd1", noise, latent) for d in (0, 1))
    torch.testing.assert_close(drafted[1], plain[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(drafted[0], plain[0], atol=1e-3)
    even = torch.ones_like(latent)
    same = [run(with_head_start(model, even, 3.0, drafts=d), "sd1", noise, latent) for d in (0, 1)]
    assert torch.equal(*same)


@pytest.mark.parametrize("family", ["sd1", "sd3"])
def test_a_start_along_the_change_is_a_start_from_a_moved_picture(models, family):
    """k changes in the noise move the picture by k times the noise-to-picture ratio, in either kind of model."""
    model, latent = models[family], tiny_latent(family)
    noise, moved = torch.randn(2, *latent.shape, generator=torch.Generator().manual_seed(4))
    seen = []

    def spy(executor, x, t, *args, **kwargs):
        seen.append((x.clone(), float(t[0])))
        return executor(x, t, *args, **kwargs)

    spied = model.clone()
    spied.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "spy", spy)
    run(spied, family, noise, latent)
    plain, sigma = seen[0]
    seen.clear()
    run(with_head_start(spied, moved, 3.0), family, noise, latent)
    started = seen[0][0]
    expected = (plain + 3.0 * sigma * moved)[: started.shape[0]]
    torch.testing.assert_close(started, expected.expand_as(started), atol=1e-4, rtol=1e-4)


def test_none_is_the_plain_model_to_the_last_bit_and_nothing_is_changed(models):
    model, latent = models["sd1"], tiny_latent("sd1")
    noise, moved = torch.randn(2, *latent.shape, generator=torch.Generator().manual_seed(4))
    kept = noise.clone()
    plain = run(model, "sd1", noise, latent)
    none = DiffEditHeadStart.execute(model, {"samples": moved}, 0.0).args[0]
    assert torch.equal(run(none, "sd1", noise, latent), plain)
    assert not torch.allclose(run(with_head_start(model, moved, 4.0), "sd1", noise, latent), plain, atol=1e-3)
    assert torch.equal(noise, kept) and not model.wrappers


@pytest.mark.parametrize("first", ["anchor", "head start"])
@pytest.mark.parametrize("start_from_source", [False, True])
def test_what_is_anchored_stays_exact(models, first, start_from_source):
    model, latent = models["sd1"], tiny_latent("sd1")
    source = model.model.process_latent_in(latent)
    noise, moved = torch.randn(latent.shape, generator=torch.Generator().manual_seed(4)), shaped_change(latent)
    rising = levels(model, 6).flip(0)
    path = Trajectory(rising, torch.stack([source + s * noise for s in rising]), "", 1.0, "", "eps", "SD15")
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1
    both = [lambda m: anchored(m, Anchor(path, mask), start_from_source=start_from_source)]
    both.insert(0 if first == "head start" else 1, lambda m: with_head_start(m, moved, 4.0, drafts=1))
    made = run(both[1](both[0](model)), "sd1", noise, latent)
    assert torch.equal(made[..., 4:], latent[..., 4:]) and not torch.equal(made[..., :4], latent[..., :4])


def test_the_node_gives_the_change_where_the_mask_is(models):
    model, latent = models["sd1"], {"samples": tiny_latent("sd1", batch=2)}
    plain = dict(
        seed=0,
        noises=2,
        strength=0.5,
        threshold="adaptive",
        level=0.5,
        outliers="none",
        gap=0,
        fill_holes=False,
        parts=0,
        complement=False,
        grow=0,
        soft_edge=0,
    )
    texts = tiny_cond("sd1", seed=1), tiny_cond("sd1", seed=2)
    found = DiffEditMask.execute(model, *texts, latent, **plain).args[4]["samples"]
    whole = compare(model, Prompts(*texts), latent["samples"], MapRecipe(2), [0, 1])
    marked = found.abs().amax(1) > 0
    expected = off_ground(whole.change, marked, model.model.process_latent_in(latent["samples"]))
    assert marked.any() and not marked.all() and torch.equal(found, expected)
    assert torch.equal(whole.maps, compare(model, Prompts(*texts), latent["samples"], MapRecipe(2), [0, 1]).maps)
    assert not DiffEditMask.execute(model, *texts, latent, **{**plain, "complement": True}).args[4]["samples"].any()


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 4, 6, 8), "4x6x8 .* 4x8x8 is"), ((2, 4, 8, 8), "that of 2 pictures, but 3"), ((1, 16, 8, 8), "channels")],
)
def test_a_change_of_another_picture_gets_a_sentence(models, shape, message):
    model, latent = models["sd1"], tiny_latent("sd1", batch=3)
    with pytest.raises(ValueError, match=message):
        patched = DiffEditHeadStart.execute(model, {"samples": torch.ones(shape)}, 4.0).args[0]
        run(patched, "sd1", torch.randn(latent.shape), latent)
