"""Drag points -> flow: the whole of a region follows a few pairs of points, stiffly or as a thin plate.

Thin-plate spline: Bookstein, "Principal Warps" (1989). Stiff motions: the least-squares fit of Umeyama (1991).
Kernels sit on the points' sources, so the bending energy is minimal; equal points give exactly the identity.
"""

from __future__ import annotations

import json
from ast import literal_eval as read_literal

import torch
from torch import Tensor

from .fields import pixel_grid, region_of, settle

KINDS = ("thin plate", "rigid", "similarity", "move")


def points_flow(
    mask: Tensor, starts: Tensor, ends: Tensor, kind: str = "thin plate", *, pin_edge: bool = False
) -> Tensor:
    """The flow (B, H, W, 2) that carries `starts` (N, 2) to `ends` (N, 2) pixels inside `mask` (B, H, W), zero outside.

    kind: 'thin plate' bends, 'rigid' moves and turns, 'similarity' also scales, 'move' takes the mean drag.
    Too few points (or points on one line) for the kind fall back to the next stiffer one. `pin_edge` holds the rim of
    each region still, so that it deforms in place (thin plate only).
    """
    grid = pixel_grid(*mask.shape[1:], dtype=torch.float64)
    flows = []
    for region in region_of(mask).cpu():
        if not region.any():
            raise ValueError("The mask is empty, so nothing can move: paint or select the region to be moved.")
        a, b = starts.double(), ends.double()
        if pin_edge and kind == "thin plate":
            still = _rim_points(region)
            a, b = torch.cat((a, still)), torch.cat((b, still))
        field = torch.zeros_like(grid)
        field[region] = _displacement(grid[region], a, b, kind)
        flows.append(field)
    return settle(torch.stack(flows)).float().to(mask.device)


def _displacement(points: Tensor, a: Tensor, b: Tensor, kind: str) -> Tensor:
    """How far each of `points` (P, 2) goes -> (P, 2) float64."""
    if kind == "move" or len(a) == 1:
        return (b - a).mean(dim=0).expand_as(points)
    if kind == "thin plate" and _spread(a) > 1e-3:
        return _thin_plate(points, a, b - a)
    linear = _stiff(a, b, with_scale=kind != "rigid")
    return (points - a.mean(dim=0)) @ (linear - torch.eye(2, dtype=a.dtype)).T + (b - a).mean(dim=0)


def _spread(points: Tensor) -> float:
    """How far the points are from lying on one line: ratio of the two principal widths (0 for fewer than three)."""
    if len(points) < 3:
        return 0.0
    widths = torch.linalg.svdvals(points - points.mean(dim=0))
    return float(widths[1] / widths[0].clamp_min(1e-9))


def _stiff(a: Tensor, b: Tensor, *, with_scale: bool) -> Tensor:
    """(2, 2) best rotation (and scale) of `a` onto `b` about their means; Umeyama's equations 39 to 42."""
    da, db = a - a.mean(dim=0), b - b.mean(dim=0)
    u, values, vt = torch.linalg.svd(db.T @ da)
    sign = torch.ones(2, dtype=a.dtype)
    if torch.linalg.det(u @ vt) < 0:
        sign[1] = -1.0
    rotation = u @ torch.diag(sign) @ vt
    if not with_scale:
        return rotation
    return rotation * (values * sign).sum() / da.square().sum().clamp_min(1e-9)


def _thin_plate(points: Tensor, centres: Tensor, values: Tensor) -> Tensor:
    """The smoothest field with `values` (N, 2) at `centres` (N, 2), at `points` (P, 2); Bookstein's equation 2."""
    unit = (centres - centres.mean(dim=0)).abs().max().clamp_min(1.0)  # keeps the system well conditioned
    origin = centres.mean(dim=0)
    c, p = (centres - origin) / unit, (points - origin) / unit
    count = len(c)
    affine = torch.cat((torch.ones(count, 1, dtype=c.dtype), c), dim=1)
    system = torch.zeros(count + 3, count + 3, dtype=c.dtype)
    system[:count, :count] = _kernel(c, c)
    system[:count, count:], system[count:, :count] = affine, affine.T
    right = torch.cat((values, torch.zeros(3, 2, dtype=c.dtype)))
    weights = torch.linalg.lstsq(system, right).solution
    field = torch.cat([_kernel(part, c) @ weights[:count] for part in p.split(16384)])
    return field + weights[count] + p @ weights[count + 1 :]


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """U(r) = r^2 log r, zero at r = 0."""
    squared = (a[:, None] - b[None]).square().sum(dim=-1)
    return 0.5 * torch.xlogy(squared, squared)


def _rim_points(region: Tensor, count: int = 24) -> Tensor:
    """(<= count, 2) points spread evenly by angle round the region's rim."""
    inner = region.clone()
    for axis in (0, 1):
        for shift in (1, -1):
            inner &= region.roll(shift, axis)
    y, x = torch.nonzero(region & ~inner, as_tuple=True)
    if not len(x):
        return torch.zeros(0, 2, dtype=torch.float64)
    rim = torch.stack((x, y), dim=-1).double()
    offset = rim - rim.mean(dim=0)
    order = torch.argsort(torch.atan2(offset[:, 1], offset[:, 0]))
    keep = torch.linspace(0, len(order) - 1, min(count, len(order))).round().long()
    return rim[order[keep]]


