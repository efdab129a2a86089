"""Inversion-free edits as a SAMPLER of the host.

The host prepares the prompts of the guider before a SAMPLER runs, their ControlNets and hooks included. So the source
prompt is one of the guider's: the negative of CFG Guider, whose CFG then guides from the source to the target, as
FlowAlign does; or the second prompt of Dual CFG Guider, which has a negative and a CFG for either prompt besides, as
FlowEdit has them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..guidance.diffedit.heat_map import item_noises
from ..guidance.inversion_free import Mode, edited
from .compatibility import levels_of, require_invertible
from .content_cache import content_key
from .family import model_class
from .session import BodySampler, Session

TECHNIQUE = "Inversion-Free Edit"
FLOW_MODES = ("FlowEdit", "FlowAlign")
BOTH_PROMPTS = (
    "Inversion-Free Edit needs two prompts: connect CFG Guider (or Sampler Custom) with what the picture is to become "
    "as the positive and what it shows as the negative, or Dual CFG Guider with both and a negative."
)


class InversionFreeSampler(BodySampler):
    """The SAMPLER. mode: None: FlowEdit for flow models, DDCM for others."""

    def __init__(self, mode: Mode | None = None):
        super().__init__(self._run, gradients=False, ends=True)
        self.mode, self._seed = mode, 0

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        mode_for(self.mode, model_wrap.model_patcher)
        levels_of(model_wrap.model_patcher, sigmas)
        _require_prompts(model_wrap)
        if latent_image is None or not bool(torch.count_nonzero(latent_image)):
            raise ValueError("The latent image is empty: connect your picture through a VAE Encode node.")
        self._seed = int(extra_args.get("seed") or 0)
        return super().sample(model_wrap, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar)

    def _run(self, session: Session) -> Tensor:
        source, sigmas = session.latent, session.sigmas.tolist()
        batch, steps = source.shape[0], len(sigmas) - 1
        scale = getattr(session.model.model_sampling, "noise_scale", 1.0)
        noises = item_noises(source.shape[1:], steps, self._seed, range(batch))
        return edited(
            lambda p, q, sigma: predicted(session, p, q, sigma),
            source,
            sigmas,
            [scale * one.to(source) for one in noises],
            mode_for(self.mode, session.patcher),
            flow=require_invertible(session.patcher, TECHNIQUE) == "flow",
            mask=session.mask,
            on_step=lambda i, n, x: session.report(i, n, x, x),
        )


def predicted(session: Session, p: Tensor, q: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """D_p for the target and D_q for the source prompt, with the guider's own guidance."""
    guider = session.guider
    if "middle" not in session.conds:
        return session.guided(p, sigma), session.denoise(q, sigma, "negative")
    target = session.guided_by(p, sigma, "positive", "negative", guider.cfg1)
    return target, session.guided_by(q, sigma, "middle", "negative", guider.cfg2)


def mode_for(mode: Mode | None, model) -> Mode:
    """The mode that serves a MODEL. Raises ValueError for one of the other kind of models."""
    flow = require_invertible(model, TECHNIQUE) == "flow"
    if mode is None:
        return "FlowEdit" if flow else "DDCM"
    if (mode in FLOW_MODES) != flow:
        kind, fit = ("is a flow model", " or ".join(FLOW_MODES)) if flow else ("is no flow model", "DDCM")
        raise ValueError(
            f"The mode '{mode}' does not serve this model ({model_class(model)}), which {kind}: choose {fit}, or 'by "
            "the model'."
        )
    return mode


def _require_prompts(guider) -> None:
    """The guider has a target and a source prompt, and they differ."""
    prompts = guider.original_conds
    source = "middle" if "middle" in prompts else "negative"
    if not prompts.get("positive") or not prompts.get(source):
        raise ValueError(BOTH_PROMPTS)
    keys = [
        content_key([{name: value for name, value in entry.items() if name != "uuid"} for entry in prompts[one]])
        for one in ("positive", source)
    ]
    if keys[0] is not None and keys[0] == keys[1]:
        raise ValueError(
            "The source and the target prompt are the same, so nothing would change: write into the target what the "
            "picture is to become."
        )
