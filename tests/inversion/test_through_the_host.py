"""DDIM Invert and its company in a running ComfyUI, with stock samplers: replay, again, interrupted, bad input."""

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ..host.prompts import Scene, latent, run

ROOT = Path(__file__).resolve().parents[2]
FLOW = ("sd3", "flux")


class Inversion(Scene):
    """A Scene with DDIM Invert on it: `trajectory`, `inverted` and `noise` are links."""

    def __init__(self, family="sd1", *, seed=0, batch=2, refinement=8, levels="", **changes):
        super().__init__(family, batch=batch, seed=seed)
        if levels:
            self.sigmas = [self.add("ManualSigmas", sigmas=levels), 0]
        inputs = {
            "model": self.model,
            "latent": self.latent,
            "sigmas": self.sigmas,
            "positive": self.positive,
            "cfg": 1.0,
            "refinement": refinement,
            **changes,
        }
        self.invert = self.add("PalimpsestDDIMInvert", **{k: v for k, v in inputs.items() if v is not None})
        self.trajectory, self.inverted, self.noise = ([self.invert, slot] for slot in range(3))

    def replay(self, *, sampler="euler", sigmas=None, start=None, noise=None) -> str:
        """Stock nodes all the way; returns the id of the node that saves the latent."""
        guider = self.add("BasicGuider", model=self.model, conditioning=self.positive)
        chosen = self.add("KSamplerSelect", sampler_name=sampler)
        node = self.add(
            "SamplerCustomAdvanced",
            noise=noise or self.noise,
            guider=[guider, 0],
            sampler=[chosen, 0],
            sigmas=sigmas or self.sigmas,
            latent_image=start or self.latent,
        )
        return self.save([node, 0])


# A random model's answers jump about; only over short steps can its inversion be exact.
FINE = "0.3, 0.25, 0.2, 0.15, 0.1, 0.06, 0.03, 0.01, 0.0"


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", *FLOW])
def test_the_stock_sampler_replays_the_inversion(host_client, family):
    """Twice in a row, the second time all over again: the same picture, to the bit."""
    results = []
    for _ in range(2):
        scene = Inversion(family, refinement=15, levels=FINE)
        source, back = scene.save(scene.latent), scene.replay()
        result = run(host_client, scene)
        results.append(latent(host_client, result, back))
        want = latent(host_client, result, source)
        assert float((results[-1] - want).abs().max()) < 1e-2 * float(want.abs().max())
        host_client.free()
    assert torch.equal(*results)


def test_an_interrupted_inversion_leaves_no_trace(host_client):
    slow = ", ".join(f"{14.6 * (1 - i / 300):.4f}" for i in range(300)) + ", 0.0"

    def scene() -> tuple[Inversion, str]:
        made = Inversion(seed=4)
        return made, made.replay()

    made, node = scene()
    before = latent(host_client, run(host_client, made), node)
    long = Inversion(seed=4, refinement=20, levels=slow)
    long.replay()
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
    made, node = scene()
    assert torch.equal(latent(host_client, run(host_client, made), node), before)


def test_the_check_shows_its_panel_and_a_file_keeps_the_trajectory(host_client, host):
    scene = Inversion(batch=1, levels=FINE)
    check = scene.add(
        "PalimpsestInversionCheck",
        model=scene.model,
        vae=scene.vae,
        trajectory=scene.trajectory,
        positive=scene.positive,
        cfg=1.0,
    )
    save = scene.add("PalimpsestSaveTrajectory", trajectory=scene.trajectory, filename_prefix="host/kite")
    back = scene.replay()
    result = run(host_client, scene)
    (panel,) = result.files(check)
    assert host_client.view(panel)[:4] == b"\x89PNG"
    assert "output/trajectories/host/kite_00001_" in result.texts(save)[0]
    wanted = latent(host_client, result, back)

    again = Inversion(batch=1)
    loaded = again.add("PalimpsestLoadTrajectory", model=again.model, file="host/kite_00001_.safetensors")
    node = again.replay(noise=[loaded, 2], sigmas=[loaded, 3])
    assert torch.allclose(latent(host_client, run(host_client, again), node), wanted, atol=1e-4)

    other = Inversion(batch=1, seed=8)
    loaded = other.add("PalimpsestLoadTrajectory", model=other.model, file="host/kite_00001_.safetensors")
    other.replay(noise=[loaded, 2])
    assert "another model" in refusal(host_client, other)
    path = host.base / "output" / "trajectories" / "host" / "kite_00001_.safetensors"
    path.write_bytes(path.read_bytes()[:-64])
    assert "damaged" in refusal(host_client, again)


