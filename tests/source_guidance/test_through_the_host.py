"""Source Guidance in a running ComfyUI: inverted, edited by both of its outputs, and all over again."""

import pytest
import torch

from ..host.prompts import Scene, latent, run
from ..tiny_models import FAMILIES

# The low part of a schedule; every model knows these levels.
LEVELS = "0.9, 0.6, 0.4, 0.2, 0.1, 0.0"


def edited(client, family) -> list[torch.Tensor]:
    """By the guider with Sampler Custom Advanced, and by the model with Sampler Custom at another CFG."""
    scene = Scene(family)
    sigmas = [scene.add("ManualSigmas", sigmas=LEVELS), 0]
    ends = {"model": scene.model, "latent": scene.latent, "sigmas": sigmas, "cfg": 1.0, "refinement": 0}
    inverted = scene.add("PalimpsestDDIMInvert", **ends, positive=scene.negative, pairing="held")
    prompts = {"positive": scene.positive, "negative": scene.negative}
    node = scene.add("PalimpsestSourceGuidance", model=scene.model, strength=1.0, **prompts)
    euler = [scene.add("KSamplerSelect", sampler_name="euler"), 0]
    advanced = scene.add(
        "SamplerCustomAdvanced",
        noise=[inverted, 2],
        guider=[node, 0],
        sampler=euler,
        sigmas=sigmas,
        latent_image=scene.latent,
    )
    guider = scene.add("CFGGuider", model=[node, 1], cfg=7.0, **prompts)
    plain = scene.add(
        "SamplerCustomAdvanced",
        noise=[inverted, 2],
        guider=[guider, 0],
        sampler=euler,
        sigmas=sigmas,
        latent_image=scene.latent,
    )
    saved = [scene.save([one, 0]) for one in (advanced, plain)]
    result = run(client, scene)
    return [latent(client, result, one) for one in saved]


@pytest.mark.parametrize("family", FAMILIES)
def test_both_outputs_edit_alike_and_again(host_client, family):
    first, by_model = edited(host_client, family)
    assert torch.isfinite(first).all() and torch.equal(first, by_model)
    host_client.free()
    assert torch.equal(edited(host_client, family)[0], first)
