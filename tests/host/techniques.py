"""What the pack does with a model, on tiny random ones: each technique as `run(model) -> list[Tensor]`.

`GRADIENTS` take gradients through the model, `RUNS` evaluate it in loops of ours, `PATCHES` patch it for a stock
sampler: `run(model, finish)`, where `finish` is what comes between the patched model and the sampler.
"""

from __future__ import annotations

from unittest.mock import patch

import comfy.samplers
import torch
from palimpsest.guidance.anchor import Anchor
from palimpsest.guidance.motion.recipe import FAITHFUL
from palimpsest.guidance.prompt_to_prompt.plan import plan_edits
from palimpsest.guidance.sketch.guidance import SketchRecipe
from palimpsest.host.best_seed import drafts, sketch_score
from palimpsest.host.diffedit import heat_map
from palimpsest.host.family import latent_format_name
from palimpsest.host.fingerprint import fingerprint
from palimpsest.host.inversion.anchor import anchored
from palimpsest.host.inversion.null_text import fit_null_text
from palimpsest.host.morphing import lora_fit
from palimpsest.host.morphing.attention_blend import blended
from palimpsest.host.morphing.conditioning import morphed
from palimpsest.host.morphing.row_lora import interpolated
from palimpsest.host.motion.networks import Tools
from palimpsest.host.motion.sampler import FlowGuidanceSampler
from palimpsest.host.prompt_to_prompt.patch import with_prompt_to_prompt
from palimpsest.host.prompt_to_prompt.tokens import as_rows, encode_tokens, read_prompt
from palimpsest.host.prompt_to_prompt.word_maps import maps_of_picture
from palimpsest.host.session import with_denoiser
from palimpsest.host.sketch.layers import require_predictor_of
from palimpsest.host.sketch.patch import Sketch, sketch_guided
from palimpsest.inversion.ddim import invert
from palimpsest.inversion.null_text_run import NullTextRecipe
from palimpsest.inversion.trajectory import Trajectory
from palimpsest.morphing.fit import LoraRecipe
from palimpsest.morphing.schedule import schedule

from ..morphing.parts import random_lora
from ..motion.test_motion_host import motion
from ..prompt_to_prompt.tiny_clip import tiny_clip
from ..sketch.fixtures import drawing, tiny_predictor
from ..tiny_models import tiny_cond, tiny_latent, tiny_vae

STEPS, CFG = 6, 4.0
TEXTS = ["a red heart on grey", "a blue heart on grey"]
POSITIVE, NEGATIVE = tiny_cond("sd1"), tiny_cond("sd1", seed=1)


def levels(model) -> torch.Tensor:
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS)


