"""Flow fields: where every pixel of a picture goes (the target of Motion Guidance, arXiv 2401.18085, section 3).

A flow is a plain tensor (B, H, W, 2), float32, in pixels, on the grid of the *source*: the pixel at (x, y) goes to
(x, y) + flow, x right, y down. A pixel whose vector is exactly zero stays where it is and counts as background.
Layers (B, H, W), 0..1, say who lies in front where two things land on one place: larger is nearer.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..morphology import covered


@dataclass(frozen=True)
class Transform:
    """What happens to a region about its pivot: first the perspective, then stretch, scale and turn, then the move.

    move: pixels (x right, y down); turn: degrees clockwise; scale: factor; stretch: factor along the line at
    `stretch_angle` degrees clockwise from the x axis; perspective: how much farther away the region's right and lower
    end is than its pivot, in -0.9..0.9 (0.5 shrinks that end to two thirds).
    """

    move: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0
    scale: float = 1.0
    stretch: float = 1.0
    stretch_angle: float = 0.0
    perspective: tuple[float, float] = (0.0, 0.0)

    def matrix(self) -> Tensor:
        """(2, 2) float64: turn x scale x stretch, acting on column vectors (x, y)."""
        c, s = cos(radians(self.turn)), sin(radians(self.turn))
        u = torch.tensor([cos(radians(self.stretch_angle)), sin(radians(self.stretch_angle))], dtype=torch.float64)
        stretch = torch.eye(2, dtype=torch.float64) + (self.stretch - 1) * torch.outer(u, u)
        return self.scale * torch.tensor([[c, -s], [s, c]], dtype=torch.float64) @ stretch


def pixel_grid(height: int, width: int, *, dtype=torch.float32, device=None) -> Tensor:
    """(H, W, 2): the point (x, y) of every pixel."""
    y = torch.arange(height, dtype=dtype, device=device)
    x = torch.arange(width, dtype=dtype, device=device)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def check_flow(flow: object, name: str = "flow") -> Tensor:
    """The flow as (B, H, W, 2) float32; ValueError with one sentence if it is none, is empty or holds NaN."""
    if not isinstance(flow, Tensor) or flow.ndim != 4 or flow.shape[-1] != 2 or flow.numel() == 0:
        shape = tuple(flow.shape) if isinstance(flow, Tensor) else type(flow).__name__
        raise ValueError(f"The input '{name}' is not a flow (B, H, W, 2) but {shape}: connect one of the Flow nodes.")
    if not torch.isfinite(flow).all():
        raise ValueError(f"The input '{name}' holds NaN or infinite vectors: make it again, or limit the perspective.")
    return flow.float()


def moving(flow: Tensor) -> Tensor:
    """(B, H, W) bool: the pixels that go anywhere."""
    return (flow != 0).any(dim=-1)


def described(flow: Tensor) -> str:
    """What one flow (H, W, 2) does, for people: how much moves, and the mean of its vectors."""
    moved = moving(flow)
    if not bool(moved.any()):
        return "Nothing moves."
    x, y = (round(value) for value in flow[moved].mean(0).tolist())
    parts = [f"{abs(x)} px to the {'right' if x > 0 else 'left'}"] if x else []
    parts += [f"{abs(y)} px {'down' if y > 0 else 'up'}"] if y else []
    return f"{covered(moved)} moved {' and '.join(parts) or 'about its middle'}."


def region_of(mask: Tensor) -> Tensor:
    """A soft mask (B, H, W) in 0..1 -> bool: the pixels that belong to the region."""
    return mask >= 0.5


def settle(flow: Tensor) -> Tensor:
    """Vectors under a millionth of a pixel are rounding (a full turn, equal points) and become exactly zero."""
    return torch.where(flow.abs().amax(dim=-1, keepdim=True) < 1e-6, 0.0, flow)


def centre_of(region: Tensor, kind: str = "centre") -> Tensor:
    """(2,) float64 point (x, y) of a region (H, W) bool: its centre of mass ('centre') or of its box ('box')."""
    y, x = torch.nonzero(region, as_tuple=True)
    points = torch.stack((x, y), dim=-1).double()
    if not len(points):
        raise ValueError("The mask is empty, so nothing can move: paint or select the region to be moved.")
    if kind == "box":
        return (points.amin(dim=0) + points.amax(dim=0)) / 2
    return points.mean(dim=0)


def transform_flow(mask: Tensor, transform: Transform, pivot: Tensor | str = "centre") -> Tensor:
    """The flow that applies `transform` to each region of `mask` (B, H, W) about `pivot`; zero outside -> (B, H, W, 2).

    pivot: a point (2,) in pixels, or 'centre' or 'box' of each region. The identity gives exactly zero.
    Raises ValueError where a mask is empty or the perspective turns a part of the region inside out.
    """
    change = transform.matrix() - torch.eye(2, dtype=torch.float64)
    move = torch.tensor(transform.move, dtype=torch.float64)
    grid = pixel_grid(*mask.shape[1:], dtype=torch.float64)
    flows = []
    for region in region_of(mask).cpu():
        offset = grid - (centre_of(region, pivot) if isinstance(pivot, str) else pivot.double())
        half = _half_extent(offset, region)
        depth = 1 + (offset / half) @ torch.tensor(transform.perspective, dtype=torch.float64)
        if depth[region].min() < 0.05:
            raise ValueError("The perspective is so strong that it turns the region inside out: bring it nearer to 0.")
        depth = depth[..., None]
        # (A d) / w - d, written so that no perspective and A = 1 leave exactly nothing.
        vectors = (offset @ change.T - (depth - 1) * offset) / depth + move
        flows.append(torch.where(region[..., None], vectors, 0.0))
    return settle(torch.stack(flows)).float().to(mask.device)


def _half_extent(offset: Tensor, region: Tensor) -> Tensor:
    """(2,) how far the region reaches from its pivot along x and y; the unit of the perspective."""
    if not region.any():
        raise ValueError("The mask is empty, so nothing can move: paint or select the region to be moved.")
    return offset[region].abs().amax(dim=0).clamp_min(1.0)


def resize_flow(flow: Tensor, height: int, width: int) -> Tensor:
    """The flow (B, H, W, 2) on another grid, its vectors scaled with the picture; what stood still stands still."""
    if flow.shape[1:3] == (height, width):
        return flow
    scale = torch.tensor([width / flow.shape[2], height / flow.shape[1]], dtype=flow.dtype, device=flow.device)
    moves = rearrange(moving(flow).to(flow.dtype), "b h w -> b 1 h w")
    vectors = rearrange(flow, "b h w c -> b c h w")
    resize = lambda picture: F.interpolate(picture, (height, width), mode="bilinear", align_corners=False)
    fraction = resize(moves)
    # Vectors are averaged over moving pixels only, or the rim of an object would lag behind it.
    mean = resize(vectors) / fraction.clamp_min(1e-6)
    return rearrange(torch.where(fraction >= 0.5, mean, 0.0), "b c h w -> b h w c") * scale


def resize_layers(layers: Tensor, height: int, width: int) -> Tensor:
    """Layers (B, H, W) on another grid; no layer is invented between two."""
    if layers.shape[1:] == (height, width):
        return layers
    return F.interpolate(layers[:, None], (height, width), mode="nearest-exact")[:, 0]


def default_layers(flow: Tensor) -> Tensor:
    """(B, H, W) float32: what moves lies in front of what stays (the rule of the paper's occlusion mask)."""
    return moving(flow).float()


def compose_flows(flows: list[Tensor], in_front: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Several objects' flows, front to back -> (flow (B, H, W, 2), layers (B, H, W)).

    Where two flows move the same source pixel the front one has it. `in_front` (B, H, W): what stays where it is and
    hides whatever passes. All sizes are brought to the first flow's; batches of one are repeated.
    """
    batch = max(flow.shape[0] for flow in flows)
    height, width = flows[0].shape[1:3]
    fitted = [expand_batch(resize_flow(flow, height, width), batch) for flow in flows]
    total, layers = torch.zeros_like(fitted[0]), torch.zeros(fitted[0].shape[:3], device=flows[0].device)
    for depth, flow in enumerate(reversed(fitted), start=1):
        seen = moving(flow)
        total = torch.where(seen[..., None], flow, total)
        layers = torch.where(seen, depth / (len(flows) + 1), layers)
    if in_front is not None:
        still = region_of(expand_batch(resize_layers(in_front.to(total), height, width), batch))
        total = torch.where(still[..., None], 0.0, total)
        layers = torch.where(still, 1.0, layers)
    return total, layers


def expand_batch(values: Tensor, batch: int) -> Tensor:
    """A batch of one repeated to `batch`; any other batch must have that size already."""
    if values.shape[0] == batch:
        return values
    if values.shape[0] != 1:
        raise ValueError(
            f"Batches of {values.shape[0]} and {batch} do not fit: give one flow, or one for each picture."
        )
    return values.expand(batch, *values.shape[1:])
