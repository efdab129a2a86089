"""Inpainting models see the mask of the inverted latent in every run on the trajectory, not in the inversion alone."""

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from palimpsest.inversion.trajectory_file import read_trajectory, write_trajectory
from palimpsest.nodes.inversion import DDIMInvert, InversionCheck
from palimpsest.nodes.inversion_null_text import NullTextOptimize

from ..diffedit.test_inpaint_model import inpainting_model
from ..tiny_models import tiny_cond, tiny_latent, tiny_vae
from .test_nodes import schedule
from .test_trajectory import make


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def watched():
    """An inpainting MODEL, and the masks that its network has been shown, one a call."""
    model, seen = inpainting_model(), []

    def spy(executor, x, t, c_concat=None, *args, **kwargs):
        seen.append(c_concat[:, :1].clone())
        return executor(x, t, c_concat, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "spy", spy)
    return model, seen


def mask_of(rows: int) -> torch.Tensor:
    mask = torch.zeros(rows, 8, 8)
    for row in range(rows):
        mask[row, :, : 4 - row] = 1.0
    return mask


def inverted(model, rows=1):
    latent = {"samples": tiny_latent("sd1", rows), "noise_mask": mask_of(rows)}
    return DDIMInvert.execute(model, latent, schedule(model, 3), positive=tiny_cond("sd1")).args[0]


@pytest.mark.parametrize("rows", [1, 2])
def test_the_check_shows_the_model_the_mask(watched, rows):
    model, seen = watched
    trajectory = inverted(model, rows)
    made = [one.clone() for one in seen]
    seen.clear()
    InversionCheck.execute(model, tiny_vae(), trajectory, positive=tiny_cond("sd1"))
    assert made and seen
    assert all(torch.equal(one, mask_of(rows)[:, None]) for one in (*made, *seen))


@pytest.mark.parametrize("mode", ["fast", "faithful"])
def test_null_text_shows_the_model_the_mask(watched, mode):
    model, seen = watched
    trajectory = inverted(model)
    seen.clear()
    options = {"mode": mode, "negative": tiny_cond("sd1", seed=1), "inner_steps": 1}
    NullTextOptimize.execute(model, trajectory, tiny_cond("sd1"), cfg=3.0, **options)
    assert seen and all(torch.equal(one[:1], mask_of(1)[:, None]) for one in seen)


@pytest.mark.parametrize("mask", [None, mask_of(2)])
def test_a_file_keeps_the_mask(tmp_path, mask):
    write_trajectory(make(noise_mask=mask), tmp_path / "one.safetensors")
    read = read_trajectory(tmp_path / "one.safetensors").noise_mask
    assert read is None if mask is None else torch.equal(read, mask)


@pytest.mark.parametrize("mask", [torch.zeros(3, 8, 8), torch.zeros(8), torch.zeros(1, 8, 8).half()])
def test_a_mask_that_does_not_belong_is_refused(mask):
    with pytest.raises(ValueError, match="mask"):
        make(noise_mask=mask)
