"""The Papercut file through a running ComfyUI and its stock nodes alone, against diffusers with the same file."""

import io
import shutil

import numpy as np
import pytest
import torch
from palimpsest.papercut.configs import LATENT_SCALE
from palimpsest.papercut.networks import FILE
from palimpsest.papercut.reference import load_reference, new_scheduler
from PIL import Image
from safetensors.torch import load

PROMPT, NEGATIVE = "a red striped triangle on a lilac gradient ground", ""
STEPS, CFG, SEED, SIDE = 20, 5.0, 11, 128


@pytest.fixture(scope="module", params=["random", "shipped"])
def checkpoint(request, host):
    """(path, name in the host's list)"""
    if request.param == "shipped":
        if not FILE.exists():
            pytest.skip("the trained weights are not there")
        return FILE, FILE.name
    path = request.getfixturevalue("exported")
    place = host.base / "models" / "checkpoints" / "papercut-random.safetensors"
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, place)
    return path, place.name


def workflow(name, seed=SEED):
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": name}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": PROMPT}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": NEGATIVE}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": SIDE, "height": SIDE, "batch_size": 1}},
        "5": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0], "seed": seed,
                "steps": STEPS, "cfg": CFG, "sampler_name": "ddim", "scheduler": "simple", "denoise": 1.0,
            },
        },
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "papercut"}},
        "8": {"class_type": "SaveLatent", "inputs": {"samples": ["5", 0], "filename_prefix": "papercut"}},
        "9": {"class_type": "VAEEncode", "inputs": {"pixels": ["6", 0], "vae": ["1", 2]}},
        "10": {"class_type": "SaveLatent", "inputs": {"samples": ["9", 0], "filename_prefix": "papercut-again"}},
    }  # fmt: skip


@torch.no_grad()
def diffusers_latent(reference):
    """diffusers' DDIM from the host's own noise; its trailing time steps are those of the host's "simple" schedule."""
    scheduler = new_scheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    cond, uncond = reference.embed([PROMPT]), reference.embed([NEGATIVE])
    latent = torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(SEED))
    for t in scheduler.timesteps:
        a, b = reference.unet(latent, t, cond).sample, reference.unet(latent, t, uncond).sample
        latent = scheduler.step(b + CFG * (a - b), t, latent).prev_sample
    return latent


def latent_of(client, result, node):
    (file,) = result.files(node)
    return load(client.view(file))["latent_tensor"] * LATENT_SCALE


def test_stock_nodes_draw_what_diffusers_draws(host_client, checkpoint):
    path, name = checkpoint
    result = host_client.run(workflow(name))
    assert result.status == "success", result.error
    reference = load_reference(path)
    ours = diffusers_latent(reference)
    theirs = latent_of(host_client, result, "8")
    pictures = reference.pictures(ours)
    assert pictures.std() > 0.01
    assert (reference.pictures(theirs) - pictures).abs().max() < 5e-4
    (file,) = result.files("7")
    saved = np.asarray(Image.open(io.BytesIO(host_client.view(file))))
    wanted = (pictures[0].movedim(0, -1) * 255).byte().numpy()
    assert np.abs(saved.astype(int) - wanted.astype(int)).max() <= 1
    again = latent_of(host_client, result, "10")
    assert (again - reference.latents(pictures)).abs().max() < 5e-3  # 1e-4 of a pixel, seen through the encoder


def test_the_companion_adds_no_node_and_the_log_is_clean(host, host_client, checkpoint):
    assert "papercut_companion" in host.text() and "IMPORT FAILED" not in host.text()
    host_client.free()
    known = len(host.text())  # what other tests have made the host say before
    assert host_client.run(workflow(checkpoint[1], seed=SEED + 1)).status == "success"
    log = host.text()[known:]
    for complaint in ("missing", "Could not detect", "unexpected", "not a checkpoint"):
        assert complaint not in log, [line for line in log.splitlines() if complaint in line]
