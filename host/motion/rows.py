"""The rows of a Flow Guidance run that are in memory at once: where they start, what guides them, how it is computed.

Rows never meet, so the parts of a batch come out as they would in one piece.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

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
from ..family import latent_format, prediction
from ..gradients import gradients_through, plain
from ..progress import check_interrupt
from ..session import Session
from .decode import DifferentiableVAE
from .networks import Tools, is_small
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

    def part(self, rows: slice) -> Motion:
        """The motions of some rows of the batch; a single one holds for all rows."""
        cut = lambda values: values[rows] if values is not None and values.shape[0] > 1 else values
        landing = Landing(*(cut(getattr(self.landing, name)) for name in Landing.__dataclass_fields__))
        tensors = {name: cut(getattr(self, name)) for name in ("picture", "flow", "edit", "started")}
        return replace(self, landing=landing, **tensors)

    def free(self, session: Session) -> Tensor:
        """(B, 1, h, w) 1 where the latent may change: cells half in the edit mask, and all where something moves in it.

        A decoder reads past a cell, so that cells which the mask hardly touches would change the picture outside it.
        """
        cells = tuple(session.latent.shape[-2:])
        on = lambda mask: expand_batch(mask, session.latent.shape[0])[:, None].to(session.device, torch.float32)
        covered = F.adaptive_avg_pool2d(on(self.edit), cells) >= 0.5
        moves = F.adaptive_max_pool2d(on(self.edit & self.landing.edit_mask()), cells) > 0
        free = (covered | moves).float()
        return free if session.mask is None else free * (session.mask[:, :1] > 0.5).to(free)


@dataclass(frozen=True)
class RowsRun:
    """One run over some rows.

    motion: theirs. beside: (N, H, W) bool, the pixels that count of the whole batch's motions; None: as this part's.
    tools, recipe, colour, motion_weight: as `FlowGuidanceSampler` has them. record: filled as the run goes.
    """

    motion: Motion
    beside: Tensor | None
    tools: Tools
    recipe: MotionRecipe
    colour: float
    motion_weight: float
    record: Record

    def run(self, session: Session, setting: HostSetting) -> Tensor:
        """(B, C, h, w), scaled form."""
        free = self.motion.free(session)
        if not bool(free.any()):
            return setting.kept(float(session.sigmas[-1]), session.latent)
        return guided_ddim(
            self._start(session, setting),
            session.sigmas,
            setting,
            self._guide(session, setting, free),
            self.recipe,
            self.record,
            flow_model=setting.flow_model,
        )

    def _guide(self, session: Session, setting: HostSetting, free: Tensor) -> Guide:
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

    def _with_fast_parts(self, guide: Guide, session: Session, setting: HostSetting) -> Guide:
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
            window = cropped_loss(goal, self.tools.decoder.spacial_compression_decode(), beside=self.beside)
        moved = plain(self._moved(session, setting)).clone()
        left = ghost_removal(plain(setting.kept(0.0, session.latent)), moved, goal.landing, self.motion.grow)
        cheap = is_small(self.tools.decoder)
        return replace(
            guide, floor=floor, cropped_loss=window, moved=moved, settled=settled, ghost_removal=left, cheap=cheap
        )

    def _start(self, session: Session, setting: HostSetting) -> Tensor:
        """Fast: the moved picture at the first noise level. Faithful: the source's trajectory, or the source there."""
        if self.recipe.faithful and setting.anchor is not None:
            return setting.anchor.at(float(session.sigmas[0]), session.latent).clone()
        picture = session.latent if self.recipe.faithful else self._moved(session, setting)
        return plain(session.start(picture))

    def _moved(self, session: Session, setting: HostSetting) -> Tensor:
        """The moved picture's latent (B, C, h, w), scaled form."""
        batch = session.latent.shape[0]
        if self.motion.started is not None:
            raw = expand_batch(self.motion.started, batch).to(session.latent)
            return session.model.process_latent_in(raw)
        source = setting.kept(0.0, session.latent)
        height, width = source.shape[-2:]
        scaled = expand_batch(resize_flow(self.motion.flow, height, width), batch).to(source)
        return forward_warp(source, land(scaled), grow=1)


class HostSetting:
    """`guidance.motion.Setting` on the host: the guider's model, the source at every level, noise, progress.

    rows: these rows' place in the batch. whole: what the host is shown. sparing: gradients through the model
    keep the inputs of its blocks alone, as the paper's do.
    """

    def __init__(
        self,
        session: Session,
        trajectory: Trajectory | None,
        seed: int,
        patchers: list,
        *,
        rows: slice,
        whole: WholeBatch,
        sparing: bool = False,
    ):
        self.session, self.patchers, self.seed, self.rows = session, patchers, seed, rows
        self.whole, self.sparing = whole, sparing
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
        for row in range(self.rows.start, self.rows.start + like.shape[0]):
            generator = torch.Generator().manual_seed((self.seed + 7919 * index + 104729 * row) % 2**63)
            rows.append(torch.randn(like.shape[1:], generator=generator))
        return torch.stack(rows).to(like)

    @contextmanager
    def gradients(self):
        with gradients_through(self.patchers), self.session.checkpointed() if self.sparing else nullcontext():
            yield

    def report(self, step: int, x0: Tensor, x: Tensor) -> None:
        self.whole.report(self.rows, step, x0, x)


class WholeBatch:
    """What the host is shown of a batch that goes in parts: those that are done, the one at work, and the source."""

    def __init__(self, session: Session):
        self.session = session
        self._latest: dict[int, tuple[Tensor, Tensor]] = {}

    def report(self, rows: slice, step: int, x0: Tensor, x: Tensor) -> None:
        """As `Session.report`, of the part at `rows`."""
        steps, batch = len(self.session.sigmas) - 1, self.session.latent.shape[0]
        if x0.shape[0] == batch:
            self.session.report(step, steps, x0, x)
            return
        self._latest[rows.start] = (x0, x)
        done = [self._latest[start] for start in sorted(self._latest) if start <= rows.start]
        rest = self.session.latent[rows.stop :]
        whole = (torch.cat([*parts, rest]) for parts in zip(*done))
        self.session.report(rows.start * steps + (step + 1) * x0.shape[0] - 1, batch * steps, *whole)
