"""Motion Guidance as a SAMPLER of the host, under the stock samplers' guider.

The loop itself is `guidance/motion/guided_ddim.py`.

The diffusion model, the VAE and the flow network are loaded together, or the host would move them in turns. In fast
mode the model runs as in any sampling; only the pull at the clean estimate is differentiated.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import comfy.model_management
import torch
import torch.nn.functional as F
from torch import Tensor

from ...guidance.anchor import Anchor
from ...guidance.flow.fields import expand_batch, resize_flow
from ...guidance.flow.warp import Landing, forward_warp, land
from ...guidance.motion.cropped_loss import cropped_loss
from ...guidance.motion.ghost_removal import ghost_removal
from ...guidance.motion.guided_ddim import Guide, guided_ddim
from ...guidance.motion.loss import objective
from ...guidance.motion.recipe import MotionRecipe, Record
from ...inversion.trajectory import Trajectory
from ..compatibility import require_same_kind
from ..family import latent_format, prediction
from ..gradients import gradients_through, plain
from ..memory import GRADIENT_BATCHES, is_out_of_memory, or_sparing
from ..notify import notify
from ..progress import check_interrupt
from ..session import BodySampler, Session
from ..validation import require_vae_of
from .decode import DifferentiableVAE
from .networks import Tools, is_small, too_large
from .optical_flow import SourceFlow

# Layers that look at the whole picture at once: a decoder that has one cannot be given a part of it.
WHOLE = (torch.nn.GroupNorm, torch.nn.LayerNorm, torch.nn.InstanceNorm2d, torch.nn.MultiheadAttention)


@dataclass(frozen=True)
class Motion:
    """What is to move, prepared by the node; all on the CPU, of the picture's size H x W.

    picture: (B, 3, H, W) in 0..1. flow: (B, H, W, 2). landing: where it goes. edit: (B, H, W) bool, what may change.
    grow: pixels round what left that are filled anew. started: raw latent (B, C, h, w) of the moved picture, or None
    to move the latent itself (a VAE without an encoder).
    """

    picture: Tensor
    flow: Tensor
    landing: Landing
    edit: Tensor
    grow: int
    started: Tensor | None = None


class FlowGuidanceSampler(BodySampler):
    """The SAMPLER. colour, motion: weights of the losses. record: of its last run, for the report; None before."""

    def __init__(
        self,
        motion: Motion,
        tools: Tools,
        recipe: MotionRecipe,
        *,
        colour: float = 100.0,
        motion_weight: float = 3.0,
        trajectory: Trajectory | None = None,
    ):
        super().__init__(self._run, gradients=recipe.faithful, ends=True)
        self.motion, self.tools, self.recipe, self.trajectory = motion, tools, recipe, trajectory
        self.given, self.sparing = tools, False
        self.colour, self.motion_weight = colour, motion_weight
        self.record: Record | None = None
        self.seconds = 0.0
        self._seed = 0

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        patcher = model_wrap.model_patcher
        self.tools = self.given.with_decoder(self.recipe, latent_format(patcher))
        self._check(patcher, noise, latent_image, sigmas)
        self._seed, began = int(extra_args.get("seed") or 0), time.perf_counter()
        run = partial(
            super().sample, model_wrap, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar
        )

        def attempt(sparing: bool) -> Tensor:
            self.sparing, self.record = sparing, Record()
            return run()

        try:
            short = self._load(model_wrap, noise.shape)
            return or_sparing(attempt, "Flow guidance", sparing=short, helps=self.recipe.faithful)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryError(too_large(self.recipe, self.tools, rows=noise.shape[0])) from error
        finally:
            self.seconds = time.perf_counter() - began

    def _load(self, model_wrap, shape) -> bool:
        """Everything together, ControlNets and the like included; whether faithful gradients have to save memory."""
        patcher, decoder, batches = model_wrap.model_patcher, self.tools.decoder, 1
        if self.recipe.faithful:
            batches = GRADIENT_BATCHES
        need = patcher.model.memory_required([shape[0] * 2 * batches, *shape[1:]])
        need += 3.0 * decoder.memory_used_decode(tuple(shape), decoder.vae_dtype) * shape[0]
        together = [patcher, *model_wrap.loaded_models, *self.tools.patchers]
        comfy.model_management.load_models_gpu(together, memory_required=need)
        device = patcher.load_device
        short = not comfy.model_management.is_device_cpu(device) and (
            need > comfy.model_management.get_free_memory(device)
        )
        return self.recipe.faithful and short

    def _check(self, patcher, noise: Tensor, latent: Tensor | None, sigmas: Tensor) -> None:
        """Everything that can be said before the first step."""
        require_vae_of(patcher, self.tools.vae)
        require_vae_of(patcher, self.tools.decoder, "The VAE for the gradients")
        if noise.ndim != 4:
            raise ValueError("Flow Guidance works on pictures: this latent is a video's or of another kind.")
        ratio = self.tools.decoder.spacial_compression_decode()
        wide, high = noise.shape[3] * ratio, noise.shape[2] * ratio
        height, width = self.motion.picture.shape[-2:]
        if (high, wide) != (height, width):
            raise ValueError(
                f"The picture is {width} x {height}, but the latent is that of {wide} x {high}: connect "
                "the same picture, through VAE Encode, as the latent image."
            )
        motions, rows = self.motion.picture.shape[0], noise.shape[0]
        if motions not in (1, rows):
            raise ValueError(
                f"The flows and the pictures make {motions} motions, but the latent holds {rows}: bring "
                f"it to {motions} with Repeat Latent Batch, or connect one flow and one picture."
            )
        if self.trajectory is not None:
            require_same_kind(self.trajectory, patcher)
            Anchor(self.trajectory).check(noise, float(sigmas[0]))
        elif latent is None or not bool(torch.count_nonzero(latent)):
            raise ValueError(
                "The latent image is empty, so nothing can be kept: connect the picture through VAE "
                "Encode, or a TRAJECTORY of it."
            )

    def _run(self, session: Session) -> Tensor:
        free = self._free(session)
        setting = _HostSetting(session, self.trajectory, self._seed, self.tools.patchers, self.sparing)
        last = float(session.sigmas[-1])
        if not bool(free.any()):
            notify("The flow moves nothing inside what may change: the picture comes back as it is.")
            return setting.kept(last, session.latent)
        guide = self._guide(session, setting, free)
        return guided_ddim(
            self._start(session, setting),
            session.sigmas,
            setting,
            guide,
            self.recipe,
            self.record,
            flow_model=setting.flow_model,
        )

    def _free(self, session: Session) -> Tensor:
        """(B, 1, h, w) 1 where the latent may change: cells half in the edit mask, and all where something moves in it.

        A decoder reads past a cell, so that cells which the mask hardly touches would change the picture outside it.
        """
        motion, cells = self.motion, tuple(session.latent.shape[-2:])
        on = lambda mask: expand_batch(mask, session.latent.shape[0])[:, None].to(session.device, torch.float32)
        covered = F.adaptive_avg_pool2d(on(motion.edit), cells) >= 0.5
        moves = F.adaptive_max_pool2d(on(motion.edit & motion.landing.edit_mask()), cells) > 0
        free = (covered | moves).float()
        return free if session.mask is None else free * (session.mask[:, :1] > 0.5).to(free)

    def _guide(self, session: Session, setting: "_HostSetting", free: Tensor) -> Guide:
        motion, batch, device = self.motion, session.latent.shape[0], session.device
        vae = DifferentiableVAE(self.tools.decoder, latent_format(session.patcher))

        def decode(latent: Tensor) -> Tensor:
            check_interrupt()
            return vae.decode(latent).to(latent.device) / 2 + 0.5

        # Tensors made in inference mode cannot be saved for backward, so the objective is made outside it.
        with gradients_through(self.tools.patchers), torch.no_grad():
            on = lambda values: plain(expand_batch(values, batch)).to(device).clone()
            landing = Landing(*(on(getattr(motion.landing, name)) for name in Landing.__dataclass_fields__))
            goal = objective(
                on(motion.picture),
                on(motion.flow),
                landing,
                colour=self.colour,
                motion=self.motion_weight,
                grow=motion.grow,
            )
            network = self.tools.optical_flow
            flow_net = network and SourceFlow(
                network.model, goal.source, updates=self.tools.updates, largest=self.tools.largest
            )
            guide = Guide(goal, decode, flow_net, plain(free).clone()).counted_by(self.record)
            return guide if self.recipe.faithful else self._with_fast_parts(guide, session, setting)

    def _with_fast_parts(self, guide: Guide, session: Session, setting: "_HostSetting") -> Guide:
        """What the fast mode needs beside: where losses end, where the source's latent goes, the window that counts."""
        goal, network = guide.objective, guide.flow_net if self.recipe.flow_every > 0 else None
        floor = None
        if self.recipe.inner > 0:
            floor = goal.floor(guide.decode(plain(setting.kept(0.0, session.latent)).clone()), network)
        # Beside what arrives the model has more say: shadows fall there.
        trust = (goal.landing.arrived.float() + goal.counted.float()) / 2
        settled = F.adaptive_avg_pool2d(trust[:, None], tuple(session.latent.shape[-2:]))
        window = None
        if not any(isinstance(part, WHOLE) for part in self.tools.decoder.first_stage_model.modules()):
            window = cropped_loss(goal, self.tools.decoder.spacial_compression_decode())
        moved = plain(self._moved(session, setting)).clone()
        left = ghost_removal(plain(setting.kept(0.0, session.latent)), moved, goal.landing, self.motion.grow)
        cheap = is_small(self.tools.decoder)
        return replace(
            guide, floor=floor, cropped_loss=window, moved=moved, settled=settled, ghost_removal=left, cheap=cheap
        )

    def _start(self, session: Session, setting: "_HostSetting") -> Tensor:
        """Fast: the moved picture at the first noise level. Faithful: the source's trajectory, or the source there."""
        if self.recipe.faithful and setting.anchor is not None:
            return setting.anchor.at(float(session.sigmas[0]), session.latent).clone()
        picture = session.latent if self.recipe.faithful else self._moved(session, setting)
        return plain(session.start(picture))

    def _moved(self, session: Session, setting: "_HostSetting") -> Tensor:
        """The moved picture's latent (B, C, h, w), scaled form."""
        batch = session.latent.shape[0]
        if self.motion.started is not None:
            raw = expand_batch(self.motion.started, batch).to(session.latent)
            return session.model.process_latent_in(raw)
        source = setting.kept(0.0, session.latent)
        height, width = source.shape[-2:]
        scaled = expand_batch(resize_flow(self.motion.flow, height, width), batch).to(source)
        return forward_warp(source, land(scaled), grow=1)


