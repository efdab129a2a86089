"""Inversion-Free Edit in a running ComfyUI: with its mask, beside a ControlNet and a LoRA, again, and interrupted."""

import time

import pytest
import torch

from ..host.prompts import Scene, latent, run
from ..tiny_models import FAMILIES, tiny_control_file, tiny_lora_file

FILES = {"loras": "edit_lora.safetensors", "controlnet": "edit_control.safetensors"}
LEVELS = "0.9, 0.7, 0.5, 0.3, 0.1, 0.0"


def scene_of(family, levels=LEVELS, change=lambda scene: None, masked=False):
    """(scene, node that saves the edit, node that saves the source)"""
    scene = Scene(family)
    change(scene)
    source = scene.latent
    if masked:
        mask = [scene.add("SolidMask", value=0.0, width=64, height=64), 0]
        source = [scene.add("SetLatentNoiseMask", samples=source, mask=mask), 0]
    guider = scene.add("CFGGuider", model=scene.model, positive=scene.positive, negative=scene.negative, cfg=2.0)
    edit = scene.add(
        "SamplerCustomAdvanced",
        noise=[scene.add("RandomNoise", noise_seed=5), 0],
        guider=[guider, 0],
        sampler=[scene.add("PalimpsestInversionFreeEdit", mode="by the model"), 0],
        sigmas=[scene.add("ManualSigmas", sigmas=levels), 0],
        latent_image=source,
    )
    return scene, scene.save([edit, 0]), scene.save(scene.latent)


def made(client, family, **options) -> tuple[torch.Tensor, torch.Tensor]:
    scene, edit, source = scene_of(family, **options)
    result = run(client, scene)
    return latent(client, result, edit), latent(client, result, source)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_is_edited_again_and_what_a_mask_keeps_stays(host_client, family):
    edit, source = made(host_client, family)
    assert torch.isfinite(edit).all() and not torch.allclose(edit, source, rtol=1e-3)
    host_client.free()
    assert torch.equal(made(host_client, family)[0], edit)
    kept, source = made(host_client, family, masked=True)
    # Scaled for the model and back: the host's own two roundings.
    assert torch.allclose(kept, source, rtol=1e-5, atol=1e-6)


def with_lora(scene):
    loader = scene.add("LoraLoaderModelOnly", model=scene.model, lora_name=FILES["loras"], strength_model=1.0)
    scene.model = [loader, 0]


def with_control(scene):
    net = [scene.add("ControlNetLoader", control_net_name=FILES["controlnet"]), 0]
    hint = [scene.add("EmptyImage", width=64, height=64, batch_size=1, color=0x808080), 0]
    ends = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "control_net": net, "image": hint}
    node = scene.add("ControlNetApplyAdvanced", positive=scene.positive, negative=scene.negative, **ends)
    scene.positive, scene.negative = [node, 0], [node, 1]


@pytest.mark.parametrize("change", [with_lora, with_control], ids=["LoRA", "ControlNet"])
def test_a_lora_and_a_controlnet_act(host, host_client, change):
    places = [host.base / "models" / folder / name for folder, name in FILES.items()]
    for place, write in zip(places, (tiny_lora_file, tiny_control_file)):
        place.parent.mkdir(parents=True, exist_ok=True)
        write("sd1", place)
    try:
        plain, patched = made(host_client, "sd1")[0], made(host_client, "sd1", change=change)[0]
        assert torch.isfinite(patched).all() and not torch.equal(plain, patched)
    finally:
        for place in places:
            place.unlink()


def test_an_interrupted_edit_leaves_no_trace(host_client):
    before = made(host_client, "sd1")[0]
    slow = ", ".join(f"{14.6 * (1 - i / 2000):.4f}" for i in range(2000)) + ", 0.0"
    long, *_ = scene_of("sd1", levels=slow)
    with host_client.listen() as socket:
        prompt = host_client.post(long.nodes)
        end = time.monotonic() + 120
        while time.monotonic() < end:
            message = socket.receive(timeout=5.0)
            if message and '"progress"' in message and prompt in message:
                break
        host_client.interrupt()
    assert host_client.wait(prompt, timeout=120).status == "interrupted"
    host_client.free()
    assert torch.equal(made(host_client, "sd1")[0], before)