def sampled(model, positive=POSITIVE, rows=1, sampler=None, latent=None, negative=NEGATIVE) -> list[torch.Tensor]:
    """A stock guider and the stock Euler, or another sampler."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(CFG)
    noise = torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    latent = torch.zeros_like(noise) if latent is None else latent
    sampler = sampler or comfy.samplers.sampler_object("euler")
    return [guider.sample(noise, latent, sampler, levels(model), seed=1, disable_pbar=True)]


def inverted(model) -> Trajectory:
    sigmas, conds = levels(model), {"positive": POSITIVE}
    rising = sigmas.flip(0)
    run = lambda session: invert(session.guided, session.latent, rising)
    path = with_denoiser(model, conds, tiny_latent("sd1"), sigmas, run)
    return Trajectory(rising, path, "", 1.0, fingerprint(model), "eps", latent_format_name(model))


def bare(model):
    """The same network without any patch."""
    clone = model.clone()
    clone.model_options, clone.wrappers = {"transformer_options": {}}, {}
    return clone


def inversion(model):
    return [inverted(model).latents]


def null_text(mode):
    def run(model):
        trajectory = inverted(bare(model))
        recipe = NullTextRecipe(cfg=CFG, mode=mode, inner_steps=2, enough=1e-9)
        _, found = fit_null_text(model, trajectory, POSITIVE, NEGATIVE, recipe)
        return [found.latents, found.embeddings]

    return run


def fitted_lora(model):
    recipe = LoraRecipe(rank=2, steps=3, learning_rate=5e-3, check_every=3)
    # A model without a key is one whose fits are not remembered.
    with patch.object(lora_fit, "model_key", return_value=None):
        (fit,) = lora_fit.fit_loras(model, tiny_latent("sd1"), [POSITIVE], recipe)
    return [torch.tensor(fit.losses), *(fit.lora[name] for name in sorted(fit.lora))]


def map_of_edit(model):
    with patch.object(heat_map, "model_key", return_value=None):
        found = heat_map.compare(
            model, heat_map.Prompts(POSITIVE, NEGATIVE), tiny_latent("sd1"), heat_map.MapRecipe(noises=3), [0]
        )
    return [found.maps]


def word_maps(model):
    prompt, _ = read_prompt(tiny_clip(), TEXTS[0])
    return [maps_of_picture(model, prompt, POSITIVE, {"samples": tiny_latent("sd1")}, 3, 0)]


def best_seed(model):
    conds = {"positive": POSITIVE, "negative": NEGATIVE}
    predictor = tiny_predictor(model)
    network = require_predictor_of(model, predictor.spec, "Best Seed")
    score = sketch_score(model, network, predictor, Sketch(drawing()), POSITIVE, size=(8, 8), one_sided=0.5)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    return list(drafts(model, conds, latent, levels(model), [1, 2], cfg=CFG, steps=3, end=0.6, score=score))


def faithful_motion(model):
    return motion_run(model, FAITHFUL)


def motion_run(model, recipe):
    latent = tiny_latent("sd1")
    sampler = FlowGuidanceSampler(motion(), Tools(tiny_vae()), recipe)
    return sampled(model, sampler=sampler, latent=latent)


def as_it_is(model):
    return model


def sketch(model, finish=as_it_is):
    return sampled(finish(sketch_guided(model, tiny_predictor(model), Sketch(drawing()), SketchRecipe())))


def anchor(model, finish=as_it_is):
    """The left half is anchored."""
    mask = torch.ones(1, 8, 8)
    mask[..., :4] = 0
    return sampled(finish(anchored(model, Anchor(inverted(bare(model)), mask))))


def prompt_to_prompt(model, finish=as_it_is):
    clip = tiny_clip()
    prompts = [read_prompt(clip, text)[0] for text in TEXTS]
    positive = as_rows([encode_tokens(clip, read_prompt(clip, text)[1]) for text in TEXTS])
    return sampled(finish(with_prompt_to_prompt(model, plan_edits(prompts[0], prompts[1:]))), positive, rows=2)


def attention_blend(model, finish=as_it_is):
    alphas = schedule(3)
    return sampled(finish(blended(model, alphas)), morphed([POSITIVE, NEGATIVE], alphas), rows=3)


def lora_interpolator(model, finish=as_it_is):
    alphas = schedule(3)
    loras = [random_lora(model, seed) for seed in range(2)]
    return sampled(finish(interpolated(model, loras, alphas)), rows=3)


GRADIENTS = {
    "null text, fast": null_text("fast"), "null text, faithful": null_text("faithful"), "LoRA Fit": fitted_lora,
    "sketch guidance": sketch, "faithful motion": faithful_motion,
}  # fmt: skip
RUNS = {
    "inversion": inversion, "null text": null_text("fast"), "LoRA Fit": fitted_lora, "heat map": map_of_edit,
    "word maps": word_maps, "Best Seed": best_seed, "faithful motion": faithful_motion,
}  # fmt: skip
PATCHES = {
    "anchor": anchor, "Prompt-to-Prompt": prompt_to_prompt, "sketch guidance": sketch,
    "Attention Blend": attention_blend, "LoRA Interpolator": lora_interpolator,
}  # fmt: skip