class _HostSetting:
    """`guidance.motion.Setting` on the host: the guider's model, the source at every level, noise, progress.

    sparing: gradients through the model keep the inputs of its blocks alone, as the paper's do.
    """

    def __init__(self, session: Session, trajectory: Trajectory | None, seed: int, patchers: list, sparing: bool):
        self.session, self.patchers, self.seed, self.sparing = session, patchers, seed, sparing
        self.anchor = None if trajectory is None else Anchor(trajectory)
        self.flow_model = prediction(session.patcher) == "flow"

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        return self.session.guided(x, sigma)

    def kept(self, sigma: float, like: Tensor) -> Tensor:
        if self.anchor is not None:
            return self.anchor.at(sigma, like)
        if sigma == 0:
            return self.session.latent
        return self.noised(self.session.latent, self.session.noise, sigma)

    def noised(self, x0: Tensor, noise: Tensor, sigma: float) -> Tensor:
        level = torch.tensor(sigma, device=x0.device)
        return self.session.model.model_sampling.noise_scaling(level, noise, x0, False)

    def noise(self, index: int, like: Tensor) -> Tensor:
        """Row by row from the seed, so that a row gets the same noise in any batch."""
        rows = []
        for row in range(like.shape[0]):
            generator = torch.Generator().manual_seed((self.seed + 7919 * index + 104729 * row) % 2**63)
            rows.append(torch.randn(like.shape[1:], generator=generator))
        return torch.stack(rows).to(like)

    @contextmanager
    def gradients(self):
        with gradients_through(self.patchers), self.session.checkpointed() if self.sparing else nullcontext():
            yield

    def report(self, step: int, x0: Tensor, x: Tensor) -> None:
        self.session.report(step, len(self.session.sigmas) - 1, x0, x)
