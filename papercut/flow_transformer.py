"""Papercut-DiT: a flow transformer in Flux's layout, built from diffusers' modules, and its names in the host's file.

The model is diffusers' `FluxTransformer2DModel` with other rotary positions. A state at level sigma in 0..1 is
x = (1 - sigma) x0 + sigma eps; the model answers with the velocity eps - x0 (arXiv 2210.02747; 2403.03206).
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from .configs import TRANSFORMER, TransformerConfig


class SoftmaxAttention:
    """Flux's joint attention, written out: for a few hundred tokens torch's fused attention is slower on a CPU."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None):
        parts = [(attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k, hidden_states)]
        if encoder_hidden_states is not None:
            text = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn.norm_added_q, attn.norm_added_k)
            parts.insert(0, (*text, encoder_hidden_states))
        q, k, v = (torch.cat(rows, 2) for rows in zip(*(self._heads(attn, *part) for part in parts)))
        cos, sin = image_rotary_emb
        q, k = _turned(q, cos.to(q.dtype), sin.to(q.dtype)), _turned(k, cos.to(q.dtype), sin.to(q.dtype))
        weights = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1).to(v.dtype)
        out = rearrange(weights @ v, "b h n d -> b n (h d)")
        if encoder_hidden_states is None:
            return out
        text, picture = out.split_with_sizes([encoder_hidden_states.shape[1], hidden_states.shape[1]], 1)
        return attn.to_out[0](picture), attn.to_add_out(text)

    @staticmethod
    def _heads(attn, to_q, to_k, to_v, norm_q, norm_k, x):
        q, k, v = (rearrange(to(x), "b n (h d) -> b h n d", d=attn.head_dim) for to in (to_q, to_k, to_v))
        return _normed(q, norm_q), _normed(k, norm_k), v


def _normed(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    """`norm` in the type of x; torch has no fused path for a weight of another type."""
    return nn.functional.rms_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.eps)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: pairs of neighbouring channels of x (B, H, N, D) turned by the angles of each token (N, D)."""
    pairs = x.unflatten(-1, (-1, 2))
    crossed = torch.stack((-pairs[..., 1], pairs[..., 0]), -1).flatten(-2)
    return x * cos + crossed * sin


def new_transformer(config: TransformerConfig = TRANSFORMER) -> nn.Module:
    """An untrained transformer; every block begins as the identity (arXiv 2212.09748, adaLN-Zero)."""
    from diffusers import FluxTransformer2DModel
    from diffusers.models.transformers.transformer_flux import FluxPosEmbed

    model = FluxTransformer2DModel(**config.diffusers())
    model.pos_embed = FluxPosEmbed(theta=config.theta, axes_dim=config.axes)
    model.set_attn_processor(SoftmaxAttention())
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for module in (*modulations(model), model.proj_out):
        nn.init.zeros_(module.weight)
    return model


def modulations(model: nn.Module) -> list[nn.Linear]:
    """The layers that turn the level and the pooled text into shifts, scales and gates."""
    double = [norm.linear for block in model.transformer_blocks for norm in (block.norm1, block.norm1_context)]
    return [*double, *(block.norm.linear for block in model.single_transformer_blocks), model.norm_out.linear]


def to_tokens(latents: Tensor, patch: int = 2) -> Tensor:
    """(B, C, h, w) -> (B, h/2 * w/2, 4 C), in the host's order of numbers."""
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


def to_latents(tokens: Tensor, width: int, patch: int = 2) -> Tensor:
    """(B, h/2 * w/2, 4 C) -> (B, C, h, w); width: w, latent pixels."""
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", w=width // patch, p=patch, q=patch)


def positions(height: int, width: int, text_tokens: int, *, stride: int = 1) -> Tensor:
    """(text_tokens + height * width, 3): row and column of each picture token in the last two, text at the origin.

    stride: spacing of the tokens; 2 makes a picture of half the size span the whole one's positions.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    picture = torch.stack((torch.zeros_like(rows), rows * stride, columns * stride), -1).flatten(0, 1)
    return torch.cat((torch.zeros(text_tokens, 3, dtype=picture.dtype), picture)).float()


def run(model: nn.Module, x: Tensor, sigma: Tensor, text: Tensor, pooled: Tensor, *, stride: int = 1):
    """Latents x (B, C, h, w) at levels sigma (B,), text (B, T, 192), pooled (B, 192).

    Returns the velocity (B, C, h, w) and the picture tokens after the double blocks (B, h/2 * w/2, width).
    """
    ids = positions(x.shape[2] // 2, x.shape[3] // 2, text.shape[1], stride=stride)
    rotary = tuple(part.to(x.device) for part in model.pos_embed(ids))
    level = model.time_text_embed(sigma * 1000, pooled)
    words, picture = model.context_embedder(text), model.x_embedder(to_tokens(x))
    for block in model.transformer_blocks:
        words, picture = block(picture, words, level, rotary)
    features = picture
    for block in model.single_transformer_blocks:
        words, picture = block(picture, words, level, rotary)
    return to_latents(model.proj_out(model.norm_out(picture, level)), x.shape[3]), features


def velocity(model: nn.Module, x: Tensor, sigma: Tensor, text: Tensor, pooled: Tensor, *, stride: int = 1) -> Tensor:
    """As `run`, the velocity alone."""
    return run(model, x, sigma, text, pooled, stride=stride)[0]


def levels(steps: int, shift: float) -> Tensor:
    """(steps + 1,) from 1 to 0, moved towards the noise: shift s / (1 + (shift - 1) s), as the host's sampling does."""
    s = torch.linspace(1, 0, steps + 1)
    return shift * s / (1 + (shift - 1) * s)
