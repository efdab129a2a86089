"""The host's own sampling node, given our NOISE, starts at exactly the trajectory's latent."""

import ast
from pathlib import Path

import comfy.samplers
import comfy_extras
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import AddNoise, BasicGuider, SamplerCustomAdvanced
from palimpsest.host.family import latent_format_name, prediction
from palimpsest.host.inversion.inverted_noise import InvertedNoise
from palimpsest.host.inversion.sampling_call import NAMES, sampling_call
from palimpsest.host.sampler_traits import replay_kind
from palimpsest.inversion.trajectory import Trajectory

from ..tiny_models import CHANNELS, tiny_cond, tiny_latent, tiny_model

FAMILIES = ("sd1", "sd2", "sdxl", "sd3", "flux")
HOST = Path(next(iter(comfy_extras.__path__))).parent


@pytest.fixture(scope="module")
def models():
    return {family: tiny_model(family) for family in FAMILIES}


def schedule(model, steps=4):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps).cpu()


def trajectory_of(model, sigmas, rows=1, size=(8, 8)):
    """Any latents will do: the noise must lead to them, however they came about."""
    channels = model.get_model_object("latent_format").latent_channels
    generator = torch.Generator().manual_seed(5)
    rising = sigmas.flip(0)
    latents = torch.randn(len(rising), rows, channels, *size, generator=generator)
    latents = latents * (1 + rising**2).sqrt().reshape(-1, 1, 1, 1, 1)
    return Trajectory(rising, latents, "", 1.0, "f", prediction(model), latent_format_name(model))


def start_of(model, family, noise, sigmas, latent, sampler="euler"):
    """The first latent that the host's sampling node shows the model."""
    seen = []

    def watch(executor, x, *args, **kwargs):
        seen.append(x.clone())
        return executor(x, *args, **kwargs)

    watched = model.clone()
    watched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "watch", watch)
    guider = BasicGuider.execute(watched, tiny_cond(family)).args[0]
    sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, {"samples": latent})
    return seen[0]


