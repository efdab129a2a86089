"""The denoiser and its gradients through POST /prompt, where weights are what loader nodes make of them."""

import time
from pathlib import Path

import pytest
import torch

from ..tiny_models import FAMILIES, tiny_control_file, tiny_file, tiny_lora_file
from .prompts import Scene, latent, reported, run

PACKAGE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def files(host):
    """LoRA, ControlNet and diffusion model files in the host's folders, for its own loaders."""
    folders = {name: host.base / "models" / name for name in ("loras", "controlnet", "diffusion_models")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        tiny_lora_file(family, folders["loras"] / f"tiny-{family}.safetensors")
    for family in ("sd1", "sd2", "sdxl"):
        tiny_control_file(family, folders["controlnet"] / f"tiny-{family}.safetensors")
    for family in ("sd3", "flux"):
        tiny_file(family, folders["diffusion_models"] / f"tiny-{family}.safetensors")


def with_lora(scene: Scene, family: str) -> None:
    name = f"tiny-{family}.safetensors"
    scene.model = [scene.add("LoraLoaderModelOnly", model=scene.model, lora_name=name, strength_model=1.0), 0]


def with_bypass_lora(scene: Scene, family: str) -> None:
    name = f"tiny-{family}.safetensors"
    scene.model = [scene.add("LoraLoaderBypassModelOnly", model=scene.model, lora_name=name, strength_model=1.0), 0]


def with_control(scene: Scene, family: str) -> None:
    loader = scene.add("ControlNetLoader", control_net_name=f"tiny-{family}.safetensors")
    picture = scene.add("EmptyImage", width=64, height=64, batch_size=1, color=0x3080C0)
    applied = scene.add(
        "ControlNetApplyAdvanced",
        positive=scene.positive,
        negative=scene.negative,
        control_net=[loader, 0],
        image=[picture, 0],
        strength=0.7,
        start_percent=0.0,
        end_percent=0.6,
    )
    scene.positive, scene.negative = [applied, 0], [applied, 1]


def with_area(scene: Scene, family: str) -> None:
    other = [scene.add("TestTinyConditioning", family=family, seed=2, batch=1), 0]
    area = scene.add(
        "ConditioningSetAreaPercentage", conditioning=other, width=1.0, height=0.5, x=0.0, y=0.5, strength=1.5
    )
    scene.positive = [scene.add("ConditioningCombine", conditioning_1=scene.positive, conditioning_2=[area, 0]), 0]


def with_mask(scene: Scene, family: str) -> None:
    other = [scene.add("TestTinyConditioning", family=family, seed=2, batch=1), 0]
    small = [scene.add("SolidMask", value=1.0, width=32, height=64), 0]
    empty = [scene.add("SolidMask", value=0.0, width=64, height=64), 0]
    mask = scene.add("MaskComposite", destination=empty, source=small, x=16, y=0, operation="add")
    masked = scene.add("ConditioningSetMask", conditioning=other, mask=[mask, 0], strength=0.8, set_cond_area="default")
    scene.positive = [scene.add("ConditioningCombine", conditioning_1=scene.positive, conditioning_2=[masked, 0]), 0]


def with_ranges(scene: Scene, family: str) -> None:
    other = [scene.add("TestTinyConditioning", family=family, seed=2, batch=1), 0]
    early = [scene.add("ConditioningSetTimestepRange", conditioning=scene.positive, start=0.0, end=0.5), 0]
    late = [scene.add("ConditioningSetTimestepRange", conditioning=other, start=0.5, end=1.0), 0]
    scene.positive = [scene.add("ConditioningCombine", conditioning_1=early, conditioning_2=late), 0]


def with_hook(scene: Scene, family: str) -> None:
    """A LoRA on one prompt alone, fading in by keyframes."""
    hook = scene.add("CreateHookLoraModelOnly", lora_name=f"tiny-{family}.safetensors", strength_model=1.0)
    first = scene.add("CreateHookKeyframe", strength_mult=0.2, start_percent=0.0)
    second = scene.add("CreateHookKeyframe", strength_mult=1.0, start_percent=0.5, prev_hook_kf=[first, 0])
    keyed = scene.add("SetHookKeyframes", hooks=[hook, 0], hook_kf=[second, 0])
    applied = scene.add(
        "PairConditioningSetProperties",
        positive_NEW=scene.positive,
        negative_NEW=scene.negative,
        strength=1.0,
        set_cond_area="default",
        hooks=[keyed, 0],
    )
    scene.positive = [applied, 0]


def with_rows(scene: Scene, family: str) -> None:
    """A prompt of its own for each row of the batch."""
    scene.positive = [scene.add("TestTinyConditioning", family=family, seed=4, batch=2), 0]


def with_guidance_patch(scene: Scene, family: str) -> None:
    """Hooks round CFG: a post-CFG function and a calculation of its own."""
    scene.model = [scene.add("RescaleCFG", model=scene.model, multiplier=0.7), 0]


def with_free_u(scene: Scene, family: str) -> None:
    """Writes into the features that it is given."""
    scene.model = [scene.add("FreeU_V2", model=scene.model, b1=1.3, b2=1.4, s1=0.9, s2=0.2), 0]


def with_tiles(scene: Scene, family: str) -> None:
    """Self-attention in tiles of the picture."""
    tiles = {"tile_size": 32, "swap_size": 2, "max_depth": 0, "scale_depth": False}
    scene.model = [scene.add("HyperTile", model=scene.model, **tiles), 0]


ATTACHED = [
    with_lora, with_bypass_lora, with_control, with_area, with_mask, with_ranges, with_hook, with_rows,
    with_guidance_patch, with_free_u, with_tiles,
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_our_loop_is_the_stock_sampler(host_client, files, family):
    scene = Scene(family)
    ours, stock = scene.euler(), scene.stock()
    result = run(host_client, scene)
    assert torch.equal(latent(host_client, result, ours), latent(host_client, result, stock))


@pytest.mark.parametrize("attach", ATTACHED, ids=lambda attach: attach.__name__)
def test_what_is_attached_is_honoured(host_client, files, attach):
    family = "sdxl" if attach is with_control else "sd1"
    scene = Scene(family)
    plain = scene.euler()
    attach(scene, family)
    ours, stock = scene.euler(), scene.stock()
    result = run(host_client, scene)
    bare, ours, stock = (latent(host_client, result, node) for node in (plain, ours, stock))
    assert torch.equal(ours, stock)
    assert (ours - bare).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_agrees_with_finite_difference(host_client, files, family):
    scene = Scene(family)
    node = scene.gradient()
    found = reported(run(host_client, scene), node)
    assert found["gradient"] == pytest.approx(found["difference"], rel=1e-3)
    assert found["inference"] == 0


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_gradient_through_a_stock_loader(host_client, files, family):
    scene = Scene(family, file=f"tiny-{family}.safetensors")
    node = scene.gradient()
    found = reported(run(host_client, scene), node)
    assert found["gradient"] == pytest.approx(found["difference"], rel=1e-3)


def test_gradient_through_load_checkpoint(host_client):
    """Papercut, by the stock checkpoint loader and text encoder."""
    if not (PACKAGE / "papercut" / "weights" / "papercut.safetensors").exists():
        pytest.skip("the trained weights are not there")
    scene = Scene("sd1", batch=1)
    loaded = scene.add("CheckpointLoaderSimple", ckpt_name="papercut.safetensors")
    texts = ("a red triangle on a lilac ground", "")
    scene.positive, scene.negative = [[scene.add("CLIPTextEncode", clip=[loaded, 1], text=text), 0] for text in texts]
    scene.model, scene.vae = [loaded, 0], [loaded, 2]
    node = scene.gradient()
    decoded = scene.add("TestDecodeGradient", vae=scene.vae, model=scene.model, latent=scene.latent)
    result = run(host_client, scene)
    for one in (node, decoded):
        found = reported(result, one)
        assert found["gradient"] == pytest.approx(found["difference"], rel=5e-3)


@pytest.mark.parametrize("attach", ATTACHED, ids=lambda attach: attach.__name__)
def test_gradient_with_something_attached(host_client, files, attach):
    family = "sdxl" if attach is with_control else "sd1"
    scene = Scene(family)
    attach(scene, family)
    node = scene.gradient()
    found = reported(run(host_client, scene), node)
    assert found["gradient"] == pytest.approx(found["difference"], rel=1e-3)


@pytest.mark.parametrize("family", ["sd1", "sd3"])
def test_gradient_through_the_vae(host_client, family):
    scene = Scene(family)
    node = scene.add("TestDecodeGradient", vae=scene.vae, model=scene.model, latent=scene.latent)
    found = reported(run(host_client, scene), node)
    assert found["fresh"] and not found["asked"]
    assert found["gradient"] == pytest.approx(found["difference"], rel=1e-3)


def test_stock_runs_before_and_after_are_equal(host_client, files):
    """A gradient run between two stock runs on the same cached model changes neither weights nor results."""
    results = []
    for between in (None, with_lora, with_control, with_hook):
        scene = Scene("sd1", seed=9)
        stock = scene.stock()
        results.append(latent(host_client, run(host_client, scene), stock))
        if between:
            between(scene, "sd1")
        scene.gradient()
        scene.euler(gradients=True)
        run(host_client, scene)
    assert all(torch.equal(one, results[0]) for one in results[1:])


def test_second_run_is_identical(host_client, files):
    reports = []
    for _ in range(2):
        scene = Scene("sd2")
        with_lora(scene, "sd2")
        node = scene.gradient()
        reports.append(reported(run(host_client, scene), node))
    assert reports[0]["gradient"] == reports[1]["gradient"] and reports[0]["sum"] == reports[1]["sum"]


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("attach", [None, with_control, with_hook])
def test_interrupt_leaves_no_trace(host_client, files, gradients, attach):
    def scene_of(pause: float) -> tuple[Scene, str]:
        scene = Scene("sd1", seed=20 + gradients)
        if attach:
            attach(scene, "sd1")
        return scene, scene.euler(gradients=gradients, pause=pause)

    scene, saved = scene_of(0.0)
    before = latent(host_client, run(host_client, scene), saved)
    scene, saved = scene_of(0.3)
    with host_client.listen() as socket:
        prompt = host_client.post(scene.nodes)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            message = socket.receive(timeout=5.0)
            if message and '"progress"' in message and prompt in message:
                break
        host_client.interrupt()
    assert host_client.wait(prompt, timeout=60).status == "interrupted"
    scene, saved = scene_of(0.001)
    assert torch.equal(latent(host_client, run(host_client, scene), saved), before)
    scene, _ = scene_of(0.0)
    node = scene.stock()
    assert torch.isfinite(latent(host_client, run(host_client, scene), node)).all()
