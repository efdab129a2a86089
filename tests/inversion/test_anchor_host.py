"""The anchor as a MODEL patch, through the host's own samplers on random models of its families."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from palimpsest.guidance.anchor import Anchor
from palimpsest.host.inversion.anchor import anchored, noise_for_start
from palimpsest.inversion.trajectory import Trajectory

from ..tiny_models import CHANNELS, tiny_cond, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # the host's stochastic samplers warn of roundings

SIZE = 8
STEPS = 4
FAMILIES = {"eps": "sd1", "v": "sd2", "flow": "sd3"}
KINDS = tuple(FAMILIES)
ANCESTRAL = ("dpmpp_2s_ancestral", "euler_ancestral", "dpmpp_sde")
# Into the model's scale and out of it: two roundings, or three with a reciprocal, of 2**-24 each on any CPU.
THERE_AND_BACK = 4 * 3 * 2**-24
SAMPLERS = ("euler", "heun", "dpm_2", "dpmpp_2m", "uni_pc", "lms", *ANCESTRAL)


@pytest.fixture(scope="module")
def models():
    """MODELs by their parametrisation."""
    with torch.inference_mode():
        return {kind: tiny_model(family) for kind, family in FAMILIES.items()}


def schedule(model, steps=STEPS):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)


def made(model, kind, rows=1, seed=5, sigmas=None):
    """A source latent (raw) and a trajectory of it, on the straight path to a noise."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, CHANNELS[FAMILIES[kind]], SIZE, SIZE)
    raw = torch.randn(shape, generator=generator) * 5
    noise = torch.randn(shape, generator=generator)
    source = model.model.process_latent_in(raw)
    levels = (schedule(model) if sigmas is None else sigmas).flip(0)
    paths = [source + s * (noise - source if kind == "flow" else noise) for s in levels]
    return raw, Trajectory(levels, torch.stack(paths), "", 1.0, "", kind, "SD15")


def run(model, latent, *, sampler="euler", sigmas=None, cfg=3.0, seed=1, noise_mask=None, prompts=1, callback=None):
    sigmas = schedule(model) if sigmas is None else sigmas
    noise = Noise_RandomNoise(seed).generate_noise({"samples": latent})
    chosen = comfy.samplers.sampler_object(sampler)
    family = {"SD3": "sd3"}.get(type(model.model).__name__, "sd2" if model.model.model_type.name[0] == "V" else "sd1")
    with torch.inference_mode():
        return comfy.sample.sample_custom(
            model,
            noise,
            cfg,
            chosen,
            sigmas,
            tiny_cond(family, prompts, seed=1),
            tiny_cond(family, seed=2),
            latent,
            noise_mask=noise_mask,
            callback=callback,
            disable_pbar=True,
            seed=seed,
        )


def left_half():
    """1 = edit on the left, 0 = keep on the right."""
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, :, : SIZE // 2] = 1
    return mask


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_anchored_everywhere_gives_the_source_to_the_last_bit(models, kind, sampler):
    raw, trajectory = made(models[kind], kind)
    assert torch.equal(run(anchored(models[kind], Anchor(trajectory)), raw, sampler=sampler), raw)