def refusal(client, graph) -> str:
    result = client.run(graph.nodes)
    assert result.status == "error"
    return result.error


PATCHES = [
    ("APG", {"eta": 1.0, "norm_threshold": 5.0, "momentum": -0.5}),
    ("FreSca", {"scale_low": 1.0, "scale_high": 1.25, "freq_cutoff": 2}),
]


@pytest.mark.parametrize(("kind", "settings"), PATCHES, ids=[kind for kind, _ in PATCHES])
def test_a_patch_on_guidance_is_left_out_at_cfg_1(host, host_client, kind, settings):
    results = []
    for patched in (False, True):
        scene = Inversion(refinement=0, seed=9)
        if patched:
            scene.nodes[scene.invert]["inputs"]["model"] = [scene.add(kind, model=scene.model, **settings), 0]
        node = scene.save(scene.inverted)
        results.append(latent(host_client, run(host_client, scene), node))
    assert torch.equal(*results) and "leaves out the model's patches on guidance" in host.text()


def test_self_attention_guidance_asks_for_a_negative(host_client):
    def scene() -> tuple[Inversion, str]:
        made = Inversion(refinement=0)
        patch = made.add("SelfAttentionGuidance", model=made.model, scale=0.5, blur_sigma=2.0)
        made.nodes[made.invert]["inputs"]["model"] = [patch, 0]
        return made, made.save(made.inverted)

    assert "negative prompt" in refusal(host_client, scene()[0])
    made, node = scene()
    made.nodes[made.invert]["inputs"]["negative"] = made.negative
    assert torch.isfinite(latent(host_client, run(host_client, made), node)).all()


def with_nan(scene: Inversion, host) -> None:
    save_file(
        {"latent_tensor": torch.full((1, 4, 8, 8), float("nan")), "latent_format_version_0": torch.tensor([])},
        str(host.base / "input" / "nan.latent"),
    )
    scene.nodes[scene.invert]["inputs"]["latent"] = [scene.add("LoadLatent", latent="nan.latent"), 0]


def with_empty_latent(scene: Inversion, host) -> None:
    empty = scene.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    scene.nodes[scene.invert]["inputs"]["latent"] = [empty, 0]


def with_other_channels(scene: Inversion, host) -> None:
    other = scene.add("TestTinyLatent", family="sd3", seed=0, batch=1, size=8)
    scene.nodes[scene.invert]["inputs"]["latent"] = [other, 0]


def with_flipped_schedule(scene: Inversion, host) -> None:
    scene.nodes[scene.invert]["inputs"]["sigmas"] = [scene.add("FlipSigmas", sigmas=scene.sigmas), 0]


def with_no_steps(scene: Inversion, host) -> None:
    none = scene.add("BasicScheduler", model=scene.model, scheduler="normal", steps=5, denoise=0.0)
    scene.nodes[scene.invert]["inputs"]["sigmas"] = [none, 0]


def with_a_flow_schedule(scene: Inversion, host) -> None:
    steep = scene.add("KarrasScheduler", steps=4, sigma_max=80.0, sigma_min=0.03, rho=7.0)
    scene.nodes[scene.invert]["inputs"]["sigmas"] = [steep, 0]


def with_no_prompt(scene: Inversion, host) -> None:
    del scene.nodes[scene.invert]["inputs"]["positive"]


def with_no_negative(scene: Inversion, host) -> None:
    scene.nodes[scene.invert]["inputs"]["cfg"] = 3.0


