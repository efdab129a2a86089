"""For the tests of the host's side: random LoRAs, and a model asked once or sampled by the host's own Euler."""

import comfy.samplers
import torch
from palimpsest.host.morphing.lora import lora_model
from palimpsest.host.session import with_denoiser
from palimpsest.morphing.lora import LowRank

SIGMAS = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.0])
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def random_lora(model, seed=0, rank=3, size=0.3, where=ATTENTION):
    """A LORA_MODEL of the attention layers, large enough to be seen."""
    layers = {}
    for index, (name, module) in enumerate(model.model.diffusion_model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name.endswith(where):
            generator = torch.Generator().manual_seed(1000 * seed + index)
            down = torch.randn(rank, module.in_features, generator=generator) / module.in_features**0.5
            layers[name] = LowRank(down, size * torch.randn(module.out_features, rank, generator=generator))
    return lora_model(layers)


def ask(model, cond, x, sigma=2.0, negative=None, cfg=1.0):
    """x0 of one call; with a negative by the host's own CFG."""
    conds = {"positive": cond} | ({"negative": negative} if negative else {})
    body = lambda session: session.guided(x, sigma)
    return with_denoiser(model, conds, x, torch.tensor([sigma, 0.0]), body, cfg=cfg)


def sample(model, cond, noise, negative=None, cfg=1.0, sigmas=SIGMAS, latent=None):
    """The stock guider and the stock Euler."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(cond, negative or cond)
    guider.set_cfg(cfg)
    latent = torch.zeros_like(noise) if latent is None else latent
    return guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=0)