@pytest.mark.parametrize("sampler", comfy.samplers.SAMPLER_NAMES)
def test_every_stock_sampler_keeps_what_is_kept(models, sampler):
    model = models["eps"]
    raw, trajectory = made(model, "eps")
    out = run(anchored(model, Anchor(trajectory, left_half())), raw, sampler=sampler)
    assert torch.equal(out[..., SIZE // 2 :], raw[..., SIZE // 2 :])
    assert torch.isfinite(out).all() and not torch.allclose(out[..., : SIZE // 2], raw[..., : SIZE // 2], atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "anchor", [{"strength": 0.0}, {"mask": torch.ones(1, 8, 8)}], ids=["strength 0", "mask of ones"]
)
@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "euler_ancestral"])
def test_nothing_kept_is_the_plain_host_to_the_last_bit(models, kind, anchor, sampler):
    raw, trajectory = made(models[kind], kind)
    plain = run(models[kind], raw, sampler=sampler)
    assert torch.equal(run(anchored(models[kind], Anchor(trajectory, **anchor)), raw, sampler=sampler), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_sees_the_trajectory_at_its_own_level(models, kind):
    model = models[kind]
    raw, trajectory = made(model, kind)
    seen = []

    def spy(executor, x, t, *args, **kwargs):
        seen.append((float(t[0]), x.clone()))
        return executor(x, t, *args, **kwargs)

    spied = model.clone()
    spied.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "spy", spy)
    run(anchored(spied, Anchor(trajectory, left_half())), raw, sampler="dpm_2")
    levels = [sigma for sigma, _ in seen]
    assert len(levels) > STEPS and any(trajectory.index_of(sigma) is None for sigma in levels)
    for sigma, x in seen:
        at = trajectory.at(sigma)[..., SIZE // 2 :]
        assert torch.equal(x[..., SIZE // 2 :], at.expand_as(x[..., SIZE // 2 :]))


def test_previews_show_the_clean_source_where_it_is_kept(models):
    raw, trajectory = made(models["eps"], "eps")
    shown = []
    run(anchored(models["eps"], Anchor(trajectory, left_half())), raw, callback=lambda i, x0, x, n: shown.append(x0))
    assert len(shown) == STEPS
    assert all(torch.equal(x0[..., SIZE // 2 :], trajectory.latents[0][..., SIZE // 2 :]) for x0 in shown)


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_a_schedule(models, kind):
    """As the host's Split Sigmas gives it: starting below the top, ending above the clean end."""
    model = models[kind]
    raw, trajectory = made(model, kind)
    sigmas = schedule(model)[1:4]
    out = run(anchored(model, Anchor(trajectory, left_half())), raw, sigmas=sigmas)
    at, sampling = trajectory.at(sigmas[-1]), model.get_model_object("model_sampling")
    kept = model.model.process_latent_out(sampling.inverse_noise_scaling(sigmas[-1], at))
    assert torch.equal(out[..., SIZE // 2 :], kept[..., SIZE // 2 :])


@pytest.mark.parametrize("scheduler", ["karras", "simple", "beta", "ddim_uniform"])
def test_another_schedule_reads_between_the_levels(models, scheduler):
    model = models["eps"]
    raw, trajectory = made(model, "eps")
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, 3)
    out = run(anchored(model, Anchor(trajectory, left_half())), raw, sigmas=sigmas)
    assert torch.equal(out[..., SIZE // 2 :], raw[..., SIZE // 2 :])


@pytest.mark.parametrize("kind", KINDS)
def test_starting_from_the_source(models, kind):
    """With the trajectory's own start, no NOISE makes a difference."""
    model = models[kind]
    raw, trajectory = made(model, kind)
    for sigmas in (schedule(model), schedule(model)[1:]):
        anchored_model = anchored(model, Anchor(trajectory, left_half()), start_from_source=True)
        first, second = (run(anchored_model, raw, sigmas=sigmas, seed=seed) for seed in (1, 2))
        torch.testing.assert_close(first, second, atol=2e-4, rtol=0)
        assert not torch.allclose(first, run(anchored(model, Anchor(trajectory, left_half())), raw, sigmas=sigmas))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top", [True, False])
def test_the_start_is_the_one_asked_for(models, kind, top):
    model = models[kind]
    sampling, sigmas = model.get_model_object("model_sampling"), schedule(model)
    start, latent, sigma = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), sigmas[0 if top else 2]
    noise = noise_for_start(sampling, start, sigma, latent, top)
    torch.testing.assert_close(sampling.noise_scaling(sigma, noise.clone(), latent, top), start, atol=1e-5, rtol=0)


def test_a_batch_and_its_rows(models):
    model = models["eps"]
    raw, trajectory = made(model, "eps", rows=3)
    out = run(anchored(model, Anchor(trajectory, rows=(1,))), raw, prompts=3)
    assert torch.equal(out[1], raw[1])
    assert not torch.allclose(out[0], raw[0], atol=0.1) and not torch.allclose(out[2], raw[2], atol=0.1)
    one = Trajectory(trajectory.sigmas, trajectory.latents[:, 1:2], "", 1.0, "", "eps", "SD15")
    assert torch.equal(run(anchored(model, Anchor(one, rows=(1,))), raw, prompts=3), out)


def test_an_empty_latent_still_gives_the_source(models):
    model = models["eps"]
    raw, trajectory = made(model, "eps")
    out = run(anchored(model, Anchor(trajectory)), torch.zeros_like(raw))
    assert torch.equal(out, model.model.process_latent_out(trajectory.latents[0]))
    torch.testing.assert_close(out, raw, atol=0, rtol=THERE_AND_BACK)


def test_a_noise_mask_of_the_host_and_the_anchor_go_together(models):
    """The host repaints the upper half, the anchor keeps the right half: the upper left alone is new."""
    model = models["eps"]
    raw, trajectory = made(model, "eps")
    repaint = torch.zeros(1, SIZE, SIZE)
    repaint[:, : SIZE // 2] = 1
    out = run(anchored(model, Anchor(trajectory, left_half())), raw, noise_mask=repaint, sampler="heun")
    assert torch.equal(out[..., SIZE // 2 :], raw[..., SIZE // 2 :])
    torch.testing.assert_close(out[..., SIZE // 2 :, :], raw[..., SIZE // 2 :, :], atol=1e-4, rtol=0)
    assert not torch.allclose(out[..., : SIZE // 2, : SIZE // 2], raw[..., : SIZE // 2, : SIZE // 2], atol=0.1)


def test_a_soft_mask_means_what_it_means_in_the_host(models):
    """The last step of Euler lands on the blend of its prediction with the source."""
    model = models["eps"]
    raw, trajectory = made(model, "eps")
    predicted = []

    def spy(executor, *args, **kwargs):
        predicted.append(executor(*args, **kwargs))
        return predicted[-1]

    spied = anchored(model, Anchor(trajectory, torch.full((1, 4, 4), 0.25)))
    spied.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "spy", spy)
    out = run(spied, raw)
    expected = model.model.process_latent_out(torch.lerp(trajectory.latents[0], predicted[-1], 0.25))
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)


def test_differential_diffusion_shapes_the_soft_mask(models):
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

    raw, trajectory = made(models["eps"], "eps")
    differential = DifferentialDiffusion.execute(models["eps"], 1.0).result[0]
    mask = left_half() * 0.5
    plain = run(anchored(models["eps"], Anchor(trajectory, mask)), raw)
    shaped = run(anchored(differential, Anchor(trajectory, mask)), raw)
    assert torch.equal(shaped[..., SIZE // 2 :], raw[..., SIZE // 2 :])
    assert not torch.allclose(shaped[..., : SIZE // 2], plain[..., : SIZE // 2], atol=0.1)


def test_other_patches_stay_and_the_model_itself_is_untouched(models):
    model = models["eps"].clone()
    calls = []
    model.set_model_sampler_post_cfg_function(lambda args: calls.append(1) or args["denoised"])
    raw, trajectory = made(model, "eps")
    plain = run(model, raw)
    anchored_model = anchored(model, Anchor(trajectory))
    calls.clear()
    assert torch.equal(run(anchored_model, raw), raw) and len(calls) == STEPS
    assert torch.equal(run(model, raw), plain)
    assert not model.wrappers


def test_two_anchors_keep_both_parts(models):
    model = models["eps"]
    raw, first = made(model, "eps")
    other, second = made(model, "eps", seed=9)
    anchored_model = anchored(anchored(model, Anchor(first, left_half())), Anchor(second, 1 - left_half()))
    out = run(anchored_model, raw, sampler="dpmpp_2m")
    assert torch.equal(out[..., SIZE // 2 :], raw[..., SIZE // 2 :])
    torch.testing.assert_close(out[..., : SIZE // 2], other[..., : SIZE // 2], atol=0, rtol=THERE_AND_BACK)


def test_repeated_runs_are_alike(models):
    raw, trajectory = made(models["eps"], "eps")
    anchored_model = anchored(models["eps"], Anchor(trajectory, left_half()))
    assert torch.equal(run(anchored_model, raw, sampler="dpmpp_sde"), run(anchored_model, raw, sampler="dpmpp_sde"))


def test_what_does_not_fit_is_said_before_anything_is_computed(models):
    raw, trajectory = made(models["eps"], "eps")
    anchored_model = anchored(models["eps"], Anchor(trajectory))
    calls = []
    anchored_model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, "spy", lambda executor, *a, **k: calls.append(1))
    with pytest.raises(ValueError, match="4 x 8 x 8"):
        run(anchored_model, torch.zeros(1, 4, 16, 8))
    shallow = Trajectory(trajectory.sigmas[:3], trajectory.latents[:3], "", 1.0, "", "eps", "SD15")
    with pytest.raises(ValueError, match="noisiest level"):
        run(anchored(models["eps"], Anchor(shallow)), raw)
