"""Distances to the eye: a real CLIP Vision model, LPIPS where it is at hand, and nothing fetched where it is not."""

import sys
from types import SimpleNamespace

import pytest
import torch
from comfy.clip_vision import ClipVisionModel
from palimpsest.host.morphing.perceptual import distance_table, frame_distances
from palimpsest.morphing.frame_selection import choose
from palimpsest.morphing.measured_frames import MeasuredFrames, remembering, together
from palimpsest.morphing.schedule import Alphas, schedule
from palimpsest.nodes.morphing_reschedule import Reschedule

from ..tiny_models import fill

PLACES = (0.0, 0.1, 0.2, 0.8, 1.0)


@pytest.fixture
def images():
    """(5, 48, 80, 3), a fade with a leap in it."""
    first, last = torch.rand(2, 48, 80, 3, generator=torch.Generator().manual_seed(0))
    return torch.stack([torch.lerp(first, last, place) for place in PLACES])


@pytest.fixture(scope="module")
def clip():
    """CLIP_VISION as its loader makes it, but tiny and random."""
    config = dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=16,
        image_size=56,
        patch_size=14,
        num_channels=3,
        hidden_act="quick_gelu",
        model_type="clip_vision_model",
    )
    made = ClipVisionModel(config)
    made.model.requires_grad_(False)
    with torch.no_grad():
        fill(made.model, seed=3)
    return made


def test_clip_vision_finds_the_leap_and_reschedule_moves_frames_into_it(images, clip):
    steps = frame_distances("clip vision", cyclic=False, images=images, clip=clip)
    assert steps.argmax() == 2 and bool((steps > 0).all())
    same = frame_distances("clip vision", cyclic=True, images=images[[0, 0, 4]], clip=clip)
    assert same[0] < 1e-4 < same[1] and torch.allclose(same[1], same[2], rtol=1e-3)
    alphas, _, variation, evenest = Reschedule.execute(
        schedule(5), measure="clip vision", frames=9, images=images, clip_vision=clip
    ).args
    assert "connect `latent`" in evenest.message
    assert variation > 0.15
    assert alphas.values[0] == 0.0 and alphas.values[-1] == 1.0
    # The leap lies between the frames at a half and at three quarters.
    assert sum(0.5 < value < 0.75 for value in alphas.values) >= 4


def test_the_evenest_frames_are_chosen_by_the_measure_out_of_all_that_were_looked_at(images, clip):
    """Two looks of five, with three frames in common; five of the seven are taken, as by hand."""
    first, second = schedule(5), Alphas((0.0, 0.5, 0.6, 0.7, 1.0), 2)
    latents = lambda alphas: torch.tensor(alphas.values).reshape(-1, 1, 1, 1).expand(-1, 4, 2, 2)
    looked = MeasuredFrames(first, latents(first), images)
    options = {"measure": "clip vision", "clip_vision": clip, "latent": {"samples": latents(second)}}
    made = Reschedule.execute(remembering(second, [looked]), images=images.flip(0), **options).args[3]["samples"]
    seen = together([looked, MeasuredFrames(second, latents(second), images.flip(0))])
    rows = choose(seen.alphas, distance_table("clip vision", images=seen.images, clip=clip), 5)
    assert torch.equal(made, seen.latents[rows]) and len(seen.alphas) == 7
    alone = Reschedule.execute(remembering(second, [looked]), images=images, remember=False, **options).args[3]
    assert torch.equal(alone["samples"], latents(second))


def test_the_table_s_neighbours_are_the_steps(images, clip):
    for options in ({"measure": "latents", "latents": images}, {"measure": "clip vision", "clip": clip}):
        options = {"images": images, **options}
        steps = frame_distances(cyclic=False, **options)
        assert torch.allclose(distance_table(**options).diagonal(1), steps, rtol=1e-4)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of torch's hub, in which nothing may be fetched."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("a download"))
    return tmp_path


class Packaged(torch.nn.Module):
    """The package's class, as far as it is used: the pictures are in -1..1, the answer has a shape of (N, 1, 1, 1)."""

    def __init__(self, net, verbose):
        super().__init__()
        assert net == "alex" and not verbose
        self.weights = torch.hub.load_state_dict_from_url("https://there/alexnet-owt-7be5be79.pth", weights_only=True)

    def forward(self, before, after):
        assert before.min() < -0.5 and before.shape[1] == 3
        return (after - before).square().mean((1, 2, 3), keepdim=True)


def test_lpips_without_its_package_says_so(monkeypatch, images):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ValueError, match="Python package lpips, which this ComfyUI does not have: install it, or ch"):
        frame_distances("lpips", cyclic=False, images=images)


def test_lpips_without_its_weights_names_them_and_fetches_nothing(monkeypatch, images, cache):
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=Packaged))
    with pytest.raises(ValueError, match=r"nothing is downloaded for you: put https://.*/alexnet.*pth into") as raised:
        frame_distances("lpips", cyclic=False, images=images)
    assert str(cache / "checkpoints") in str(raised.value)
    assert not list(cache.rglob("*"))


def test_lpips_that_is_at_hand_measures(monkeypatch, images, cache):
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=Packaged))
    file = cache / "checkpoints" / "alexnet-owt-7be5be79.pth"
    file.parent.mkdir()
    torch.save({}, file)
    steps = frame_distances("lpips", cyclic=False, images=images)
    assert torch.allclose(steps, 4 * (images[1:] - images[:-1]).square().mean((1, 2, 3)), rtol=1e-4)
    assert torch.allclose(distance_table("lpips", images=images).diagonal(1), steps, rtol=1e-4)
    file.write_bytes(b"half a file")
    with pytest.raises(ValueError, match="install both anew"):
        frame_distances("lpips", cyclic=False, images=images)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"measure": "clip vision"}, "connect a Load CLIP Vision node"),
        ({"measure": "clip vision", "images": None}, "connect the decoded frames"),
        ({"measure": "lpips", "images": None}, "connect the decoded frames"),
        ({"measure": "latents"}, "a VAE"),
        ({"measure": "eyes"}, "latents, clip vision, lpips"),
    ],
)
def test_what_is_missing_is_named(images, options, message):
    with pytest.raises(ValueError, match=message):
        frame_distances(**{"images": images, "cyclic": False, **options})
