"""Batches that another node cuts for each model call: the error names that as the cause, not the ALPHAS."""

import pytest
import torch
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from palimpsest.host.morphing.attention_blend import blended
from palimpsest.host.morphing.row_lora import interpolated
from palimpsest.morphing.schedule import schedule

from ..tiny_models import tiny_cond, tiny_latent, tiny_model
from .parts import random_lora, sample

WINDOW = dict(context_overlap=0, context_schedule="standard_static", context_stride=1, closed_loop=False)
WINDOW |= dict(context_length=2, fuse_method="flat", dim=0, freenoise=False)


def lora_interpolator(model, alphas):
    return interpolated(model, [random_lora(model, seed) for seed in range(2)], alphas)


@pytest.mark.parametrize("patch, node", [(lora_interpolator, "LoRA Interpolator"), (blended, "Attention Blend")])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_context_windows_over_the_batch(patch, node, cfg):
    alphas, cond = schedule(6), tiny_cond("sd1")
    cut = ContextWindowsManualNode.execute(patch(tiny_model("sd1"), alphas), **WINDOW).args[0]
    with pytest.raises(ValueError, match=f"{node} needs all 6 pictures .* another node .* take that node off"):
        sample(cut, cond, tiny_latent("sd1", batch=6), negative=cond, cfg=cfg)


@pytest.mark.parametrize("patch, node", [(lora_interpolator, "LoRA Interpolator"), (blended, "Attention Blend")])
def test_tiles_beside_one_another_in_the_batch(patch, node):
    """As tiled diffusion does it: a model function wrapper that lays several parts of each picture into one call."""
    alphas = schedule(3)

    def tiled(apply_model, given):
        x, t, c = given["input"], given["timestep"], dict(given["c"])
        halves = torch.cat(x.chunk(2, dim=-1))
        c["c_crossattn"] = c["c_crossattn"].repeat(2, 1, 1)
        return torch.cat(apply_model(halves, t.repeat(2), **c).chunk(2), dim=-1)

    cut = patch(tiny_model("sd1"), alphas)
    cut.set_model_unet_function_wrapper(tiled)
    with pytest.raises(ValueError, match=f"{node} needs all 3 pictures .* another node .* take that node off"):
        sample(cut, tiny_cond("sd1"), tiny_latent("sd1", batch=3))
