"""Sketch guidance as a MODEL patch, through the host's own samplers on tiny random models made as loaders make them."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from palimpsest.guidance.sketch.guidance import SketchRecipe, row_norm, sketch_loss
from palimpsest.guidance.sketch.predictor import PredictorSpec
from palimpsest.guidance.sketch.prepare import Strokes
from palimpsest.host.attention.blocks import attention_blocks
from palimpsest.host.gradients import plain
from palimpsest.host.session import with_denoiser
from palimpsest.host.sketch import edge_gradient
from palimpsest.host.sketch.edge_gradient import EdgeGradient, gradient_options
from palimpsest.host.sketch.layers import layout, require_predictor_of
from palimpsest.host.sketch.patch import Sketch, latent_target, sketch_guided
from palimpsest.host.unet_features import sketch_layers
from palimpsest.nodes.sketch import EdgePredictorGuidance
from palimpsest.tests.sketch.fixtures import channels_of, drawing, tiny_predictor
from palimpsest.tests.tiny_models import UNET, tiny_cond, tiny_latent, tiny_model, tiny_vae

STEPS = 4
UNETS = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="module")
def models():
    """MODELs whose weights are inference tensors, as those of the host's loaders."""
    with torch.inference_mode():
        return {family: tiny_model(family) for family in (*UNETS, "flux")}


def schedule(model, steps=STEPS):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)


def run(
    model,
    family,
    *,
    sampler="euler",
    rows=1,
    cfg=3.0,
    sigmas=None,
    noise_mask=None,
    positive=None,
    negative=None,
    callback=None,
):
    latent = torch.zeros(rows, 4, 8, 8)
    noise = comfy.sample.prepare_noise(latent, 7)
    chosen = comfy.samplers.sampler_object(sampler)
    sigmas = schedule(model) if sigmas is None else sigmas
    with torch.inference_mode():
        return comfy.sample.sample_custom(
            model,
            noise,
            cfg,
            chosen,
            sigmas,
            positive or tiny_cond(family),
            negative or tiny_cond(family, seed=1),
            latent,
            noise_mask=noise_mask,
            callback=callback,
            disable_pbar=True,
            seed=7,
        )


def guided(model, *, predictor=None, strokes=None, region=None, on_loss=None, encode=None, **recipe):
    predictor = predictor or tiny_predictor(model)
    sketch = Sketch(strokes or drawing(), region, encode)
    return sketch_guided(model, predictor, sketch, SketchRecipe(**recipe), on_loss=on_loss)


def by_node(model, predictor, **inputs):
    inputs = {"sketch": drawing().lines.float()[..., None].expand(-1, -1, -1, 3), **inputs}
    return EdgePredictorGuidance.execute(model, predictor, **inputs)


@pytest.mark.parametrize("family", UNETS)
def test_every_unet_is_guided_and_left_as_it_was(models, family):
    model = models[family]
    weights = {name: value.clone() for name, value in model.model.state_dict().items()}
    plain_run = run(model, family)
    losses = []
    out = run(guided(model, on_loss=lambda step, loss: losses.append((step, loss.clone()))), family)
    assert torch.isfinite(out).all() and not torch.allclose(out, plain_run, atol=1e-3)
    assert [step for step, _ in losses] == [0, 1]
    assert torch.equal(run(model, family), plain_run)
    assert all(torch.equal(value, weights[name]) for name, value in model.model.state_dict().items())
    assert not any(layer._forward_hooks for layer in model.model.diffusion_model.modules())
    assert not any(weight.requires_grad for weight in model.model.parameters())


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "euler_ancestral", "euler_cfg_pp"])
@pytest.mark.parametrize("recipe", [{"strength": 0.0}, {"start": 0.98, "end": 0.99}], ids=["strength 0", "no window"])
def test_no_guidance_is_the_plain_host_to_the_last_bit(models, sampler, recipe):
    model = models["sd1"]
    assert torch.equal(run(guided(model, **recipe), "sd1", sampler=sampler), run(model, "sd1", sampler=sampler))


@pytest.mark.parametrize(
    "sampler", ["heun", "dpm_2", "dpmpp_2m", "dpmpp_2m_sde", "euler_ancestral", "uni_pc", "lms", "euler_cfg_pp", "lcm"]
)
def test_stock_samplers_take_the_guidance(models, sampler):
    model = models["sd1"]
    out = run(guided(model), "sd1", sampler=sampler)
    assert torch.isfinite(out).all() and not torch.allclose(out, run(model, "sd1", sampler=sampler), atol=1e-3)


