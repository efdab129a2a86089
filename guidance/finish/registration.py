"""How an editor has moved, enlarged, turned and stretched a picture, found from the two pictures alone.

Coarse: phase correlation (Kuglin and Hines, 1975) under a number of enlargements and small turns, on copies of 128
pixels. Fine: Gauss-Newton on the affine move with both pictures' gradients (efficient second-order minimisation, Malis,
ICRA 2004), on contrasts that know no colour cast, each place weighted by how well its neighbourhood agrees already
(Geman and McClure, 1987), so that what was edited has no say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from .alignment import Alignment, Size, corners, resized, size_of, warp, within

SEARCHED, CHECKED, FULL = 2**13, 2**16, 2**20
"""Pixels of the copies on which the move is searched for, on which it is checked, and of the largest ones."""
LEVELS = (2**14, 12), (CHECKED, 6), (2**18, 1), (FULL, 1)
"""Pixels of the copies on which a move is refined in turn, and Gauss-Newton steps there, at most."""
LARGER = 3
"""A copy that has not so many times the pixels of the one before adds nothing."""
LUMINANCE = (0.299, 0.587, 0.114)
CONTRAST = 0.02
"""Contrasts below this are noise, not texture."""
ZOOMS = tuple(math.exp(0.045 * step) for step in range(-5, 6))
TURNS = (0.0, -2.0, 2.0)
FARTHEST = 0.16
"""Moves by more than this fraction of the picture's sides are not looked for."""
SMOOTH = 1.2
"""Standard deviation in pixels of what the search sees: details lose their place between two guesses."""
TAPER = 6
PEAKS, CANDIDATES = 8, 2
AGREES = 0.5
"""The correlation from which on a neighbourhood is the same in both pictures."""
MOMENTUM = 0.8
"""How much of a Gauss-Newton step goes into the next."""
NEAR = 0.35
"""Pixels of the coarsest copies: what has moved no further is not searched for."""
PLAIN = 0.01
"""Where less of the picture has texture there is nothing to register by."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Registered:
    """alignment: how the two fit; matched: the fraction of the source's texture that was found again, 0..1;
    plain: there is no texture to find."""

    alignment: Alignment
    matched: float
    plain: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Level:
    """Both pictures at one size, grey (1, h, w), and their contrasts (h, w)."""

    greys: tuple[Tensor, Tensor]
    source: Tensor
    edited: Tensor

    @classmethod
    def of(cls, greys: tuple[Tensor, Tensor], area: int) -> Level:
        """Both at about the same number of pixels, no more than `area` and their own."""
        area = min(area, *(grey.numel() for grey in greys))
        before, after = (resized(grey, within(size_of(grey), area)) for grey in greys)
        return cls(greys=(before, after), source=_contrast(before[0]), edited=_contrast(after[0]))

    @cached_property
    def textured(self) -> Tensor:
        """(h, w) bool: where the source has texture."""
        return _textured(self.source)

    def fit(self, alignment: Alignment) -> Alignment:
        return alignment.at(size_of(self.source), size_of(self.edited))


def _levels(source: Tensor, edited: Tensor) -> dict[int, Level]:
    """Those of SEARCHED and LEVELS by their size, each made from the next larger one; those that add nothing are left
    out."""
    greys, found = (_grey(source), _grey(edited)), {}
    own = min(grey.numel() for grey in greys)
    sizes = [SEARCHED, *(area for area, _ in LEVELS)]
    kept = [
        area for area, below in zip(sizes, (0, 0, *sizes[1:])) if area <= CHECKED or min(area, own) > LARGER * below
    ]
    for area in reversed(kept):
        found[area] = Level.of(greys, area)
        greys = found[area].greys
    return found


def register(source: Tensor, edited: Tensor) -> Registered:
    """source (3, H, W), edited (3, h, w), in 0..1, at least 8 pixels on each side."""
    start, levels = Alignment.stretched(size_of(source), size_of(edited)), _levels(source, edited)
    coarse, checked = levels[SEARCHED], levels[CHECKED]
    if checked.textured.float().mean() < PLAIN:
        return Registered(alignment=start, matched=0.0, plain=True)
    found = refine(coarse, coarse.fit(start), 2)
    if found.farthest() > NEAR or matched(checked, checked.fit(found)) < AGREES:
        found = _searched(coarse, start)
    for area, steps in LEVELS:
        if area in levels:
            found = refine(levels[area], levels[area].fit(found), steps)
    agrees = matched(checked, checked.fit(found))
    return Registered(alignment=found.at(start.source, start.edited), matched=agrees)


def _searched(level: Level, whole: Alignment) -> Alignment:
    """The best of a few candidates, on the coarse level."""
    fitted = [refine(level, one, 5) for one in (level.fit(whole), *_candidates(level, whole))]
    return max(fitted, key=lambda one: _score(level, one))


def _score(level: Level, alignment: Alignment) -> float:
    """How well an alignment explains the pictures: what agrees, less where little of the source is seen at all."""
    return matched(level, alignment) * float(alignment.overlap().float().mean()) ** 0.25


def _candidates(level: Level, whole: Alignment) -> list[Alignment]:
    """CANDIDATES moves: of the PEAKS whose phase correlation is highest those that agree best."""
    guesses = [level.fit(one) for base in _bases(whole) for one in _around(base)]
    views = torch.stack([warp(level.edited[None], one)[0] for one in guesses])
    shifts, peaks = _phase_correlation(level.source, views)
    unmoved = torch.eye(2, dtype=torch.float64)
    best = [guesses[i].after(unmoved, shifts[i]) for i in peaks.argsort(descending=True)[:PEAKS].tolist()]
    return sorted(best, key=lambda one: -_score(level, one))[:CANDIDATES]


def _bases(whole: Alignment) -> list[Alignment]:
    """The source stretched to the edited size; and, where that distorts, cropped to it, or set within it."""
    factors = whole.matrix.diag()
    if float(factors.max() / factors.min()) < 1.04:
        return [whole]
    return [whole, *(_about_the_middle(whole, one.expand(2).diag()) for one in (factors.max(), factors.min()))]


def _around(base: Alignment) -> list[Alignment]:
    turned = []
    for turn in TURNS:
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        by = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
        turned += [_about_the_middle(base, zoom * base.matrix @ by) for zoom in ZOOMS]
    return turned


def _about_the_middle(alignment: Alignment, matrix: Tensor) -> Alignment:
    """With this matrix, the middle of the source on that of the edited picture."""
    (height, width), (h, w) = alignment.source, alignment.edited
    centre = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    middle = torch.tensor([w / 2, h / 2], dtype=torch.float64)
    return replace(alignment, matrix=matrix, shift=middle - matrix @ centre)


def _phase_correlation(source: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
    """source (h, w), views (N, h, w) -> shifts (N, 2) with view(x + shift) = source(x), float64; and the peaks (N,)."""
    h, w = source.shape
    # An edit in the middle leaves no more than a rim: the window falls off at the very border alone.
    window = torch.outer(*((TAPER * torch.hann_window(side, periodic=False)).clamp(max=1) for side in (h, w))).to(
        source
    )
    cross = torch.fft.rfft2(views * window) * torch.fft.rfft2(source * window).conj()
    # Frequencies that hold no texture say nothing of the shift; high ones lose it between two guesses.
    power = cross.abs()
    f = torch.fft.fftfreq(h).square()[:, None] + torch.fft.rfftfreq(w).square()
    smooth = torch.exp(-2 * (math.pi * SMOOTH) ** 2 * f).to(source)
    surface = torch.fft.irfft2(smooth * cross / (power + 0.1 * power.mean((1, 2), keepdim=True)), s=(h, w))
    near = torch.outer(*((torch.fft.fftfreq(side).abs() <= FARTHEST) for side in (h, w))).to(source.device)
    peaks, place = surface.masked_fill(~near, -1.0).flatten(1).max(1)
    down, right = place // w, place % w
    down, right = (at - (at > side // 2) * side for at, side in ((down, h), (right, w)))
    return torch.stack([right, down], 1).double().cpu(), peaks


def refine(level: Level, alignment: Alignment, steps: int) -> Alignment:
    """The alignment of the level after at most so many Gauss-Newton steps; fewer where it stands still."""
    h, w = level.source.shape
    basis = _basis((h, w), level.source)
    last = torch.zeros(6, dtype=torch.float64)
    for _ in range(steps):
        view = warp(level.edited[None], alignment)[0]
        inside = alignment.overlap().to(view.device)
        error = level.source - view
        weight = _agreement(level, view, error) * inside
        gradient = torch.stack(_gradient((level.source + view) / 2))
        jacobian = (gradient[:, None] * basis).flatten(0, 1).flatten(1)  # (6, h * w): x by 1, x, y; y by 1, x, y
        weighted = jacobian * weight.flatten()
        normal = (weighted @ jacobian.T).double().cpu()
        right = (weighted @ error.flatten()).double().cpu()
        damped = normal + torch.eye(6, dtype=torch.float64) * (1e-4 * normal.diag().mean() + 1e-12)
        move = torch.linalg.solve(damped, right)
        # What agrees already holds back what does not yet, most where little texture fixes a zoom or turn: as long as
        # steps lead the same way, each goes on with the one before.
        last = move + MOMENTUM * last * float(move @ last > 0)
        matrix, shift = _as_affine(last, (h, w))
        alignment = alignment.after(matrix, shift)
        ends = corners((h, w))
        if float((ends @ matrix.T + shift - ends).abs().max()) < 0.01:
            break
    return alignment


def _basis(size: Size, like: Tensor) -> Tensor:
    """(3, h, w): one, and the place across and down in -1..1."""
    h, w = size
    across = (torch.arange(w).to(like) + 0.5) / w * 2 - 1
    down = (torch.arange(h).to(like) + 0.5) / h * 2 - 1
    return torch.stack([torch.ones_like(like), across.expand(h, w), down[:, None].expand(h, w)])


def _as_affine(found: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Coefficients (6,) of the basis -> a move of points in pixels: matrix (2, 2), shift (2,)."""
    h, w = size
    constant, across, down = found.reshape(2, 3).T
    matrix = torch.eye(2, dtype=torch.float64) + torch.stack([across * 2 / w, down * 2 / h], 1)
    return matrix, constant - across - down


