"""NullText Optimize in a running ComfyUI: models of stock loaders, stock samplers, interrupted, bad input."""

import time
from pathlib import Path

import pytest
import torch

from ..host.prompts import latent, run
from .test_through_the_host import Inversion, refusal

ROOT = Path(__file__).resolve().parents[2]


class Fitted(Inversion):
    """An inversion with NullText Optimize behind it; `null` is the link to its conditioning."""

    def __init__(self, family="sd1", *, mode="fast", cfg=7.5, inner_steps=2, batch=1, **changes):
        super().__init__(family, batch=batch, refinement=1, **changes)
        self.fit = self.add(
            "PalimpsestNullTextOptimize",
            model=self.model,
            trajectory=self.trajectory,
            positive=self.positive,
            negative=self.negative,
            cfg=cfg,
            mode=mode,
            inner_steps=inner_steps,
            tolerance=1e-7,
        )
        self.null, self.cfg = [self.fit, 0], cfg

    def sampled(self, negative) -> str:
        """Stock guider and sampler at the CFG of the fit; the id of the node that saves the latent."""
        guider = self.add("CFGGuider", model=self.model, positive=self.positive, negative=negative, cfg=self.cfg)
        chosen = self.add("KSamplerSelect", sampler_name="euler")
        node = self.add(
            "SamplerCustomAdvanced",
            noise=self.noise,
            guider=[guider, 0],
            sampler=[chosen, 0],
            sigmas=self.sigmas,
            latent_image=self.latent,
        )
        return self.save([node, 0])


@pytest.mark.parametrize(
    ("family", "mode"), [("sd1", "fast"), ("sd1", "faithful"), ("sd2", "faithful"), ("sdxl", "fast")]
)
def test_the_stock_sampler_comes_nearer_to_the_source(host_client, family, mode):
    scene = Fitted(family, mode=mode, batch=2)
    source, plain, fitted = scene.save(scene.latent), scene.sampled(scene.negative), scene.sampled(scene.null)
    result = run(host_client, scene)
    want, lost, found = (latent(host_client, result, node) for node in (source, plain, fitted))
    assert (found - want).square().mean() < (lost - want).square().mean()


@pytest.mark.parametrize(
    ("kind", "settings"), [("RescaleCFG", {"multiplier": 0.7}), ("PerturbedAttentionGuidance", {"scale": 2.0})]
)
def test_the_fit_goes_through_patches_on_guidance(host_client, kind, settings):
    """A fit to plain guidance is farther from the source, in the sampler with the patch, than one with it."""
    scene = Fitted(mode="faithful", inner_steps=6)
    plain = scene.null
    patch = [scene.add(kind, model=scene.model, **settings), 0]
    inputs = {**scene.nodes[scene.fit]["inputs"], "model": patch}
    scene.model, scene.null = patch, [scene.add("PalimpsestNullTextOptimize", **inputs), 0]
    source, lost, fitted = scene.save(scene.latent), scene.sampled(plain), scene.sampled(scene.null)
    result = run(host_client, scene)
    want, far, near = (latent(host_client, result, node) for node in (source, lost, fitted))
    assert (near - want).square().mean() < (far - want).square().mean()


def test_twice_in_a_row_is_the_same(host_client):
    results = []
    for _ in range(2):
        scene = Fitted(seed=3)
        node = scene.sampled(scene.null)
        results.append(latent(host_client, run(host_client, scene), node))
        host_client.free()
    assert torch.equal(*results)


def test_interrupted_inside_the_inner_loop_it_leaves_no_trace(host_client):
    scene = Fitted(seed=5)
    node = scene.sampled(scene.null)
    before = latent(host_client, run(host_client, scene), node)
    long = Fitted(seed=5, mode="faithful", inner_steps=500)
    long.sampled(long.null)
    with host_client.listen() as socket:
        prompt = host_client.post(long.nodes)
        end = time.monotonic() + 120
        while time.monotonic() < end:
            message = socket.receive(timeout=5.0)
            if message and '"progress"' in message and prompt in message and f'"{long.fit}"' in message:
                break
        host_client.interrupt()
    assert host_client.wait(prompt, timeout=120).status == "interrupted"
    host_client.free()
    scene = Fitted(seed=5)
    node = scene.sampled(scene.null)
    assert torch.equal(latent(host_client, run(host_client, scene), node), before)


def test_bad_input_is_named(host_client):
    scene = Fitted(cfg=1.0)
    scene.sampled(scene.null)
    assert "CFG 1" in refusal(host_client, scene)
    scene = Fitted()
    scene.nodes[scene.fit]["inputs"]["model"] = [scene.add("TestTinyModel", family="sd1", seed=77), 0]
    scene.sampled(scene.null)
    assert "another model" in refusal(host_client, scene)
    scene = Fitted()
    both = scene.add("ConditioningCombine", conditioning_1=scene.positive, conditioning_2=scene.negative)
    scene.nodes[scene.fit]["inputs"]["positive"] = [both, 0]
    scene.sampled(scene.null)
    assert "2 parts" in refusal(host_client, scene)


def test_every_node_has_a_page_and_every_input_a_tooltip(host_client):
    names = (
        "NullTextOptimize",
        "NegativePromptInversion",
        "ProximalGuidance",
        "PromptToPrompt",
        "WordAttentionMask",
        "EditReport",
    )
    for name in (f"Palimpsest{name}" for name in names):
        spec = host_client.object_info()[name]
        inputs = {**spec["input"].get("required", {}), **spec["input"].get("optional", {})}
        assert all(entry[1].get("tooltip") for entry in inputs.values()), name
        assert spec["description"] and (ROOT / "web" / "docs" / f"{name}.md").is_file()