def parse_points(points: object) -> list[list[tuple[float, float]]]:
    """The curves of a point editor: [{"x","y"}, ...] or [[x, y], ...], or a list of several such lists.

    points: JSON, or Python's own spelling of it (single quotes), or the lists themselves; a list may hold texts, and
    numbers may be written as text. Raises ValueError if it is nothing of the kind.
    """
    data = _read(points)
    if isinstance(data, (list, tuple)) and data and all(_is_point(item) for item in data):
        data = [data]
    if not isinstance(data, (list, tuple)):
        raise ValueError("The input 'points' must be a list of points with x and y, or a list of such lists.")
    curves = []
    for item in data:
        if isinstance(item, str):
            curves += parse_points(item)
        elif isinstance(item, (list, tuple)) and all(_is_point(point) for point in item):
            curves += [[_point(point) for point in item]]
        else:
            raise ValueError("The input 'points' must be a list of points with x and y, or a list of such lists.")
    return [curve for curve in curves if curve]


def _read(points: object) -> object:
    """A text as the lists and dicts that it writes; anything else as it is."""
    if not isinstance(points, str):
        return points
    try:
        return json.loads(points)
    except ValueError:
        pass
    try:
        return read_literal(points.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(
            "The input 'points' is neither JSON nor a list of points: connect the coordinates output of a spline "
            "editor."
        ) from None


def drag_pairs(curves: list[list[tuple[float, float]]]) -> tuple[Tensor, Tensor]:
    """Each curve's first and last point -> (starts (N, 2), ends (N, 2)) float64."""
    if not curves:
        raise ValueError("The input 'points' holds no point: draw at least one drag from a start to its goal.")
    return (
        torch.tensor([curve[0] for curve in curves], dtype=torch.float64),
        torch.tensor([curve[-1] for curve in curves], dtype=torch.float64),
    )


def require_drags(starts: Tensor, ends: Tensor, size: tuple[int, int]) -> None:
    """Raises ValueError where drags (N, 2) cannot be meant in pixels of a picture of `size` (height, width).

    Fractions of the picture, points further outside than the picture is large, and drags that move nothing.
    """
    points = torch.cat((starts, ends))
    height, width = size
    if min(height, width) > 2 and bool(((points >= 0) & (points <= 1)).all()):
        raise ValueError(
            "The input 'points' lies within one pixel, so its numbers look like fractions of the picture: switch the "
            "editor's normalising off, or set canvas_width and canvas_height to 1."
        )
    limit = points.new_tensor([width, height])
    if bool(((points < -limit) | (points > 2 * limit)).any()):
        far = points[((points < -limit) | (points > 2 * limit)).any(dim=1)][0]
        raise ValueError(
            f"The input 'points' has a point at ({far[0]:.0f}, {far[1]:.0f}), far outside the picture of {width} x "
            f"{height}: set canvas_width and canvas_height to the size of the editor in which it was set."
        )
    if bool((starts == ends).all()):
        raise ValueError(
            "The input 'points' would move nothing, since each curve ends where it begins: draw a line from what is to "
            "be moved to its goal."
        )


def track_pairs(tracks: object) -> tuple[Tensor, Tensor]:
    """The host's TRACKS ({"track_path": (frames, N, 2), "track_visibility"}) -> starts and ends (M, 2) float64.

    Points that are not seen in the first or in the last frame are left out: nobody knows where they are.
    """
    given = tracks if isinstance(tracks, dict) else {}
    path, seen = given.get("track_path"), given.get("track_visibility")
    if not isinstance(path, Tensor) or path.ndim != 3 or path.shape[-1] != 2 or not path.shape[0] or not path.shape[1]:
        raise ValueError("The input 'tracks' holds no tracks: connect the TRACKS output of a track node.")
    kept = torch.ones(path.shape[1], dtype=torch.bool)
    if isinstance(seen, Tensor) and seen.ndim and seen.shape[0] == path.shape[0]:
        # (frames, N), or (frames, 1) for all points of a frame.
        seen = seen.cpu().reshape(path.shape[0], -1) > 0
        kept &= seen[0] & seen[-1]
    if not kept.any():
        raise ValueError(
            "The input 'tracks' holds no point that is seen in both the first and the last frame: cut the "
            "frames where the thing is hidden."
        )
    return path[0].double().cpu()[kept], path[-1].double().cpu()[kept]


def _is_point(item: object) -> bool:
    if isinstance(item, dict):
        return _is_number(item.get("x")) and _is_number(item.get("y"))
    return isinstance(item, (list, tuple)) and len(item) == 2 and all(_is_number(v) for v in item)


def _is_number(value: object) -> bool:
    """A number, or a text of one, of a size that coordinates can have; NaN is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return False
    try:
        return abs(float(value)) < 1e6
    except ValueError:
        return False


def _point(item: dict | list | tuple) -> tuple[float, float]:
    return (float(item["x"]), float(item["y"])) if isinstance(item, dict) else (float(item[0]), float(item[1]))