def _gradient(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Across and down, of (h, w), central."""
    padded = F.pad(picture[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    return (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2


def _agreement(level: Level, view: Tensor, error: Tensor) -> Tensor:
    """(h, w) in 0..1, how much each place's neighbourhood is alike in both. The scale is the median error there is
    where there is texture."""
    local = blur(error.square(), 2)
    textured = level.textured & _textured(view)
    if not textured.any():
        return torch.ones_like(error)
    scale = local[textured].median() + 1e-6
    return (1 + local / scale).pow(-2)


def correlation(source: Tensor, view: Tensor, radius: int = 4) -> Tensor:
    """(h, w) in -1..1 of two contrasts (h, w), in a square of 2 * radius + 1 pixels round each place."""
    both = blur(source * view, radius)
    power = blur(source.square(), radius) * blur(view.square(), radius)
    return both / (power + 1e-6).sqrt()


def matched(level: Level, alignment: Alignment) -> float:
    """The fraction of the source's textured places, of those that the edited picture shows, that agree with it."""
    view = warp(level.edited[None], alignment)[0]
    seen = level.textured & alignment.overlap().to(view.device)
    return float((correlation(level.source, view)[seen] > AGREES).float().mean()) if seen.any() else 0.0


def _textured(contrast: Tensor) -> Tensor:
    return blur(contrast.square(), 4) > 0.1


def _grey(picture: Tensor) -> Tensor:
    """(3, H, W) -> (1, H, W)."""
    return torch.einsum("c, c h w -> h w", picture.new_tensor(LUMINANCE), picture)[None]


def _contrast(grey: Tensor) -> Tensor:
    """grey (h, w), less that of its surroundings, in units of the contrast there."""
    detail = grey - blur(blur(grey, 3), 3)
    return detail / (blur(blur(detail.square(), 4), 4) + CONTRAST**2).sqrt()


def blur(pictures: Tensor, radius: int) -> Tensor:
    """(..., h, w), the mean of a square of 2 * radius + 1 pixels; beyond the border the outermost pixels go on."""
    side = 2 * radius + 1
    # scipy's running sums take the same time for any radius.
    sums = ndimage.uniform_filter(pictures.cpu().numpy(), (1,) * (pictures.ndim - 2) + (side, side), mode="nearest")
    return torch.from_numpy(sums).to(pictures)
