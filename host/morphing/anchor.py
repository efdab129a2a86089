"""The key pictures of a morph kept exact in any sampling run, and the frames between corrected with them."""

from __future__ import annotations

from dataclasses import dataclass

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...guidance.anchor import Anchor
from ...morphing.key_correction import hold
from ...morphing.schedule import Alphas
from ..inversion.anchor import KEY

NODE = "Trajectory Anchor"


def key_corrected(model, anchor: Anchor, alphas: Alphas):
    """A clone of the MODEL whose sampling keeps key pictures exact as `morphing/key_correction.py` says.

    anchor: of the K key pictures' trajectory, with its mask and its strength; a strength of 0 gives the plain clone.
    Raises ValueError if the key pictures are not as many as those of `alphas`.
    """
    pictures = anchor.trajectory.rows
    if pictures != alphas.keyframes:
        raise ValueError(
            f"The trajectory holds {pictures} pictures, but the morph has {alphas.keyframes} key pictures: connect "
            "`keys` of Morph Latents."
        )
    clone = model.clone()
    if anchor.strength <= 0:
        return clone
    correction = _KeyCorrection(anchor, alphas)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, correction.outer_sample)
    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, correction.predict_noise)
    return clone


@dataclass(frozen=True)
class _KeyCorrection:
    """Where a sampling run is corrected: what the model sees, and the result. Keeps nothing between calls."""

    anchor: Anchor
    alphas: Alphas

    def outer_sample(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        """Before anything is loaded: does it fit? After the last step: the key pictures themselves."""
        self.anchor.check_reach(latent_image, float(sigmas[0]))
        self._rows(latent_image.shape[0])
        last = sigmas[-1].clone()  # UniPC writes into the schedule
        samples = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        patcher = executor.class_obj.model_patcher
        scaled = self.anchor.level(float(last)).to(samples)
        raw = patcher.get_model_object("model_sampling").inverse_noise_scaling(last.to(samples), scaled)
        return self._moved(samples, patcher.model.process_latent_out(raw))

    def predict_noise(self, executor, x, timestep, model_options={}, seed=None):
        """Each model call. `x` may be the sampler's own tensor, so it is replaced and not written into."""
        moved = self._moved(x, self.anchor.level(float(timestep.flatten()[0])))
        return executor(moved, timestep, model_options, seed)

    def _moved(self, x: Tensor, keys: Tensor) -> Tensor:
        rows = self._rows(x.shape[0])
        used = rows.needed()
        key_rows = [rows.frame_of(key) for key in used]
        return hold(x, keys[list(used)], rows.weights()[:, used], key_rows, 1.0 - self.anchor.weight(x))

    def _rows(self, batch: int) -> Alphas:
        """The alphas of all rows: the frames, and after them the extra key pictures of Attention Blend."""
        frames = self.alphas
        missing = tuple(key for key in frames.needed() if frames.frame_of(key) is None)
        if batch == len(frames) + len(missing):
            return Alphas((*frames.values, *map(float, missing)), frames.keyframes, frames.cyclic)
        if batch != len(frames):
            raise ValueError(
                f"{NODE} was given ALPHAS of {len(frames)} frames, but {batch} pictures are to be sampled: give Morph "
                "Latents and this node the same ALPHAS."
            )
        raise ValueError(
            f"The frames lean on key picture {missing[0]}, which is none of them: put {NODE} behind an Attention Blend "
            "with `keys` connected, which carries it along, or choose frames that contain it."
        )
