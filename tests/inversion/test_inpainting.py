"""Inpainting models see the mask of the inverted latent in every run on the trajectory, not in the inversion alone."""

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from palimpsest.guidance.prompt_to_prompt.token_alignment import Prompt
from palimpsest.host.prompt_to_prompt.word_maps import maps_of_picture, maps_of_trajectory
from palimpsest.inversion.trajectory_file import read_trajectory, write_trajectory
from palimpsest.nodes.best_seed import BestSeed
from palimpsest.nodes.diffedit import DiffEditMask
from palimpsest.nodes.inversion import DDIMInvert, InversionCheck
from palimpsest.nodes.inversion_null_text import NullTextOptimize

from ..diffedit.test_inpaint_model import PLAIN, inpainting_model
from ..tiny_models import tiny_cond, tiny_latent, tiny_model, tiny_vae
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


def word_maps(model, source):
    prompt = Prompt("a cat", (49406, 320, 2368, 49407))
    if isinstance(source, dict):
        return maps_of_picture(model, prompt, tiny_cond("sd1"), source, 2, 0)
    return maps_of_trajectory(model, prompt, tiny_cond("sd1"), source, 2)


@pytest.mark.parametrize("source", ["trajectory", "samples"])
def test_word_maps_are_read_with_the_mask(watched, source):
    model, seen = watched
    path = inverted(model) if source == "trajectory" else {"samples": tiny_latent("sd1"), "noise_mask": mask_of(1)}
    seen.clear()
    word_maps(model, path)
    assert seen and all(torch.equal(one, mask_of(1)[:, None]) for one in seen)


def test_diffedit_compares_prompts_with_the_mask(watched):
    model, seen = watched
    for rows in (1, 2):
        seen.clear()
        latent = {"samples": tiny_latent("sd1", rows), "noise_mask": mask_of(rows)}
        DiffEditMask.execute(model, tiny_cond("sd1", seed=1), tiny_cond("sd1", seed=2), latent, **PLAIN)
        shown = torch.cat(seen)
        assert len(shown) and torch.equal(shown, mask_of(rows)[:, None].repeat(len(shown) // rows, 1, 1, 1))


def judged(model, latent, **changes):
    source = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    flow = torch.zeros(1, 64, 64, 2)
    flow[..., 0] = 8
    levels = torch.tensor([14.6, 9.0, 6.0, 4.0, 2.5, 1.5, 0.8, 0.3, 0.0])
    options = {"candidates": 2, "steps": 2, "cfg": 1.0, "flow": flow, "source": source, "vae": tiny_vae(), **changes}
    return BestSeed.execute(model, tiny_cond("sd1"), latent, levels, **options).args[2]["samples"]


def test_seeds_are_drafted_as_they_will_be_sampled_under_a_mask(watched):
    """An inpainting model sees the mask; with any model what is kept stands in the draft."""
    model, seen = watched
    latent = {"samples": tiny_latent("sd1"), "noise_mask": mask_of(1)}
    judged(model, latent)
    assert seen and all(torch.equal(one, mask_of(1)[:, None].expand_as(one)) for one in seen)
    draft, kept = judged(tiny_model("sd1"), latent), mask_of(1)[0] == 0
    expected = latent["samples"][0, :, kept].expand(2, -1, -1)
    assert torch.allclose(draft[:, :, kept], expected, atol=1e-4)
    assert not torch.allclose(draft[:, :, ~kept], latent["samples"][0, :, ~kept].expand(2, -1, -1), atol=1e-2)