@pytest.mark.parametrize("picture", ["full", "empty"])
@pytest.mark.parametrize("part", ["whole schedule", "low part"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_stock_sampler_starts_on_the_trajectory(models, family, part, picture):
    model = models[family]
    sigmas = schedule(model, 5)[0 if part == "whole schedule" else 2 :]
    trajectory = trajectory_of(model, sigmas)
    latent = tiny_latent(family) if picture == "full" else torch.zeros(1, CHANNELS[family], 8, 8)
    start = start_of(model, family, InvertedNoise(trajectory, model), sigmas, latent)
    error = (start - trajectory.latents[-1]).abs().max() / trajectory.latents[-1].abs().max()
    assert float(error) < 5e-7


@pytest.mark.parametrize("family", ["sd1", "sd3"])
def test_a_later_start_takes_the_trajectorys_latent_of_that_level(models, family):
    model = models[family]
    sigmas = schedule(model, 6)
    trajectory = trajectory_of(model, sigmas)
    start = start_of(model, family, InvertedNoise(trajectory, model), sigmas[2:], tiny_latent(family))
    assert float((start - trajectory.latents[-3]).abs().max()) < 1e-5


def test_one_picture_serves_a_batch_and_a_batch_itself(models):
    model = models["sd1"]
    sigmas = schedule(model)
    for rows in (1, 3):
        trajectory = trajectory_of(model, sigmas, rows)
        start = start_of(model, "sd1", InvertedNoise(trajectory, model), sigmas, tiny_latent("sd1", 3))
        assert start.shape[0] == 3
        assert torch.allclose(start, trajectory.latents[-1].expand_as(start), atol=1e-5)


def test_nothing_that_goes_in_is_changed(models):
    model = models["sd1"]
    sigmas, latent = schedule(model), tiny_latent("sd1")
    trajectory = trajectory_of(model, sigmas)
    before = [t.clone() for t in (sigmas, latent, trajectory.sigmas, trajectory.latents)]
    start_of(model, "sd1", InvertedNoise(trajectory, model), sigmas, latent)
    assert all(torch.equal(a, b) for a, b in zip(before, (sigmas, latent, trajectory.sigmas, trajectory.latents)))


def test_noise_says_what_it_cannot_serve(models):
    model, sigmas = models["sd1"], schedule(models["sd1"])
    noise = InvertedNoise(trajectory_of(model, sigmas, rows=2), model)

    def start(latent, steps=sigmas, sampler="euler", on=model, family="sd1"):
        return start_of(on, family, noise, steps, latent, sampler)

    with pytest.raises(ValueError, match="4x16x8"):
        start(tiny_latent("sd1", 2, size=(16, 8)))
    with pytest.raises(ValueError, match="holds 3 pictures"):
        start(tiny_latent("sd1", 3))
    with pytest.raises(ValueError, match="draws fresh noise"):
        start(tiny_latent("sd1", 2), sampler="euler_ancestral")
    with pytest.raises(ValueError, match="connect the model of the inversion"):
        start(tiny_latent("sdxl", 2), on=models["sdxl"], family="sdxl")
    low = InvertedNoise(trajectory_of(model, sigmas[2:]), model)
    with pytest.raises(ValueError, match=r"has no latent at 14.6"):
        start_of(model, "sd1", low, sigmas, tiny_latent("sd1"))


def test_add_noise_is_refused_since_it_would_scale_otherwise(models):
    model, sigmas = models["sd1"], schedule(models["sd1"])
    noise = InvertedNoise(trajectory_of(model, sigmas), model)
    with pytest.raises(ValueError, match="Sampler Custom Advanced"):
        AddNoise.execute(model, noise, sigmas, {"samples": tiny_latent("sd1")})


def test_without_a_schedule_in_sight_the_top_is_assumed_and_said(models, caplog):
    model, sigmas = models["sd1"], schedule(models["sd1"])
    trajectory = trajectory_of(model, sigmas)
    made = _plain_call(InvertedNoise(trajectory, model))
    expected = trajectory.latents[-1] / (1 + trajectory.sigmas[-1] ** 2).sqrt()
    assert torch.allclose(made, expected, atol=1e-5)
    assert "cannot be seen" in caplog.text


def _plain_call(noise):
    return noise.generate_noise({"samples": torch.zeros(1, 4, 8, 8)})


@pytest.mark.parametrize(
    ("sampler", "change", "message"),
    [
        ("euler", None, ""),
        ("ddim", None, ""),
        ("dpmpp_2m", None, "nearly"),
        ("euler", "other steps", "other noise levels"),
        ("euler", "first half", ""),
    ],
)
def test_what_can_only_come_close_is_named(models, caplog, sampler, change, message):
    model, sigmas = models["sd1"], schedule(models["sd1"], 6)
    noise = InvertedNoise(trajectory_of(model, sigmas), model)
    run = {"other steps": schedule(model, 9), "first half": sigmas[:4]}.get(change, sigmas)
    start_of(model, "sd1", noise, run, tiny_latent("sd1"), sampler)
    ours = [record.message for record in caplog.records if "palimpsest" in record.name]
    assert (message in " ".join(ours)) if message else not ours


def _two_seeds_agree(model, name) -> bool:
    guider = BasicGuider.execute(model, tiny_cond("sd1")).args[0]
    latent, sigmas = tiny_latent("sd1", size=(4, 4)), schedule(model, 3)
    grain = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    results = [
        guider.sample(grain, latent, comfy.samplers.sampler_object(name), sigmas, seed=seed, disable_pbar=True)
        for seed in (1, 2)
    ]
    return torch.equal(*results)


@pytest.mark.parametrize("name", comfy.samplers.SAMPLER_NAMES)
def test_every_stock_sampler_is_known_for_what_it_is(models, name):
    """Its signature alone shows what running it with two seeds shows."""
    kind = replay_kind(comfy.samplers.sampler_object(name))
    assert (kind == "fresh noise") == (not _two_seeds_agree(models["sd1"], name))


def test_options_turn_noise_on_and_off():
    make = comfy.samplers.ksampler
    assert replay_kind(make("euler")) == "exact"
    assert replay_kind(make("euler", {"s_churn": 0.5})) == "fresh noise"
    assert replay_kind(make("euler_ancestral", {"eta": 0.0})) == "close"
    assert replay_kind(make("er_sde", {"s_noise": 0})) == "close"
    assert replay_kind(comfy.samplers.Sampler()) == "unknown"


def _asks(function: ast.FunctionDef) -> bool:
    """Whether a function is handed a node's NOISE and asks it: `noise.generate_noise(...)`, `noise` an argument."""
    calls = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    asked = (one.value for one in calls if isinstance(one, ast.Attribute) and one.attr == "generate_noise")
    given = any(argument.arg == "noise" for argument in function.args.args)
    return given and any(isinstance(one, ast.Name) and one.id == "noise" for one in asked)


def test_every_host_function_whose_frame_is_read_is_known():
    """A host that asks somewhere else, or names its arguments otherwise, must be noticed here."""
    found = {}
    for path in [*sorted(HOST.glob("comfy_extras/*.py")), HOST / "nodes.py"]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for owner in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
            for function in (node for node in owner.body if isinstance(node, ast.FunctionDef) and _asks(node)):
                arguments = {argument.arg for argument in function.args.args}
                found[f"{owner.name}.{function.name}"] = arguments & set(NAMES)
    assert found == {"SamplerCustomAdvanced.execute": set(NAMES), "AddNoise.execute": {"sigmas"}}


def test_a_wrapper_of_another_pack_may_stand_between(models):
    model, sigmas = models["sd1"], schedule(models["sd1"], 6)
    trajectory = trajectory_of(model, sigmas)
    inner = InvertedNoise(trajectory, model)

    class Wrapped:
        seed = 0

        def generate_noise(self, latent):
            return inner.generate_noise(latent)

    start = start_of(model, "sd1", Wrapped(), sigmas[2:], tiny_latent("sd1"))
    assert float((start - trajectory.latents[-3]).abs().max()) < 1e-5


class Seen:
    """NOISE that keeps the call it was asked in."""

    seed = 0

    def generate_noise(self, latent):
        self.call = sampling_call()
        return torch.zeros_like(latent["samples"])


def test_sampler_custom_advanced_shows_what_it_was_given(models):
    seen, steps, euler = Seen(), schedule(models["sd1"]), comfy.samplers.sampler_object("euler")
    basic = BasicGuider.execute(models["sd1"], tiny_cond("sd1")).args[0]
    SamplerCustomAdvanced.execute(seen, basic, euler, steps, {"samples": tiny_latent("sd1")})
    assert seen.call.sigmas is steps and seen.call.sampler is euler and seen.call.guider is basic


def test_add_noise_shows_a_schedule_alone(models):
    seen, steps = Seen(), schedule(models["sd1"])
    AddNoise.execute(models["sd1"], seen, steps, {"samples": tiny_latent("sd1")})
    assert seen.call.sigmas is steps and seen.call.sampler is None and seen.call.guider is None
