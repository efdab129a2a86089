"""The networks of Motion Guidance beside the diffusion model, and the small decoder that gradients go through.

That is the host's own preview decoder of the model's latents (the taesd kind: a twentieth of a full VAE's arithmetic),
whose file lies in models/vae_approx, where the host's previews and its Load VAE node look for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import comfy.sd
import folder_paths
import torch
from comfy.taesd.taesd import TAESD

from ...guidance.motion.recipe import MotionRecipe
from ..notify import notify

FOLDER, ENDING = "vae_approx", "_decoder"


def is_small(vae) -> bool:
    """Whether a VAE is of the taesd kind itself."""
    return isinstance(vae.first_stage_model, TAESD)


def decoder_name(form) -> str | None:
    """The name of the preview decoder's file without its ending, for a latent format; None where there is none.

    Latents that are shifted channel by channel, and those of videos, have decoders of other kinds.
    """
    name = getattr(form, "taesd_decoder_name", None)
    return name if name and name.endswith(ENDING) and not hasattr(form, "latents_mean") else None


def preview_decoder(form):
    """A VAE that only decodes, from the preview decoder's file of a latent format; None where the file is missing, or
    (said on the node) holds another network."""
    name = decoder_name(form)
    files = [file for file in folder_paths.get_filename_list(FOLDER) if name and file.startswith(f"{name}.")]
    if not files:
        return None
    channels = form.latent_channels
    try:
        network = TAESD(None, folder_paths.get_full_path_or_raise(FOLDER, files[0]), latent_channels=channels)
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        notify(
            f"The file {files[0]} in models/vae_approx is no preview decoder of this model "
            f"({type(error).__name__}): download it again."
        )
        return None
    with torch.no_grad():
        network.vae_scale.fill_(form.scale_factor)
        network.vae_shift.fill_(getattr(form, "shift_factor", 0.0) or 0.0)
    return comfy.sd.VAE(sd=network.state_dict(), metadata={"tae_latent_channels": channels})


@dataclass(frozen=True)
class Tools:
    """The networks beside the diffusion model. vae: the model's own. optical_flow: the host's ModelPatcher, or None.
    updates: of each flow estimate. gradient_vae: a small preview decoder for the gradients; None: see `with_decoder`.
    """

    vae: object
    optical_flow: object | None = None
    updates: int = 5
    largest: int = 512
    gradient_vae: object | None = None

    @property
    def decoder(self):
        """The VAE that decodes for the gradients."""
        return self.vae if self.gradient_vae is None else self.gradient_vae

    @property
    def patchers(self) -> list:
        return [self.decoder.patcher] + ([self.optical_flow] if self.optical_flow is not None else [])

    def with_decoder(self, recipe: MotionRecipe, form) -> Tools:
        """Where fast mode wants gradients and only a full VAE is there: the host's preview decoder, if it is found."""
        if self.gradient_vae is not None or recipe.faithful or recipe.inner == 0 or is_small(self.vae):
            return self
        found, name = preview_decoder(form), decoder_name(form)
        if found is None:
            file = f"put {name}.safetensors into models/vae_approx, or " if name else ""
            notify(
                f"The full VAE decodes for the gradients, which is slow: {file}connect a small preview decoder (a "
                "VAE of the taesd kind) as gradient_vae."
            )
        return replace(self, gradient_vae=found)


def too_large(recipe: MotionRecipe, tools: Tools, rows: int) -> str:
    """The sentence for guidance that does not fit into memory: what would help and is not done already."""
    helps = []
    if not is_small(tools.decoder):
        helps.append("connect a small preview decoder (a VAE of the taesd kind) as gradient_vae")
    if recipe.faithful:
        helps.append("choose another preset than faithful")
    if rows > 1:
        helps.append(f"sample fewer than {rows} pictures at once")
    if tools.optical_flow is not None:
        helps.append("leave optical_flow open")
    return f"The guidance does not fit into memory: {', or '.join(helps or ['use a smaller picture'])}."
