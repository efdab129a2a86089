"""Faithful mode on the host beside the paper's straight line on diffusers' UNet and scheduler, one file of weights."""

import comfy.sd
import pytest
import torch
from palimpsest.host.family import latent_format_name
from palimpsest.host.fingerprint import fingerprint
from palimpsest.host.inversion.null_text import fit_null_text
from palimpsest.inversion.null_text_run import NullTextRecipe
from palimpsest.inversion.trajectory import Trajectory
from palimpsest.papercut.companion.model import register
from palimpsest.papercut.export import export
from palimpsest.papercut.reference import load_reference

from ..papercut.conftest import random_networks
from .null_text_reference import null_text_reference

STEPS, INNER, SIDE, CFG = 50, 3, 8, 7.5


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """(host's MODEL, diffusers' modules) of the same random weights; the last layer speaks up, so that text counts."""
    pytest.importorskip("diffusers")
    unet, text, vae = random_networks()
    with torch.no_grad():
        unet.conv_out.weight *= 3
    file = export(unet, text, vae, tmp_path_factory.mktemp("null-text") / "papercut.safetensors")
    register()
    with torch.inference_mode():
        model = comfy.sd.load_checkpoint_guess_config(str(file), output_vae=False, output_clip=False)[0]
    return model, load_reference(file)


class Official:
    """The published code's terms: latents z of unit size, alpha_bar, diffusers' own steps down."""

    def __init__(self, reference):
        self.unet, self.scheduler = reference.unet, reference.scheduler
        self.scheduler.set_timesteps(STEPS)
        self.steps = self.scheduler.timesteps
        self.alphas = torch.cat([torch.ones(1), self.scheduler.alphas_cumprod[self.steps.flip(0)]])
        with torch.no_grad():
            self.source, self.empty = reference.embed("a red heart on a mint plain ground"), reference.embed("")

    def epsilon(self, z, alpha, text):
        place = int((self.alphas - alpha).abs().argmin())
        return self.unet(z, self.steps[STEPS - place], encoder_hidden_states=text).sample

    def step(self, epsilon, z, i):
        return self.scheduler.step(epsilon, self.steps[i], z).prev_sample

    @torch.no_grad()
    def pivots(self):
        z = torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(6))
        path = [z]
        for a, b in zip(self.alphas[:-1], self.alphas[1:]):
            epsilon = self.epsilon(path[-1], b, self.source)
            clean = (path[-1] - (1 - a).sqrt() * epsilon) / a.sqrt()
            path.append(b.sqrt() * clean + (1 - b).sqrt() * epsilon)
        return torch.stack(path)


def test_the_hosts_fit_is_the_papers(parts):
    model, reference = parts
    official = Official(reference)
    pivots = official.pivots()
    kept, passed, losses = null_text_reference(
        official.epsilon,
        pivots,
        official.alphas,
        official.source,
        official.empty,
        cfg=CFG,
        inner_steps=INNER,
        step=official.step,
    )
    sigmas = ((1 - official.alphas) / official.alphas).sqrt()
    path = pivots * (1 + sigmas**2).sqrt().reshape(-1, 1, 1, 1, 1)
    trajectory = Trajectory(sigmas, path, "", 1.0, fingerprint(model), "eps", latent_format_name(model))
    with torch.inference_mode():
        _, found = fit_null_text(
            model, trajectory, [[official.source, {}]], [[official.empty, {}]], NullTextRecipe(CFG, "faithful", INNER)
        )
    assert max(len(level) for level in losses) == INNER > 1, "the case should need more than one update somewhere"
    # Adam's first update is a sign, which rounding may flip: early levels agree closely, late ones in what they do.
    for i in range(5):
        assert (found.embeddings[STEPS - 1 - i] - kept[i]).abs().mean() < 1e-4, f"step {i}"
    assert len(found.history) == pytest.approx(sum(map(len, losses)), abs=5)
    ends = [level[-1] for level in losses]
    for i, loss in enumerate(ends):
        assert float(found.losses[STEPS - 1 - i]) == pytest.approx(loss, rel=0.2, abs=1e-6), f"step {i}"
    assert (found.latents - passed[-1]).abs().max() < 0.02
