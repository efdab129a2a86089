"""Proximal Guidance's published form in the host's stock sampler beside the paper's straight line in its own terms."""

import comfy.sample
import comfy.samplers
import pytest
import torch
import torch.nn.functional as F
from palimpsest.guidance.proximal import published
from palimpsest.host.family import latent_format_name
from palimpsest.host.fingerprint import fingerprint
from palimpsest.inversion.trajectory import Trajectory
from palimpsest.nodes.inversion_null_text import ProximalGuidance

from ..tiny_models import tiny_cond, tiny_latent, tiny_model

CFG, STEPS, QUANTILE, RATE, GROW = 5.0, 6, 0.75, 0.5, 1
# The source's row is its own negative, as in Negative-Prompt Inversion; the edit's is another.
PROMPTS = (0, 2)
PULL_FROM = 0.3


class Edit:
    """A tiny model, an image that is its source, and one noise for both rows."""

    def __init__(self):
        self.model = tiny_model("sd1")
        self.sampling = self.model.get_model_object("model_sampling")
        self.sigmas = comfy.samplers.calculate_sigmas(self.sampling, "normal", STEPS)
        self.positive = [[torch.cat([tiny_cond("sd1", seed=i)[0][0] for i in PROMPTS]), {}]]
        self.negative = [[tiny_cond("sd1", seed=PROMPTS[0])[0][0].expand(2, -1, -1).contiguous(), {}]]
        self.raw = tiny_latent("sd1")
        self.image = self.model.model.process_latent_in(self.raw)
        self.noise = torch.randn(self.raw.shape, generator=torch.Generator().manual_seed(1)).repeat(2, 1, 1, 1)

    def trajectory(self) -> Trajectory:
        return Trajectory(
            torch.tensor([0.0, 1.0]),
            torch.stack([self.image, self.image]),
            "",
            1.0,
            fingerprint(self.model),
            "eps",
            latent_format_name(self.model),
        )

    def sampled(self, model, keep=None):
        """The host's Euler from pure noise -> scaled latents. keep: a list that gets each step's (latent, clean)."""
        zero = torch.zeros_like(self.noise)
        with torch.inference_mode():
            out = comfy.sample.sample_custom(
                model,
                self.noise,
                CFG,
                comfy.samplers.sampler_object("euler"),
                self.sigmas,
                self.positive,
                self.negative,
                zero,
                callback=None if keep is None else lambda i, clean, x, n: keep.append((x.clone(), clean.clone())),
                disable_pbar=True,
                seed=0,
            )
        return self.model.model.process_latent_in(out)


def predictions(model):
    """A clone of the model and a list that gets (conditional, unconditional) of each call, before any guidance."""
    seen = []
    clone = model.clone()
    clone.set_model_sampler_pre_cfg_function(
        lambda args: (seen.append([o.clone() for o in args["conds_out"]]), args["conds_out"])[1]
    )
    return clone, seen


def official_step(z, clean, alpha, before, prox, image):
    """One step of the published rule: z of unit size; clean: (conditional, unconditional) pictures that the network
    sees in it; image: the source, where the run has come far enough to be drawn to it."""
    conditional, unconditional = ((z - alpha.sqrt() * one) / (1 - alpha).sqrt() for one in clean)
    delta = conditional - unconditional
    limit = torch.quantile(delta.abs().flatten(), QUANTILE)
    delta = torch.sign(delta) * F.relu(delta.abs() - limit)
    if prox == "l1":
        delta = delta.clone()
        delta[delta > 0] -= limit
        delta[delta < 0] += limit
    epsilon = unconditional + CFG * delta
    picture = (z - (1 - alpha).sqrt() * epsilon) / alpha.sqrt()
    if image is not None:
        edited = F.max_pool2d((delta.abs() > limit).float(), 2 * GROW + 1, stride=1, padding=GROW)
        picture = picture - RATE * (picture - image) * (1 - edited)
    return before.sqrt() * picture + (1 - before).sqrt() * epsilon


@pytest.mark.parametrize("prox", ["l0", "l1"])
def test_each_step_is_the_published_one(prox):
    edit, states = Edit(), []
    listening, seen = predictions(edit.model)
    settings = {"pull": RATE, "pull_from": PULL_FROM, "grow": GROW, "form": f"published {prox}"}
    patched = ProximalGuidance.execute(listening, QUANTILE, trajectory=edit.trajectory(), **settings).args[0]
    states.append(edit.sampled(patched, kept := []))
    latents = [x for x, _ in kept] + states
    alphas = 1 / (1 + edit.sigmas**2)
    start = edit.sampling.percent_to_sigma(PULL_FROM)
    drawn = 0
    for i, (sigma, clean) in enumerate(zip(edit.sigmas[:-1], seen, strict=True)):
        image = edit.image if sigma <= start else None
        drawn += image is not None
        z = alphas[i].sqrt() * latents[i]
        there = official_step(z, clean, alphas[i], alphas[i + 1], prox, image) / alphas[i + 1].sqrt()
        assert torch.allclose(there, latents[i + 1], rtol=1e-3, atol=1e-3 * float(latents[i + 1].std())), i
    assert 1 < drawn < STEPS


def test_none_is_plain_guidance():
    edit = Edit()
    (patched,) = ProximalGuidance.execute(edit.model, form="published none", trajectory=edit.trajectory()).args
    assert torch.equal(edit.sampled(patched), edit.sampled(edit.model))


def test_ours_and_the_published_one_differ():
    edit = Edit()
    ours, l0, l1 = (
        edit.sampled(ProximalGuidance.execute(edit.model, QUANTILE, form=form).args[0])
        for form in ("palimpsest", "published l0", "published l1")
    )
    assert min((ours - l0).abs().max(), (ours - l1).abs().max(), (l0 - l1).abs().max()) > 1e-2


def test_the_quantile_is_of_the_whole_batch():
    """A source's row that differs nowhere from its negative leaves half as much of the edit's row to be cut."""
    difference = torch.zeros(2, 1, 4, 8)
    difference[1] = torch.arange(1.0, 33.0).reshape(1, 4, 8)
    left, limit = published(difference, 0.75, "published l0")
    assert (left[1] > 0).sum() == 16 and torch.equal(left[1].flatten()[16:], torch.arange(17.0, 33.0) - limit)


def test_the_published_l1_moves_all_that_is_left_below_zero():
    """Of the noise's difference, which has the other sign; values up to 2.3 are cut."""
    difference = torch.tensor([-5.0, -3.0, 0.0, 2.0, 2.5]).reshape(1, 1, 1, 5)
    left, limit = published(-difference, 0.4, "published l1")
    assert float(limit) == pytest.approx(2.3)
    assert torch.allclose(-left.flatten(), torch.tensor([-2.7 + 2.3, -0.7 + 2.3, 0.0, 0.0, 0.2]))
