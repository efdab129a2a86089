"""What a fit keeps in memory at the size that artists work at, without the work: on tensors that have no values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..random_sd1 import unet_of_stable_diffusion_1

SIDE, TEXT = 64, (77, 768)


class _Attention(torch.autograd.Function):
    """What the fused kernels of a GPU keep: queries, keys, values and the result, and no maps."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


@contextmanager
def fused_attention() -> Iterator[None]:
    """Inside, the host's attention keeps what a fused kernel would."""
    import comfy.ldm.modules.attention as attention

    before = attention.optimized_attention, attention.optimized_attention_masked
    fused = lambda q, k, v, heads, *rest, **options: _Attention.apply(q, k, v)
    attention.optimized_attention = attention.optimized_attention_masked = fused
    try:
        yield
    finally:
        attention.optimized_attention, attention.optimized_attention_masked = before


def network() -> nn.Module:
    """Stable Diffusion 1's UNet in half precision, without values."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    facts = {**unet_of_stable_diffusion_1(), "num_heads": 8}
    made = UNetModel(**facts, dtype=torch.float16, device="meta", operations=comfy.ops.disable_weight_init)
    return made.requires_grad_(False)


def kept_for_backward(rows: int) -> float:
    """Megabytes that the graph of `rows` predictions at 512x512 keeps, weights left out."""
    from ...host.inversion.backward_chunks import bytes_kept

    with torch.inference_mode(False), fused_attention():
        unet, empty = network(), {"device": "meta", "dtype": torch.float16}
        x, text = torch.empty(rows, 4, SIDE, SIDE, **empty), torch.empty(rows, *TEXT, **empty, requires_grad=True)
        ask = lambda: unet(x, torch.empty(rows, device="meta"), context=text)
        return bytes_kept(ask, unet.parameters()) / 2**20
