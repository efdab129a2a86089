"""The VAE for gradients: picture values in -1..1 without the clamp that would kill them."""

from __future__ import annotations

from torch import Tensor

from ..gradients import plain


class DifferentiableVAE:
    """The decoder of a loaded VAE, for `gradients_through` its patcher.

    form: the host's latent format, or None where latents are raw.
    """

    def __init__(self, vae, form=None):
        self.network, self.form, self.dtype = vae.first_stage_model, form, vae.vae_dtype
        self.device = vae.patcher.load_device

    def decode(self, latent: Tensor) -> Tensor:
        """latent (B, C, h, w), scaled form (raw without a format) -> picture (B, 3, H, W), about -1..1, not clamped."""
        raw = self.form.process_out(latent) if self.form is not None else latent
        return self.network.decode(plain(raw).to(self.device, self.dtype)).float()
