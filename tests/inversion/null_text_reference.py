"""Null-text optimisation as one straight line, written from the paper's algorithm 1 and its published settings.

Everything is in the paper's own terms: latents z of unit size, epsilon, alpha_bar, time steps, torch's own Adam; the
DDIM steps are diffusers' scheduler's, or the formula's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ddim_formula(epsilon: Tensor, z: Tensor, alpha: Tensor, alpha_prev: Tensor) -> Tensor:
    z0 = (z - (1 - alpha).sqrt() * epsilon) / alpha.sqrt()
    return alpha_prev.sqrt() * z0 + (1 - alpha_prev).sqrt() * epsilon


def null_text_reference(epsilon_of, pivots, alphas, source, empty, *, cfg=7.5, inner_steps=10, step=None):
    """epsilon_of(z, alpha_bar, text) -> epsilon; pivots (N+1, 1, C, h, w) as z, rising; alphas (N+1,) alpha_bar.

    Returns the N embeddings, noisiest first, the latents that were passed, and the losses of every level.
    """
    count = len(pivots) - 1
    step = step or (lambda epsilon, z, i: ddim_formula(epsilon, z, alphas[count - i], alphas[count - i - 1]))
    uncond, z, kept, passed, losses = empty, pivots[-1], [], [pivots[-1]], []
    for i in range(count):
        alpha = alphas[count - i]
        wanted = pivots[count - i - 1]
        uncond = uncond.clone().detach().requires_grad_(True)
        optimizer = torch.optim.Adam([uncond], lr=1e-2 * (1.0 - i / 100.0))
        with torch.no_grad():
            eps_cond = epsilon_of(z, alpha, source)
        losses.append([])
        for _ in range(inner_steps):
            eps_uncond = epsilon_of(z, alpha, uncond)
            loss = F.mse_loss(step(eps_uncond + cfg * (eps_cond - eps_uncond), z, i), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
            if loss.item() < 1e-5 + i * 2e-5:
                break
        kept.append(uncond.detach())
        with torch.no_grad():
            eps_uncond = epsilon_of(z, alpha, kept[-1])
            z = step(eps_uncond + cfg * (eps_cond - eps_uncond), z, i)
        passed.append(z)
    return kept, passed, losses
