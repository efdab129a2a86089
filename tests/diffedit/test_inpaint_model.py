"""The found mask in an inpainting model: one with nine channels, as SD's have, through the host's own nodes."""

import comfy.model_management
import comfy.model_patcher
import pytest
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from palimpsest.nodes.diffedit import DiffEditMask

from ..tiny_models import CONTEXT, UNET, TinySD1, fill, tiny_cond, tiny_model, tiny_vae

PLAIN = dict(
    seed=0,
    noises=2,
    strength=0.5,
    threshold="adaptive",
    level=0.5,
    outliers="none",
    gap=0,
    fill_holes=False,
    parts=0,
    complement=False,
    grow=0,
    soft_edge=8,
)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def inpainting_model():
    """Latent, mask and masked picture in: 4 + 1 + 4 channels."""
    layout = dict(UNET, in_channels=9, context_dim=CONTEXT["sd1"], use_linear_in_transformer=False)
    config = TinySD1(dict(layout, adm_in_channels=None))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=torch.device("cpu"))
    fill(model.diffusion_model, 5)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.CoreModelPatcher(model.eval(), load_device=device, offload_device=torch.device("cpu"))


def found(model, latent):
    texts = tiny_cond("sd1", seed=1), tiny_cond("sd1", seed=2)
    return DiffEditMask.execute(model, *texts, {"samples": latent}, **PLAIN).args


def test_it_is_given_the_mask_and_keeps_the_rest():
    from nodes import InpaintModelConditioning, KSampler

    vae, model, seen = tiny_vae(), inpainting_model(), []
    pixels = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(6))
    mask = found(tiny_model("sd1"), vae.encode(pixels))[0]
    query, negative = tiny_cond("sd1", seed=2), tiny_cond("sd1", seed=3)
    query, negative, latent = InpaintModelConditioning().encode(query, negative, pixels, vae, mask, True)

    def spy(executor, x, t, c_concat=None, *args, **kwargs):
        seen.append(c_concat)
        return executor(x, t, c_concat, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "spy", spy)
    (made,) = KSampler().sample(model, 0, 3, 4.0, "euler", "normal", query, negative, latent, 1.0)
    expected = F.interpolate(mask[:, None], size=(8, 8), mode="bilinear").round()
    assert 0 < float(expected.mean()) < 1 and seen
    assert all(one.shape[1] == 5 and torch.equal(one[:, :1], expected.expand_as(one[:, :1])) for one in seen)
    kept = F.max_pool2d(mask[:, None], 8)[0, 0] == 0
    same = (made["samples"] - latent["samples"]).abs().amax(1)[0] < 1e-5
    assert kept.any() and same[kept].all() and not same[expected[0, 0] == 1].any()


def test_it_can_find_the_mask_itself():
    mask = found(inpainting_model(), 2 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7)))[0]
    assert mask.shape == (1, 64, 64) and set(mask.unique().tolist()) == {0.0, 1.0}