BAD_INPUT = [
    (with_nan, "NaN"),
    (with_empty_latent, "empty"),
    (with_other_channels, "16 channels"),
    (with_flipped_schedule, "Flip Sigmas"),
    (with_no_steps, "noise level"),
    (with_a_flow_schedule, "made for this model"),
    (with_no_prompt, "positive prompt is not connected"),
    (with_no_negative, "negative prompt"),
]


@pytest.mark.parametrize(("change", "message"), BAD_INPUT, ids=[change.__name__ for change, _ in BAD_INPUT])
def test_bad_input_is_named_before_any_heavy_work(host, host_client, change, message):
    scene = Inversion(batch=1, refinement=0)
    change(scene, host)
    scene.save(scene.inverted)
    assert message in refusal(host_client, scene)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "dpmpp_2m_sde"}, "draws fresh noise"),
        ({"sigmas": "7.0, 3.0, 0.0"}, ""),
        ({"sigmas": "14.6, 9.0, 0.0"}, ""),
        ({"start": 16}, "4x16x16"),
        ({"batch": 3}, "holds 3 pictures"),
    ],
    ids=["stochastic sampler", "later start", "other levels", "other size", "other batch"],
)
def test_a_run_that_does_not_match_is_named(host_client, host, options, message):
    scene = Inversion(batch=2, refinement=0)
    options = dict(options)
    if "sigmas" in options:
        options["sigmas"] = [scene.add("ManualSigmas", sigmas=options["sigmas"]), 0]
    if "start" in options or "batch" in options:
        size, batch = options.pop("start", 8), options.pop("batch", 2)
        options["start"] = [scene.add("TestTinyLatent", family="sd1", seed=0, batch=batch, size=size), 0]
    scene.replay(**options)
    if message:
        assert message in refusal(host_client, scene)
    else:
        before = host.text().count("nearly")
        run(host_client, scene)
        assert host.text().count("nearly") > before


def test_an_inversion_that_starts_too_low_for_the_run_is_named(host_client):
    scene = Inversion(refinement=0)
    low = [scene.add("SplitSigmas", sigmas=scene.sigmas, step=2), 1]
    scene.nodes[scene.invert]["inputs"]["sigmas"] = low
    scene.replay()
    assert "has no latent at 14.6" in refusal(host_client, scene)


def test_the_next_run_is_unaffected(host_client):
    results = []
    for between in (None, with_no_negative, with_no_prompt):
        if between:
            bad = Inversion(batch=1, refinement=1, seed=6)
            between(bad, None)
            bad.save(bad.inverted)
            refusal(host_client, bad)
        scene = Inversion(batch=1, refinement=1, seed=6)
        node = scene.save(scene.inverted)
        results.append(latent(host_client, run(host_client, scene), node))
    assert all(torch.equal(results[0], other) for other in results)


def test_the_example_workflow_names_only_what_the_host_knows(host_client):
    from palimpsest.tools.examples import example
    from palimpsest.tools.workflow import read, to_prompt

    path = example("Invert and check")
    prompt = to_prompt(read(path), host_client.object_info())
    kinds = {node["class_type"] for node in prompt.values()}
    assert {"PalimpsestDDIMInvert", "PalimpsestInversionCheck", "SamplerCustomAdvanced"} <= kinds
    (invert,) = (node for node in prompt.values() if node["class_type"] == "PalimpsestDDIMInvert")
    assert invert["inputs"]["pairing"] == "extrapolated" and invert["inputs"]["cfg"] == 1
    facts = json.loads(path.read_text())["extra"]["palimpsest"]
    assert facts["title"] and facts["story"] and {facts["before"], facts["after"]} <= set(prompt)


def test_every_node_has_a_page_and_every_input_a_tooltip(host_client):
    names = ("DDIMInvert", "InversionCheck", "SaveTrajectory", "LoadTrajectory")
    for name in (f"Palimpsest{name}" for name in names):
        spec = host_client.object_info()[name]
        inputs = {**spec["input"].get("required", {}), **spec["input"].get("optional", {})}
        assert all(entry[1].get("tooltip") for entry in inputs.values()), name
        assert spec["description"] and (ROOT / "web" / "docs" / f"{name}.md").is_file()