def steps_of(model, family, rows=2):
    """x at each level of an Euler run, in the host's scaled form, and the run's result."""
    seen = []
    out = run(model, family, rows=rows, callback=lambda i, x0, x, n: seen.append((x.clone(), x0.clone())))
    return seen, out


def test_the_papers_step_length_holds_for_each_row_of_a_run(models):
    """The first step of two runs, guided and plain, from the same noise: their distance is beta |z_t - z_(t-1)|."""
    model, sigmas = models["sd1"], schedule(models["sd1"])
    (plain_steps, _), (bent_steps, _) = (steps_of(m, "sd1") for m in (model, guided(model, strength=0.7)))
    z, after, bent = (
        x / (1 + s * s).sqrt()
        for x, s in ((plain_steps[0][0], sigmas[0]), (plain_steps[1][0], sigmas[1]), (bent_steps[1][0], sigmas[1]))
    )
    assert torch.allclose(row_norm(bent - after), 0.7 * row_norm(z - after), rtol=1e-3)


def test_the_adaption_changes_the_length_of_later_steps_row_by_row(models):
    """From the second guided step on; its length there is the paper's, times the gain of the two gradients."""
    model, gradients, seen = models["sd1"], [], {}
    taken = edge_gradient.EdgeGradient.result
    for adapt in (0.0, 0.5):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                edge_gradient.EdgeGradient, "result", lambda self: gradients.append(taken(self)) or gradients[-1]
            )
            seen[adapt] = steps_of(guided(model, strength=0.7, blur=0.0, adapt=adapt), "sd1")[0]
    assert torch.equal(seen[0.0][1][0], seen[0.5][1][0])
    assert len(gradients) == 4 and all(torch.equal(a, b) for a, b in zip(gradients[:2], gradients[2:]))
    plain_x0 = steps_of(guided(model, strength=0.7, blur=0.0, end=0.2), "sd1")[0][1][1]
    steps = [row_norm(plain_x0 - seen[adapt][1][1]) for adapt in (0.0, 0.5)]
    cosine = torch.nn.functional.cosine_similarity(gradients[0].flatten(1), gradients[1].flatten(1))
    assert torch.allclose((steps[1] / steps[0]).flatten(), torch.exp(0.5 * cosine).clamp(0.2, 2.0), rtol=2e-2)


def test_a_step_of_the_paper_goes_down_the_gradient(models):
    """With a small step the loss at the next level is lower than without it."""
    model, losses = models["sd1"], {}
    for name, strength in (("bent", 0.3), ("hardly", 1e-6)):
        found = losses.setdefault(name, [])
        run(guided(model, strength=strength, end=1.0, on_loss=lambda _, loss: found.append(float(loss))), "sd1")
    assert losses["bent"][0] == pytest.approx(losses["hardly"][0], rel=1e-4)
    assert losses["bent"][-1] < losses["hardly"][-1]


@pytest.mark.parametrize("family", UNETS)
def test_the_gradient_agrees_with_finite_differences(models, family):
    """Through the host's model call, with classifier-free guidance: only the conditional half has a gradient."""
    model = models[family]
    predictor = tiny_predictor(model)
    conds = {"positive": tiny_cond(family, batch=2), "negative": tiny_cond(family, seed=1)}
    target, _ = latent_target(predictor, Sketch(drawing()), model.model, (8, 8), 0.0)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4)) * 5
    made = {}

    def body(session):
        gradient = EdgeGradient(session.guider, predictor, lambda out: sketch_loss(out, target), x.shape)
        options = gradient_options(gradient, session._extra_args["model_options"])
        session.guider(x, session.levels(x, 4.0), model_options=options, seed=0)
        made.update(gradient=gradient.result(), loss=gradient.loss)

        def loss_at(moved):
            probe = EdgeGradient(session.guider, predictor, lambda out: sketch_loss(out.double(), target), x.shape)
            taken = gradient_options(probe, session._extra_args["model_options"])
            session.guider(moved, session.levels(x, 4.0), model_options=taken, seed=0)
            return probe.loss.double()

        difference = made["gradient"] / row_norm(made["gradient"])
        # Short enough for the kinks of the predictor to lie outside, long enough for single precision.
        made["difference"] = (loss_at(x + 0.025 * difference) - loss_at(x - 0.025 * difference)) / 0.05
        return None

    with torch.inference_mode():
        with_denoiser(model, conds, tiny_latent(family, 2), torch.tensor([4.0, 0.0]), body, cfg=3.0)
    assert torch.allclose(made["difference"].float(), row_norm(made["gradient"]).flatten(), rtol=1e-2)


