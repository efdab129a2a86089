"""The Flow Canvas's drawing, kept as JSON in the workflow, turned into a flow without a browser.

    {"version": 1, "width": W, "height": H, "regions": [                          the nearest region first
        {"area": {"runs": [..], "size": [w, h]}, "pivot": [x, y], "move": [dx, dy], "turn": degrees clockwise,
         "scale": [sx, sy], "still": false}, ..]}

W x H is the picture for which all points are given; another size scales them. An area is run lengths over a w x h
raster, row by row, beginning with the pixels outside; or {"polygon": [[x, y], ..]} (even-odd) or
{"ellipse": [x, y, rx, ry]} in pixels. A point p of a region goes to pivot + move + R(turn) diag(sx, sy) (p - pivot).
A `still` region stays where it is and hides what passes behind it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .fields import Transform, moving, pixel_grid, transform_flow

VERSION, MOST_REGIONS, LARGEST = 1, 64, 16384


@dataclass(frozen=True)
class Region:
    """One region of the drawing; lengths in pixels of the drawing's picture."""

    area: dict
    pivot: tuple[float, float] | None
    move: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    still: bool = False


@dataclass(frozen=True)
class Canvas:
    """A drawing: the size of its picture, and its regions from front to back."""

    width: int
    height: int
    regions: tuple[Region, ...]


def parse_canvas(text: str) -> Canvas | None:
    """The drawing in a widget's JSON; None for an empty one. Raises ValueError if it is none."""
    if not text.strip():
        return None
    try:
        data = json.loads(text)
        regions = data["regions"]
        if data.get("version", VERSION) != VERSION:
            raise ValueError(f"it was drawn by version {data['version']}")
        if len(regions) > MOST_REGIONS:
            raise ValueError(f"it has more than {MOST_REGIONS} regions")
        if not regions:
            return None
        return Canvas(_side(data["width"]), _side(data["height"]), tuple(_region(item) for item in regions))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"The drawing in 'canvas' cannot be read ({error}): reset the canvas and draw again."
        ) from error


def canvas_flow(canvas: Canvas, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """-> (flow (1, H, W, 2), layers (1, H, W), areas (R, H, W) 0 or 1) for a picture of height x width."""
    scale = (width / canvas.width, height / canvas.height)
    areas = torch.stack([_covered(region.area, canvas, height, width) for region in canvas.regions])
    flow, layers = torch.zeros(1, height, width, 2), torch.zeros(1, height, width)
    count = len(canvas.regions)
    for depth, (region, area) in enumerate(zip(reversed(canvas.regions), areas.flip(0)), start=1):
        if not bool(area.any()):
            continue
        part = torch.zeros_like(flow) if region.still else _region_flow(region, area, scale)
        flow = torch.where(area[None, ..., None], part, flow)
        lifted = area[None] if region.still else moving(part)
        layers = torch.where(lifted, depth / count, torch.where(area[None], 0.0, layers))
    return flow, layers, areas.float()


def _region_flow(region: Region, area: Tensor, scale: tuple[float, float]) -> Tensor:
    """(1, H, W, 2) of one region; the picture's own scale may differ in x and y."""
    sx, sy = region.scale
    change = Transform(turn=region.turn, scale=sy, stretch=sx / sy, move=region.move)
    pivot: Tensor | str = "box"
    if region.pivot is not None:
        pivot = torch.tensor([_at(region.pivot[0], scale[0]), _at(region.pivot[1], scale[1])], dtype=torch.float64)
    if scale[0] == scale[1] == 1:
        return transform_flow(area[None].float(), change, pivot)
    # Turn in the drawing's own proportions, then scale the vectors like the picture.
    stretch = torch.tensor(scale, dtype=torch.float64)
    grid = pixel_grid(*area.shape, dtype=torch.float64)
    if isinstance(pivot, str):
        points = grid[area]
        pivot = (points.amin(dim=0) + points.amax(dim=0)) / 2
    offset = (grid - pivot) / stretch
    linear = change.matrix() - torch.eye(2, dtype=torch.float64)
    vectors = (offset @ linear.T + torch.tensor(region.move, dtype=torch.float64)) * stretch
    vectors = torch.where(vectors.abs().amax(dim=-1, keepdim=True) < 1e-6, 0.0, vectors)
    return torch.where(area[..., None], vectors, 0.0).float()[None]


def _at(value: float, scale: float) -> float:
    """A point between pixels' corners, on another grid: pixel centres are at half units."""
    return (value + 0.5) * scale - 0.5


def _covered(area: dict, canvas: Canvas, height: int, width: int) -> Tensor:
    """(H, W) bool."""
    if "runs" in area:
        return _from_runs(area["runs"], area.get("size", [canvas.width, canvas.height]), height, width)
    grid = (pixel_grid(height, width) + 0.5) * torch.tensor([canvas.width / width, canvas.height / height]) - 0.5
    if "ellipse" in area:
        x, y, rx, ry = (float(v) for v in area["ellipse"])
        return ((grid - torch.tensor([x, y])) / torch.tensor([max(rx, 0.5), max(ry, 0.5)])).square().sum(-1) <= 1
    return _inside_polygon(grid, torch.tensor(area["polygon"], dtype=torch.float32))


def _from_runs(runs: list[int], size: list[int], height: int, width: int) -> Tensor:
    lengths = torch.tensor(runs, dtype=torch.long)
    values = torch.arange(len(runs)) % 2 == 1
    mask = values.repeat_interleave(lengths).reshape(size[1], size[0])
    if mask.shape == (height, width):
        return mask
    return F.interpolate(mask[None, None].float(), (height, width), mode="bilinear", align_corners=False)[0, 0] >= 0.5


def _inside_polygon(points: Tensor, corners: Tensor) -> Tensor:
    """Even-odd rule: how often a ray to the right meets the outline."""
    inside = torch.zeros(points.shape[:-1], dtype=torch.bool)
    x, y = points.unbind(dim=-1)
    for (ax, ay), (bx, by) in zip(corners.tolist(), corners.roll(-1, 0).tolist()):
        if ay != by:
            crosses = (ay > y) != (by > y)
            inside ^= crosses & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return inside


def _region(item: dict) -> Region:
    area = item["area"]
    if "runs" in area:
        size, runs = [_side(v) for v in area["size"]], area["runs"]
        if not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != size[0] * size[1]:
            raise ValueError("an area's runs do not fill its raster")
    elif "polygon" in area:
        if len(area["polygon"]) < 3:
            raise ValueError("a polygon has fewer than three corners")
        area = {"polygon": [_pair(corner) for corner in area["polygon"]]}
    elif len(area["ellipse"]) != 4:
        raise ValueError("an ellipse needs four numbers")
    pivot = item.get("pivot")
    scale = _pair(item.get("scale", (1.0, 1.0)))
    if not all(0.01 <= abs(factor) <= 100 for factor in scale):
        raise ValueError("a region is scaled to nothing")
    return Region(
        area,
        None if pivot is None else _pair(pivot),
        _pair(item.get("move", (0.0, 0.0))),
        _number(item.get("turn", 0.0)),
        scale,
        bool(item.get("still", False)),
    )


def _pair(values) -> tuple[float, float]:
    x, y = values
    return _number(x), _number(y)


def _number(value) -> float:
    value = float(value)
    if not abs(value) <= 1e6:
        raise ValueError("a number is out of range")
    return value


def _side(value) -> int:
    if not isinstance(value, int) or not 1 <= value <= LARGEST:
        raise ValueError("a side is out of range")
    return value
