"""The VAE for gradients: picture values in -1..1 without the clamp that would kill them, latents in the scaled form."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from ..family import latent_format
from ..gradients import gradient_scope, plain
from ..validation import require_vae_of


class DifferentiableVAE:
    """decode and encode of a loaded VAE inside a gradient scope; made by `vae_gradients` or by hand in a scope.

    form: the host's latent format, or None where latents are raw.
    """

    def __init__(self, vae, form=None):
        self.network, self.form, self.dtype = vae.first_stage_model, form, vae.vae_dtype
        self.device = vae.patcher.load_device

    def decode(self, latent: Tensor) -> Tensor:
        """latent (B, C, h, w), scaled form (raw without a format) -> picture (B, 3, H, W), about -1..1, not clamped."""
        raw = self.form.process_out(latent) if self.form is not None else latent
        return self.network.decode(plain(raw).to(self.device, self.dtype)).float()

    def encode(self, picture: Tensor) -> Tensor:
        """picture (B, 3, H, W) in -1..1 -> latent (B, C, h, w), scaled form (raw without a format)."""
        raw = self.network.encode(plain(picture).to(self.device, self.dtype)).float()
        return self.form.process_in(raw) if self.form is not None else raw


@contextmanager
def vae_gradients(vae, model=None, *, shape: tuple[int, ...] | None = None) -> Iterator[DifferentiableVAE]:
    """Loads the VAE and yields it for gradients. model: the MODEL whose scaled latents it is to speak, None for raw.

    shape: (B, C, h, w) of the latents to come, so that the host makes room for the forward and backward pass.
    """
    if model is not None:
        require_vae_of(model, vae)
    memory = 3.0 * vae.memory_used_decode(shape, vae.vae_dtype) * shape[0] if shape else 0.0
    with gradient_scope(vae.patcher, memory=memory):
        yield DifferentiableVAE(vae, latent_format(model) if model is not None else None)