def test_recomputed_activations_give_the_same_gradient(models, monkeypatch):
    """Where memory runs out the run goes on, and ends in the same picture."""
    model = models["sd1"]
    wanted = run(guided(model), "sd1")
    taken = EdgeGradient._forward
    failures = []

    def short(self, *args):
        if not self.sparing:
            failures.append(1)
            raise torch.OutOfMemoryError("out of memory")
        return taken(self, *args)

    monkeypatch.setattr(edge_gradient.EdgeGradient, "_forward", short)
    again = run(guided(model), "sd1")
    assert (again - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert len(failures) == 1
    assert not any("forward" in layer.__dict__ for layer in model.model.diffusion_model.modules())


def evaluations(model, **options) -> list[tuple[int, bool]]:
    """The rows of each call of the network in an Euler run, and whether it has gradients."""
    calls = []

    def spy(executor, x, *args, **kwargs):
        calls.append((x.shape[0], x.requires_grad))
        return executor(x, *args, **kwargs)

    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "spy", spy)
    run(patched, "sd1", **options)
    return calls


def test_the_backward_pass_sees_the_conditional_half_alone(models):
    """One call with gradients a guided step, of the positive prompt's rows; layers behind the taps have no graph."""
    model, ends = models["sd1"].clone(), []

    def watch(_module, _args, out):
        ends.append(out.requires_grad)

    handle = model.model.diffusion_model.out.register_forward_hook(watch)
    try:
        calls = evaluations(guided(model), rows=3)
    finally:
        handle.remove()
    assert calls == [(3, False), (3, True), (3, False), (3, True), (6, False), (6, False)]
    assert not any(ends)


def test_what_the_negative_prompt_changes_can_serve_for_a_fraction_of_the_run(models):
    """The negative half is then not computed: it lies as far from the positive one as when it last was."""
    model, seen = models["sd1"].clone(), []

    def look(args):
        seen.append((args["cond_denoised"].clone(), args["uncond_denoised"].clone()))
        return args["denoised"]

    model.set_model_sampler_post_cfg_function(look)
    reusing = guided(model, end=1.0, hold=1.0)
    assert evaluations(reusing, rows=2) == [(2, False), *[(2, True)] * 4]
    first = seen[0][0] - seen[0][1]
    assert all(torch.allclose(one - other, first, atol=1e-4 * float(one.abs().max())) for one, other in seen[1:])
    assert not torch.allclose(seen[0][0], seen[2][0], atol=1e-2)
    each = [(2, False), (2, True)] * 4
    assert evaluations(guided(model, end=1.0, hold=0.0), rows=2) == each
    assert evaluations(guided(model, end=1.0, hold=0.6), rows=2) == [*each[:2], (2, True), *each[4:6], (2, True)]


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "euler_ancestral", "euler_cfg_pp"])
def test_stock_samplers_take_a_reused_negative(models, sampler):
    model = models["sd1"]
    out = run(guided(model, end=1.0, hold=1.0), "sd1", sampler=sampler)
    assert torch.isfinite(out).all() and not torch.allclose(out, run(model, "sd1", sampler=sampler), atol=1e-3)


def test_a_negative_that_changes_from_level_to_level_is_never_reused(models):
    levels = [[tokens, {**more, "start_percent": 0.0, "end_percent": 1.0}] for tokens, more in tiny_cond("sd1", seed=1)]
    calls = evaluations(guided(models["sd1"], end=1.0, hold=1.0), negative=levels)
    assert calls == [(1, False), (1, True)] * 4
    assert evaluations(guided(models["sd1"], end=1.0, hold=1.0), cfg=1.0) == [(1, True)] * 4


