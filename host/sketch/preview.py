"""What an edge predictor sees in a picture at chosen noise levels, as pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...guidance.sketch.predictor import EdgePredictor
from ...inversion.diffusion import noised
from ..family import diffusion_model
from ..gradients import plain
from ..session import Session, with_denoiser
from ..unet_features import read_features
from ..validation import require_finite
from .layers import require_channels
from .training import LevelRange


def predicted_edges(
    model, vae, predictor: EdgePredictor, picture: Tensor, prompt: list, fractions: Sequence[float], seed: int
) -> Tensor:
    """picture: (1, H, W, 3) in 0..1, sides multiples of 8; fractions: of a run, 0 = pure noise. Returns (N, H, W,
    3)."""
    raw = require_finite(vae.encode(picture[..., :3]), "The encoded picture")
    network, taps = diffusion_model(model), predictor.spec.taps
    levels = LevelRange(model.get_model_object("model_sampling"), 0.0, 1.0).sigmas(torch.tensor(list(fractions)))
    size = tuple(raw.shape[-2:])

    def body(session: Session) -> list[Tensor]:
        seen = []
        noise = torch.randn(session.latent.shape, generator=torch.Generator().manual_seed(seed)).to(session.device)
        for number, sigma in enumerate(levels):
            x = noised(session.latent, noise, sigma)
            read = read_features(network, taps, lambda: session.denoise(x, sigma), x.shape, "Edge Predictor Preview")
            features = [plain(feature).cpu() for feature in read]
            require_channels(predictor.spec, features)
            out = predictor.edges(dict(zip(taps, features)), sigma.expand(1), size)
            seen.append(session.to_raw(out) if predictor.spec.target == "latent" else out)
            session.report(number, len(levels))
        return seen

    order = torch.cat((levels, levels.new_zeros(1))) if len(levels) == 1 else levels
    seen = with_denoiser(model, {"positive": prompt}, raw, order, body)
    if predictor.spec.target == "latent":
        return torch.cat([vae.decode(one)[..., :3].cpu().float() for one in seen])
    enlarged = [F.interpolate(one, size=tuple(picture.shape[1:3]), mode="bilinear") for one in seen]
    return torch.cat(enlarged)[:, 0, :, :, None].expand(-1, -1, -1, 3).contiguous()
