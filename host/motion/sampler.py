"""Motion Guidance as a SAMPLER of the host, under the stock samplers' guider.

The loop itself is `guidance/motion/guided_ddim.py`.

The diffusion model, the VAE and the flow network are loaded together, or the host would move them in turns. In fast
mode the model runs as in any sampling; only the pull at the clean estimate is differentiated. A batch that does not fit
goes in parts, which come out as the whole would.
"""

from __future__ import annotations

import time
from functools import partial

import comfy.model_management
import torch
from torch import Tensor

from ...guidance.anchor import Anchor
from ...guidance.motion.loss import counted_pixels
from ...guidance.motion.recipe import MotionRecipe, Record, combined
from ...inversion.trajectory import Trajectory
from ..batching import cuttable, part_of
from ..compatibility import require_same_kind
from ..family import latent_format
from ..memory import GRADIENT_BATCHES, chunked, is_out_of_memory, or_sparing
from ..notify import notify
from ..session import BodySampler, Session
from ..validation import require_vae_of
from .networks import Tools, too_large
from .rows import HostSetting, Motion, RowsRun, WholeBatch


class FlowGuidanceSampler(BodySampler):
    """The SAMPLER. colour, motion_weight: weights of the losses."""

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
        self.seconds = 0.0
        # The parts of the last run, each with its number of rows; None before the first.
        self.parts: list[tuple[int, Record]] | None = None
        self._seed, self._at_once, self._cuttable = 0, 0, True

    @property
    def record(self) -> Record | None:
        """What happened in the last run, for the report; None before."""
        return None if self.parts is None else combined(self.parts) if self.parts else Record()

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
            self.sparing, self.parts = sparing, []
            return run()

        self._cuttable = noise.shape[0] == 1 or cuttable(model_wrap)
        try:
            self._at_once = self._load(model_wrap, noise.shape)
            short = self.recipe.faithful and self._at_once == 0
            return or_sparing(attempt, "Flow guidance", sparing=short, helps=self.recipe.faithful)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            rows = 1 if self._cuttable else noise.shape[0]
            raise MemoryError(too_large(self.recipe, self.tools, rows)) from error
        finally:
            self.seconds = time.perf_counter() - began

    def _load(self, model_wrap, shape) -> int:
        """Loads everything together, ControlNets and the like included. Returns how many rows fit at once by the host's
        estimate, 0 where not even one does."""
        patcher, decoder, batch = model_wrap.model_patcher, self.tools.decoder, shape[0]
        graphs = GRADIENT_BATCHES if self.recipe.faithful else 1

        def need(rows: int) -> float:
            decoding = 3.0 * decoder.memory_used_decode((rows, *shape[1:]), decoder.vae_dtype) * rows
            return patcher.model.memory_required([rows * 2 * graphs, *shape[1:]]) + decoding

        together = [patcher, *model_wrap.loaded_models, *self.tools.patchers]
        least = need(1 if self._cuttable else batch)
        comfy.model_management.load_models_gpu(together, memory_required=need(batch), minimum_memory_required=least)
        device = patcher.load_device
        if comfy.model_management.is_device_cpu(device):
            return batch
        free = comfy.model_management.get_free_memory(device)
        return next((rows for rows in range(batch, 0, -1) if need(rows) <= free), 0)

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
        motions, batch, whole = self.motion, session.latent.shape[0], WholeBatch(session)
        # One motion has one window, whichever rows it is cut for.
        beside = counted_pixels(motions.landing, motions.grow) if motions.flow.shape[0] > 1 else None
        if not bool(motions.free(session).any()):
            notify("The flow moves nothing inside what may change: the picture comes back as it is.")

        def part(rows: slice) -> Tensor:
            run = RowsRun(
                motion=motions.part(rows),
                beside=beside,
                tools=self.tools,
                recipe=self.recipe,
                colour=self.colour,
                motion_weight=self.motion_weight,
                record=Record(),
            )
            self.parts.append((rows.stop - rows.start, run.record))
            try:
                with part_of(session, rows) as mine:
                    return run.run(mine, self._setting(mine, rows, whole))
            except Exception as error:
                if is_out_of_memory(error):
                    self.parts.pop()
                raise

        if not self._cuttable:
            return part(slice(0, batch))
        return torch.cat(chunked(part, batch, size=max(1, self._at_once), what="The batch of pictures"))

    def _setting(self, session: Session, rows: slice, whole: WholeBatch) -> HostSetting:
        path = self.trajectory
        if path is not None and 1 < path.rows == whole.session.latent.shape[0]:
            path = path.part(rows)
        return HostSetting(session, path, self._seed, self.tools.patchers, rows=rows, whole=whole, sparing=self.sparing)