def test_each_row_has_its_own_sketch_and_does_not_know_its_batch(models):
    model = models["sd1"]
    both = run(guided(model, strokes=drawing(rows=2)), "sd1", rows=2)
    one = drawing(rows=2)
    first = Strokes(one.lines[:1], one.weight[:1])
    alone = run(guided(model, strokes=first), "sd1", rows=2)
    # Random weights make values of hundreds; sketches for two rows are blurred with roundings of their own.
    assert (both[0] - alone[0]).abs().max() < 5e-6 * alone[0].abs().max()
    assert not torch.allclose(both[1], alone[1], atol=1e-3)


def test_every_other_step(models):
    steps = []
    run(guided(models["sd1"], every=2, end=1.0, on_loss=lambda step, _: steps.append(step)), "sd1")
    assert steps == [0, 2]


def test_steps_between_two_gradients_follow_the_last_one(models):
    """The second step, guided by the first one's gradient, goes the same way as the first one did."""
    model, steps, runs = models["sd1"], {}, {"plain": steps_of(models["sd1"], "sd1")[0]}
    for name, recipe in {"each": {}, "held": {"renew": 0.5}, "left out": {"every": 2}}.items():
        found = steps.setdefault(name, [])
        patched = guided(model, strength=0.7, end=1.0, on_loss=lambda step, _: found.append(step), **recipe)
        runs[name] = steps_of(patched, "sd1")[0]
    assert steps == {"each": [0, 1, 2, 3], "held": [0, 2], "left out": [0, 2]}
    difference = lambda one, other, step: (runs[one][step][0] - runs[other][step][0]).flatten(1)
    first, second = difference("held", "plain", 1), difference("held", "left out", 2)
    assert torch.nn.functional.cosine_similarity(first, second).min() > 0.999 and second.norm() > 0.1


def test_a_region_is_guided_and_the_rest_is_not_touched_by_the_step(models):
    model = models["sd1"]
    region = torch.zeros(1, 64, 64)
    region[..., :32] = 1
    (plain_steps, _), (bent_steps, _) = (steps_of(m, "sd1", rows=1) for m in (model, guided(model, region=region)))
    plain_x0, bent_x0 = plain_steps[0][1], bent_steps[0][1]
    # Alone, the positive prompt's rows are computed with roundings of their own.
    assert torch.allclose(plain_x0[..., 4:], bent_x0[..., 4:], atol=1e-3)
    assert not torch.allclose(plain_x0[..., :4], bent_x0[..., :4], atol=0.1)


def test_several_entries_of_the_prompt_and_areas(models):
    """Entries for the whole picture are averaged, one for an area is left to the host."""
    model = models["sd1"]
    one, two = tiny_cond("sd1"), tiny_cond("sd1", seed=4)
    area = [[two[0][0], {"area": (4, 4, 0, 0), "strength": 1.0}]]
    for positive in ([*one, *two], [*one, *area]):
        losses = []
        out = run(guided(model, on_loss=lambda _, loss: losses.append(loss)), "sd1", positive=positive)
        assert torch.isfinite(out).all() and all(loss.shape == (1,) for loss in losses) and len(losses) == 2
    with pytest.raises(ValueError, match="an entry without an area"):
        run(guided(model), "sd1", positive=area)


def test_two_sketches_guide_together(models):
    model = models["sd1"]
    once = run(guided(model), "sd1")
    other = Strokes(*(t.transpose(1, 2).flip(1).contiguous() for t in (drawing().lines, drawing().weight)))
    twice = run(guided(guided(model), strokes=other), "sd1")
    assert torch.isfinite(twice).all() and not torch.allclose(once, twice, atol=1e-3)


def test_encoded_edges_as_the_target(models):
    model = models["sd1"]
    with torch.inference_mode():
        vae = tiny_vae()
    predictor = tiny_predictor(model, target="latent", detail=1)
    out = run(guided(model, predictor=predictor, encode=vae.encode), "sd1")
    assert torch.isfinite(out).all() and not torch.allclose(out, run(model, "sd1"), atol=1e-3)
    with pytest.raises(ValueError, match="connect the model's VAE"):
        by_node(model, predictor)


def test_half_precision_weights(models):
    with torch.inference_mode():
        half = tiny_model("sd1", dtype=torch.float16)
    near = run(guided(models["sd1"]), "sd1")
    out = run(guided(half), "sd1")
    assert torch.isfinite(out).all() and (out - near).abs().mean() < 0.2 * near.abs().mean()


