"""What Inversion Check does: a trajectory sampled back, and what came of it."""

from __future__ import annotations

import torch

from ..host.batching import by_rows
from ..host.family import latent_format
from ..host.guidance_patches import without_idle_guidance
from ..host.session import Session
from ..host.validation import require_picture
from ..inversion.ddim import replay
from ..inversion.gaussianity import gaussianity, unit_noise
from ..inversion.quality import psnr, ssim
from ..inversion.trajectory import Trajectory
from ..inversion.verdict import Check


def prompt_of(trajectory: Trajectory) -> str:
    """The text that makes the inversion's conditioning again; raises ValueError where a text alone does not."""
    if trajectory.prompt is None or not trajectory.prompt_is_all:
        raise ValueError(
            "The prompt of the inversion is not a text that CLIP alone could encode again (a ControlNet, an area, a "
            "combination or another encoder belongs to it), or it is not known: connect the positive prompt that "
            "DDIM Invert was given to Inversion Check as well."
        )
    return trajectory.prompt


def source_picture(image, trajectory: Trajectory, vae) -> torch.Tensor | None:
    """The connected picture (B, H, W, 3), a row for each of the trajectory's; None where none is connected."""
    if image is None:
        return None
    require_picture(image, "The image", multiple=1)
    scale = vae.spacial_compression_decode()
    size = tuple(side * scale for side in trajectory.latents.shape[-2:])
    # VAE Encode crops to whole latent pixels from the middle; what it left out cannot come back.
    top, left = ((have - want) // 2 for have, want in zip(image.shape[1:3], size))
    if not (0 <= image.shape[1] - size[0] < scale and 0 <= image.shape[2] - size[1] < scale):
        raise ValueError(
            f"The image is {image.shape[2]} x {image.shape[1]} and the trajectory's pictures are {size[1]} x "
            f"{size[0]}: connect the picture that was encoded."
        )
    if image.shape[0] not in (1, trajectory.rows):
        raise ValueError(
            f"There are {image.shape[0]} images and {trajectory.rows} pictures in the trajectory: connect the batch "
            "that was encoded, or one image for all."
        )
    cropped = image[:, top : top + size[0], left : left + size[1], :3].float().cpu()
    return cropped.expand(trajectory.rows, -1, -1, -1)


def round_trip(model, vae, trajectory: Trajectory, conds: dict, cfg: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (B, H, W, 3): the source through the VAE alone, and sampled back from the noise."""
    form = latent_format(model)
    raw = form.process_out(trajectory.latents[0])

    def body(session: Session, rows: slice):
        noisy = trajectory.latents[-1, rows].to(session.device)
        levels = trajectory.sigmas
        path = replay(session.guided, noisy, levels, on_step=lambda i, n, x, x0: session.report(i - 1, n, x0, x))
        return session.to_raw(path[0])

    parts = by_rows(
        without_idle_guidance(model, cfg, "Inversion Check"),
        conds,
        raw,
        trajectory.sigmas.flip(0),
        body,
        cfg=cfg,
        noise_mask=trajectory.noise_mask,
        what="The batch to sample back",
    )
    back = torch.cat(parts)
    return tuple(vae.decode(samples)[..., :3].float().cpu() for samples in (raw, back))


def measure(target, through_vae, reconstruction, trajectory: Trajectory, source) -> list[Check]:
    """One Check for each row. target: what the reconstruction is compared with."""
    top = float(trajectory.sigmas[-1])
    noise = gaussianity(unit_noise(trajectory.latents[-1], top, flow=trajectory.flow))
    bound = [None] * trajectory.rows if source is None else psnr(through_vae, source).tolist()
    columns = (
        psnr(reconstruction, target).tolist(),
        ssim(reconstruction, target).tolist(),
        bound,
        psnr(reconstruction, through_vae).tolist(),
        noise.mean.tolist(),
        noise.std.tolist(),
        noise.correlation.tolist(),
        noise.log_likelihood.tolist(),
    )
    return [Check(*row) for row in zip(*columns)]
