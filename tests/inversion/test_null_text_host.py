"""NullText Optimize on the host: its CONDITIONING in the stock sampler does what the fit has promised."""

from dataclasses import replace

import comfy.sample
import comfy.samplers
import pytest
import torch
from palimpsest.host.family import latent_format_name
from palimpsest.host.fingerprint import fingerprint
from palimpsest.host.inversion.null_text import fit_null_text, level_bounds
from palimpsest.host.session import with_denoiser
from palimpsest.inversion.ddim import invert
from palimpsest.inversion.null_text_run import NullTextRecipe
from palimpsest.inversion.trajectory import Trajectory

from ..tiny_models import tiny_cond, tiny_latent, tiny_model

FAMILIES = ("sd1", "sd2", "sdxl")
STEPS, CFG = 4, 7.5


def prepared(family: str, batch: int = 1):
    """(model, raw latent, trajectory), all as nodes would make them."""
    with torch.inference_mode():
        model, raw = tiny_model(family), tiny_latent(family, batch)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS)
        levels, conds = sigmas.flip(0), {"positive": tiny_cond(family)}
        path = with_denoiser(model, conds, raw, sigmas, lambda s: invert(s.guided, s.latent, levels, refinement=1))
        prediction = "v" if family == "sd2" else "eps"
        return model, raw, Trajectory(levels, path, "", 1.0, fingerprint(model), prediction, latent_format_name(model))


def stock(model, family: str, trajectory: Trajectory, negative: list, positive: list | None = None) -> torch.Tensor:
    """The stock Euler sampler from the inverted noise, without noise of its own -> scaled latents."""
    start = model.model.process_latent_out(trajectory.latents[-1])
    with torch.inference_mode():
        out = comfy.sample.sample_custom(
            model,
            torch.zeros_like(start),
            CFG,
            comfy.samplers.sampler_object("euler"),
            trajectory.sigmas.flip(0),
            positive or tiny_cond(family),
            negative,
            start,
            disable_pbar=True,
            seed=0,
        )
    return model.model.process_latent_in(out)


def fit(model, family, trajectory, mode, *, inner_steps=2, **settings):
    recipe = NullTextRecipe(cfg=CFG, mode=mode, inner_steps=inner_steps, enough=1e-9)
    with torch.inference_mode():
        return fit_null_text(model, trajectory, tiny_cond(family), tiny_cond(family, seed=3), recipe, **settings)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["fast", "faithful"])
def test_stock_sampler_arrives_where_the_fit_did(family, mode):
    model, _, trajectory = prepared(family)
    weights = {name: weight.clone() for name, weight in model.model.diffusion_model.named_parameters()}
    conditioning, found = fit(model, family, trajectory, mode)
    assert torch.allclose(stock(model, family, trajectory, conditioning), found.latents, atol=5e-3)
    assert found.cost.backwards > 0
    assert all(torch.equal(weights[name], w) for name, w in model.model.diffusion_model.named_parameters())
    assert all(weight.grad is None for weight in model.model.parameters())


def test_fit_brings_the_source_nearer():
    model, _, trajectory = prepared("sd1")
    conditioning, _ = fit(model, "sd1", trajectory, "faithful")
    plain = stock(model, "sd1", trajectory, tiny_cond("sd1", seed=3))
    fitted = stock(model, "sd1", trajectory, conditioning)
    error, lost = ((x - trajectory.latents[0]).square().mean() for x in (fitted, plain))
    assert error < lost


@pytest.mark.parametrize("mode", ["fast", "faithful", "global"])
def test_pictures_of_a_batch_keep_to_themselves(mode):
    model, _, trajectory = prepared("sd1", batch=2)
    together = fit(model, "sd1", trajectory, mode)[1]
    start = tiny_cond("sd1", seed=0 if mode == "fast" else 3)[0][0]
    for row in range(2):
        one = Trajectory(
            trajectory.sigmas,
            trajectory.latents[:, row : row + 1].contiguous(),
            "",
            1.0,
            trajectory.fingerprint,
            "eps",
            trajectory.latent_format,
        )
        alone = fit(model, "sd1", one, mode)[1]
        assert torch.allclose(together.losses[:, row], alone.losses[:, 0], rtol=1e-3)
        # Adam takes a whole step where a gradient is next to nothing, and then rounding may turn its sign: single
        # numbers may differ, not what they amount to.
        moved, apart = ((alone.embeddings[:, 0] - other).abs().mean() for other in (start, together.embeddings[:, row]))
        assert apart < 0.01 * moved


