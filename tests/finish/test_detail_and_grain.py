"""What is put into an edited region beside the edit itself: the source's detail, and its noise; and what that takes."""

import weakref

import pytest
import torch
from palimpsest.guidance.finish import composite, finish as steps
from palimpsest.guidance.finish.composite import with_detail
from palimpsest.guidance.finish.finish import FinishRecipe, finish
from palimpsest.guidance.finish.registration import blur
from torch.utils._python_dispatch import TorchDispatchMode

from .pictures import textured

SIZE = (192, 256)
OURS = dict(registration="off", colour="off", grow=0, feather=0)
NOISE = 0.03


def fine(picture: torch.Tensor) -> torch.Tensor:
    return picture - blur(picture, 3)


def lit(size=SIZE) -> torch.Tensor:
    """(1, H, W), a lamp: a smooth field from 1 to 1.4."""
    return 1 + 0.4 * torch.linspace(0, 1, size[1]).expand(1, *size)


def test_what_only_moved_in_tone_keeps_the_source_s_detail():
    """Detail in proportion to the tone: the source under the lamp, as if no model had softened it."""
    source = textured(SIZE) * 0.6
    softened = blur(source, 1) * lit()
    wanted = fine(source * lit())
    inner = (slice(None), slice(16, -16), slice(16, -16))
    left = lambda made: float((fine(made) - wanted)[inner].square().mean())
    without, halfway, whole = (left(with_detail(softened, source, amount)) for amount in (0.0, 0.5, 1.0))
    assert whole < 0.1 * without and whole < halfway < without
    tone = blur(with_detail(softened, source, 1.0), 8) - blur(softened, 8)
    assert float(tone[inner].abs().max()) < 0.02
    assert torch.equal(with_detail(softened, source, 0.0), softened)


def test_another_thing_gets_no_detail_of_the_source():
    source, other = textured(SIZE, 0), textured(SIZE, 9)
    assert (with_detail(other, source, 1.0) - other).abs().mean() < 0.1 * fine(source).abs().mean()


def noisy(level: float, seed: int) -> torch.Tensor:
    """(3, H, W) a plain ramp with normal noise."""
    ramp = torch.linspace(0.3, 0.6, SIZE[1]).expand(3, *SIZE)
    return ramp + level * torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(seed))


def std_of(picture: torch.Tensor) -> float:
    return float((picture - blur(picture, 2)).std())


@pytest.mark.parametrize("own", [0.0, 0.5, 1.0])
def test_the_edited_region_has_as_much_noise_as_the_source(own):
    """Whatever part of it the edit has by itself; noise adds up by squares."""
    source, edited = noisy(NOISE, 0), noisy(own * NOISE, 1)
    mask = torch.zeros(SIZE)
    mask[40:150, 60:200] = 1
    region = (slice(None), slice(44, 146), slice(64, 196))
    plain = finish(source, edited, mask, FinishRecipe(**OURS)).picture
    grainy = finish(source, edited, mask, FinishRecipe(**OURS, grain=True)).picture
    assert std_of(plain[region]) == pytest.approx(own * std_of(source), rel=0.1, abs=1e-3)
    assert std_of(grainy[region]) == pytest.approx(std_of(source), rel=0.1)
    assert torch.equal(grainy[:, mask == 0], source[:, mask == 0])


class Peak(TorchDispatchMode):
    """The most bytes at one moment behind the tensors that are made inside, each memory counted once."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.users: dict[int, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(one, torch.Tensor):
                self.count(one)
        return made

    def count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        self.users[place] = self.users.get(place, 0) + 1
        if self.users[place] == 1:
            self.now += size
            self.peak = max(self.peak, self.now)
        weakref.finalize(tensor, self.drop, place, size)

    def drop(self, place: int, size: int) -> None:
        self.users[place] -= 1
        if not self.users[place]:
            self.now -= size


def test_memory_grows_with_the_photo_by_no_more_than_three_of_it(monkeypatch):
    """Beside the copies of a fixed size: the result, the mask and strips. Of 24 megapixels, 288 MB, that is 0.9 GB."""
    monkeypatch.setattr(steps, "FULL", 2**14)
    monkeypatch.setattr(composite, "STRIP", 2**13)
    edited = textured((96, 128))
    edited[:, 30:60, 40:90] = 0.2
    peaks, bytes_of = [], []
    for factor in (4, 8):
        size = (96 * factor, 128 * factor)
        source = torch.nn.functional.interpolate(textured((96, 128))[None], size, mode="bicubic")[0].clamp(0, 1)
        with Peak() as memory:
            assert finish(source, edited).alpha.any()
        peaks.append(memory.peak)
        bytes_of.append(source.nbytes)
    assert peaks[1] - peaks[0] <= 3 * (bytes_of[1] - bytes_of[0])