def test_what_an_inpainting_mask_keeps_is_kept(models):
    model = models["sd1"]
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1
    out = run(guided(model), "sd1", noise_mask=mask)
    assert out[..., 4:].abs().max() < 1e-6 < out[..., :4].abs().max()


# What cannot be done is a sentence


def test_other_models_are_a_sentence(models):
    with pytest.raises(ValueError, match="UNet of Stable Diffusion 1, 2 and SDXL"):
        by_node(models["flux"], tiny_predictor(models["sd1"]))


def test_a_predictor_of_another_family_is_a_sentence(models):
    with pytest.raises(ValueError, match="trained for a model of the family sdxl"):
        by_node(models["sd1"], tiny_predictor(models["sdxl"]))


def test_a_predictor_of_a_wider_model_is_a_sentence(models):
    spec = tiny_predictor(models["sd1"]).spec
    changed = tiny_predictor(models["sd1"], channels=tuple(2 * c for c in spec.channels))
    with pytest.raises(ValueError, match="load a predictor that was trained for this model"):
        run(guided(models["sd1"], predictor=changed), "sd1")


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"strokes": Strokes(drawing(128).lines[:, :64], drawing(128).weight[:, :64])}, "other proportions"),
        ({"strokes": drawing(rows=3)}, "holds 3 pictures"),
    ],
    ids=["proportions", "batch"],
)
def test_a_sketch_that_does_not_fit_is_a_sentence(models, changes, message):
    with pytest.raises(ValueError, match=message):
        run(guided(models["sd1"], **changes), "sd1", rows=2)


@pytest.mark.parametrize(
    "inputs,message",
    [
        ({"sketch": torch.zeros(1, 64, 64, 3)}, "sketch is blank"),
        ({"mask": torch.zeros(1, 64, 64)}, "mask .* is empty"),
    ],
)
def test_a_blank_sketch_and_an_empty_mask_are_a_sentence(models, inputs, message):
    with pytest.raises(ValueError, match=message):
        by_node(models["sd1"], tiny_predictor(models["sd1"]), **inputs)


def test_a_sketch_of_another_size_is_fitted(models):
    out = run(guided(models["sd1"], strokes=drawing(128)), "sd1")
    assert torch.isfinite(out).all() and not torch.allclose(out, run(models["sd1"], "sd1"), atol=1e-3)


# Which layers are read


def test_the_layout_of_stable_diffusion_is_the_papers():
    from types import SimpleNamespace

    def unet(levels, blocks):
        return SimpleNamespace(num_res_blocks=[blocks] * levels, middle_block=[None] * 3)

    middle = ("middle.0", "middle.1", "middle.2")
    sd = layout(unet(4, 2))
    assert sd == ("input.2", "input.4", "input.8", *middle, "output.2", "output.4", "output.8")
    assert layout(unet(3, 2)) == ("input.2", "input.4", "input.8", *middle, "output.2", "output.4", "output.5")
    # The last one is the enlarged output of the second level, as in the paper; the level behind it carries no graph.
    assert layout(unet(3, 1)) == ("input.1", "input.3", "input.5", *middle, "output.1", "output.2", "output.3")


def test_the_layers_read_are_in_the_order_of_the_forward_pass(models):
    model = models["sd1"]
    network = model.model.diffusion_model
    names = list(sketch_layers(network))
    taps = layout(network)
    assert [names.index(tap) for tap in taps] == sorted(names.index(tap) for tap in taps)
    assert all(tap in channels_of(model) for tap in taps)
    spec = PredictorSpec("sd1", "SD15", ("input.77",), (4,))
    with pytest.raises(ValueError, match="load a predictor of this family"):
        require_predictor_of(model, spec, "A test")


def test_plain_is_what_the_tests_think(models):
    assert not plain(next(models["sd1"].model.parameters()).detach()).is_inference()


def test_unets_without_a_middle_block_are_guided(monkeypatch):
    """KOALA and SDXS have none."""
    monkeypatch.setitem(UNET, "transformer_depth_middle", -2)
    with torch.inference_mode():
        model = tiny_model("sdxl")
    assert model.model.diffusion_model.middle_block is None
    assert layout(model.model.diffusion_model) == ("input.1", "output.1")
    assert attention_blocks(model.model.diffusion_model)
    out = run(guided(model), "sdxl")
    assert torch.isfinite(out).all() and not torch.allclose(out, run(model, "sdxl"), atol=1e-3)