def test_size_of_the_batches_of_levels_does_not_matter():
    model, _, trajectory = prepared("sd1")
    one, four = (fit(model, "sd1", trajectory, "fast", levels_at_once=n, inner_steps=12)[1] for n in (2, 4))
    assert torch.allclose(one.latents, four.latents, atol=2e-2)


@pytest.mark.parametrize(("cfg", "said"), [(1.0, False), (3.0, True)])
def test_an_inversion_under_guidance_warns(caplog, cfg, said):
    model, _, trajectory = prepared("sd1")
    fit(model, "sd1", replace(trajectory, cfg=cfg), "fast")
    assert ("inverted at CFG 3" in caplog.text) == said


def half(kind: torch.dtype):
    """The same weights in half precision, and the arithmetic too, as on a GPU."""
    with torch.inference_mode():
        model = tiny_model("sd1", dtype=kind)
    model.model.manual_cast_dtype = None
    assert model.model.get_dtype_inference() == kind
    return model


@pytest.mark.parametrize(("kind", "part"), [(torch.bfloat16, 0.75), (torch.float16, 0.1)], ids=["bf16", "fp16"])
@pytest.mark.parametrize("mode", ["fast", "faithful"])
def test_half_precision_finds_what_full_precision_does(mode, kind, part):
    """Small losses and all: the fit gains the same but for a part, and the half model's stock sampler comes nearer.

    Compared is the noisiest level, where both begin at the same latent, by what each model sees of its own loss: the
    levels below carry the rounding of those above.
    """
    model, _, trajectory = prepared("sd1")
    halved = half(kind)
    full = fit(model, "sd1", trajectory, mode, inner_steps=8)[1]
    conditioning, found = fit(halved, "sd1", trajectory, mode, inner_steps=8)
    assert all(weight.dtype == kind for weight in halved.model.diffusion_model.parameters())
    assert found.cost == full.cost and found.cost.backwards > 0
    first = (next(loss for level, loss in one.history if level == STEPS) for one in (found, full))
    gained, wanted = (1 - float(one.losses[-1, 0]) / loss for one, loss in zip((found, full), first))
    assert wanted > 0.1 and gained == pytest.approx(wanted, rel=part)
    error, lost = (
        (stock(halved, "sd1", trajectory, negative) - trajectory.latents[0]).square().mean()
        for negative in (conditioning, tiny_cond("sd1", seed=3))
    )
    assert error < lost


@pytest.mark.parametrize("mode", ["fast", "faithful", "global"])
def test_half_precision_that_overflows_is_a_sentence(mode):
    _, _, trajectory = prepared("sd1")
    halved = half(torch.float16)
    with torch.inference_mode():
        # Beyond the largest number of fp16; the fingerprint, made of signs, still knows the model.
        halved.model.diffusion_model.out[-1].weight.mul_(3e5)
    with pytest.raises(ValueError, match="fp32 or bf16"):
        fit(halved, "sd1", trajectory, mode)


def test_global_mode_gives_every_level_the_same_embedding():
    model, _, trajectory = prepared("sd1")
    conditioning, _ = fit(model, "sd1", trajectory, "global")
    assert len(conditioning) == STEPS
    assert all(torch.equal(entry[0], conditioning[0][0]) for entry in conditioning)


def test_ranges_cover_every_level_once():
    sigmas = torch.tensor([0.0, 0.3, 1.0, 4.0, 14.6])
    bounds = level_bounds(sigmas)
    middles = ((sigmas[1:-1] + sigmas[2:]) / 2).tolist()
    for sigma in [*sigmas[1:].tolist(), *middles, 1e-4, 100.0, *torch.rand(50).mul(20).tolist()]:
        level = torch.tensor([sigma])
        active = [i for i, (upper, lower) in enumerate(bounds) if not (level[0] > upper or level[0] < lower)]
        assert len(active) == 1
    assert [i for i, (upper, lower) in enumerate(bounds) if lower <= 1.0 <= upper] == [1]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m, t: (m, tiny_cond("sd1") * 2, None), "2 parts"),
        (lambda m, t: (m, [[tiny_cond("sd1")[0][0], {"start_percent": 0.2}]], None), "part of the run"),
        (lambda m, t: (m, [], None), "empty"),
        (lambda m, t: (tiny_model("sd1", seed=5), tiny_cond("sd1"), None), "another model"),
        (lambda m, t: (tiny_model("flux"), tiny_cond("sd1"), None), "distilled to work without"),
    ],
)
def test_bad_input_is_a_sentence(change, message):
    model, _, trajectory = prepared("sd1")
    with torch.inference_mode():
        model, positive, _ = change(model, trajectory)
        with pytest.raises(ValueError, match=message):
            fit_null_text(model, trajectory, positive, None, NullTextRecipe())
