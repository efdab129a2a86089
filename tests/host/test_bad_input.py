"""Bad input through the real host: a sentence that names the input and the remedy, and a next run unaffected."""

import pytest
import torch

from .prompts import Scene, latent, run


@pytest.fixture(scope="module")
def good(host):
    """What a run gives before anything went wrong."""
    scene = Scene("sd1")
    saved = scene.euler()
    return latent(host.client, run(host.client, scene), saved)


def refused(client, scene, good) -> str:
    """The words of the error; afterwards the good run is repeated and compared."""
    result = client.run(scene.nodes)
    assert result.status == "error"
    again = Scene("sd1")
    saved = again.euler()
    again.add("EmptyImage", width=8, height=8, batch_size=1, color=0)
    assert torch.equal(latent(client, run(client, again), saved), good)
    return result.error


def invert(scene: Scene, **changes) -> str:
    inputs = {"model": scene.model, "positive": scene.positive, "latent": scene.latent, "sigmas": scene.sigmas}
    node = scene.add("PalimpsestDDIMInvert", **{"cfg": 1.0, "refinement": 0, **inputs, **changes})
    scene.save([node, 1])
    return node


@pytest.mark.parametrize(
    "fault, words",
    [
        ("nan", ["not numbers", "fp32"]),
        ("infinite", ["not numbers"]),
        ("channels", ["3 channels", "works on 4", "VAE that belongs"]),
        ("video", ["a video's", "Qwen-Image", "load Stable Diffusion"]),
        ("no rows", ["shape 0x4x8x8", "VAE Encode"]),
    ],
)
def test_latents_with_a_fault(host_client, good, fault, words):
    scene = Scene("sd1")
    broken = scene.add("TestBroken", family="sd1", fault=fault)
    invert(scene, latent=[broken, 0])
    error = refused(host_client, scene, good)
    assert "The latent" in error and all(word in error for word in words)


def test_empty_conditioning(host_client, good):
    scene = Scene("sd1")
    broken = scene.add("TestBroken", family="sd1", fault="nan")
    invert(scene, positive=[broken, 1])
    error = refused(host_client, scene, good)
    assert "is empty" in error and "CLIP Text Encode" in error


def checked(scene: Scene, size: tuple[int, int], other: tuple[int, int], counts: tuple[int, int], **more) -> None:
    pictures = [
        [scene.add("EmptyImage", width=wide, height=high, batch_size=count, color=0), 0]
        for (wide, high), count in zip((size, other), counts)
    ]
    scene.add("TestChecks", image=pictures[0], other=pictures[1], **more)


@pytest.mark.parametrize(
    "size, other, counts, words",
    [
        ((68, 64), (64, 64), (1, 1), ["The picture", "68 x 64", "multiples of 8", "64 x 64"]),
        ((64, 64), (64, 64), (2, 3), ["The picture holds 2", "The other picture 3", "same number"]),
        ((64, 64), (64, 72), (1, 1), ["64 x 64", "64 x 72", "one size"]),
    ],
)
def test_pictures_that_do_not_fit(host_client, good, size, other, counts, words):
    scene = Scene("sd1")
    checked(scene, size, other, counts)
    error = refused(host_client, scene, good)
    assert all(word in error for word in words)


def test_a_vae_of_another_family(host_client, good):
    scene, other = Scene("sd1"), Scene("sd3")
    wrong = scene.add("TestTinyModel", family="sd3", seed=0)
    checked(scene, (64, 64), (64, 64), (1, 1), model=scene.model, vae=[wrong, 1])
    error = refused(host_client, scene, good)
    assert all(word in error for word in ("The VAE", "16 channels", "works on 4", "load the VAE")) and other
