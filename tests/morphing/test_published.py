"""The benchmark's published mode: frame by frame with stored features gives what one batch gives; its judge sees."""

import itertools
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import torch
from palimpsest.benchmarks.morphing import published
from palimpsest.benchmarks.morphing.fixtures import chains, frechet, perceived, perceived_table, psnr, things_in
from palimpsest.host.morphing.attention_blend import blended
from palimpsest.host.morphing.conditioning import morphed
from palimpsest.host.morphing.row_lora import interpolated
from palimpsest.morphing.latents import morph_latents
from palimpsest.morphing.schedule import schedule
from palimpsest.papercut.classifier import load_classifier

from ..tiny_models import tiny_cond, tiny_latent, tiny_model
from .parts import SIGMAS, random_lora, sample


def test_one_batch_is_the_published_loop_with_its_store(monkeypatch):
    """To 2e-3 of latents of size 1 to 10, over five steps of which three are blended."""
    monkeypatch.setattr(published, "STEPS", len(SIGMAS) - 1)
    model, alphas = tiny_model("sd1"), schedule(5)
    latents = torch.cat([tiny_latent("sd1", seed=seed) for seed in range(2)])
    prompts, loras = [tiny_cond("sd1", seed=seed) for seed in range(2)], [random_lora(model, seed) for seed in range(2)]
    fixtures = SimpleNamespace(sigmas=lambda steps: SIGMAS)
    keys = SimpleNamespace(model=model, latents=latents, prompts=prompts, fixtures=fixtures)
    store, starts = published.Store(), morph_latents(latents * SIGMAS[0], alphas)
    one = lambda row: published.sampled(keys, loras, starts[row : row + 1], alphas.values[row], store)
    made = {row: one(row) for row in (0, 4, 1, 2, 3)}
    whole = blended(interpolated(model, loras, alphas, mixing="factor"), alphas, until=published.UNTIL)
    together = sample(whole, morphed(prompts, alphas), starts / SIGMAS[0])
    assert torch.allclose(torch.cat([made[row] for row in range(5)]), together, atol=2e-3, rtol=1e-3)
    assert store.nbytes > 0 and all(len(kept) == 2 for kept in store.kept.values())


def test_the_chains_change_one_thing_a_step_near_and_far():
    found = chains()
    assert len(found) == 10 and sum(len(scenes) for scenes in found) == 40  # each scene and the next, around
    kinds = Counter()
    for scenes in found:
        for before, after in itertools.pairwise(scenes):
            (one,), (other,) = before.objects, after.objects
            moved = (one.x, one.y) != (other.x, other.y)
            changed = {"shape": one.shape != other.shape, "colour": one.colour != other.colour, "place": moved}
            kinds.update(name for name, is_so in {**changed, "ground": before.ground != after.ground}.items() if is_so)
    assert sum(kinds.values()) == 30 and min(kinds[kind] for kind in ("shape", "colour", "place", "ground")) >= 6


def test_things_are_counted_and_ghosts_as_well():
    for scene in [scene for scenes in chains(4) for scene in scenes]:
        assert things_in(scene.render()) == 1, scene.caption
    scene = chains(1)[0][0]
    thing = replace(scene.objects[0], x=70.0, y=128.0)
    left, right = (replace(scene, objects=(replace(thing, x=x),)).render() for x in (70.0, 186.0))
    assert things_in(torch.lerp(left, right, 0.5)) == 2 and things_in(torch.lerp(left, right, 0.3)) == 2
    assert things_in(replace(scene, objects=()).render()) == 0
    scrap = replace(thing, x=186.0, size=thing.size / 4)
    assert things_in(replace(scene, objects=(thing, scrap)).render()) == 1
    assert things_in(replace(scene, objects=(scrap,)).render()) == 0


def test_similar_frames_are_near_and_equal_ones_at_nothing():
    first, second = (scene.render().movedim(0, -1) for scene in chains(1)[0][:2])
    pictures, classifier = torch.stack([first, first, torch.lerp(first, second, 0.2), second]), load_classifier()
    steps = perceived(pictures, classifier)
    assert steps[0] == 0 and 0 < steps[1] < steps[2]
    assert torch.allclose(perceived_table(pictures, classifier).diagonal(1), steps, atol=1e-6)
    assert psnr(first[None], first[None]) > 100


def test_sets_are_as_far_apart_as_their_gaussians():
    """To 1e-6: a shift by its square, and a width by its own."""
    a = torch.randn(400, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert abs(frechet(a, a)) < 1e-6 and abs(frechet(a, a + 3) - 45) < 1e-6
    assert abs(frechet(a, 2 * a) - (a.mean(0).square().sum() + torch.cov(a.T).trace())) < 1e-6
