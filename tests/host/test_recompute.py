"""Checkpointed blocks: the same values and gradients, less kept, nothing left behind."""

import pytest
import torch
from palimpsest.host.recompute import blocks, checkpointed
from palimpsest.host.session import with_denoiser

from ..tiny_models import FAMILIES, tiny_cond, tiny_latent, tiny_model

SIGMAS = torch.tensor([0.7])


@pytest.mark.parametrize("family", FAMILIES)
def test_same_gradient_in_less_memory(family):
    with torch.inference_mode():
        model, latent, seen = tiny_model(family), tiny_latent(family), []
        if family == "sd1":
            # A patch that depends on its place must find the same place in both runs.
            model.set_model_attn1_output_patch(lambda n, extra: n * (1 + 0.1 * extra["block"][1]))

        def body(session):
            kept = 0

            def count(tensor):
                nonlocal kept
                kept += tensor.numel()
                return tensor

            leaf = session.latent.clone().requires_grad_(True)
            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                x0 = session.denoise(leaf, 0.7)
            seen.append(kept)
            return x0, torch.autograd.grad(x0.square().sum(), leaf)[0]

        def sparing(session):
            with checkpointed(session.model.diffusion_model):
                return body(session)

        conds = {"positive": tiny_cond(family)}
        run = lambda work: with_denoiser(model, conds, latent, SIGMAS, work, gradients=True)
        (plain, gradient), (again, sparing_gradient) = run(body), run(sparing)
    assert torch.equal(plain, again) and torch.equal(gradient, sparing_gradient)
    assert seen[1] < 0.7 * seen[0]
    assert not any("forward" in block.__dict__ for block in blocks(model.model.diffusion_model))


def test_both_runs_of_a_block_draw_the_same_numbers():
    """A block multiplies by a random number, which is the gradient."""

    class Block(torch.nn.Module):
        def forward(self, x):
            return x * torch.rand(1)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.ModuleList([Block()])

        def forward(self, x):
            return self.blocks[0](x)

    network, x = Network(), torch.full((3,), 2.0, requires_grad=True)
    with checkpointed(network):
        y = network(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(gradient, y.detach() / 2)
