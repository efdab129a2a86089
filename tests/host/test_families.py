"""Which technique serves which family of models: each is tried on small random ones, and the README's table is what
came of it. `make families` writes the table.
"""

import os
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import comfy.samplers
import pytest
import torch
from palimpsest.guidance.anchor import Anchor
from palimpsest.host.inversion.anchor import anchored
from palimpsest.host.morphing.attention_blend import blended
from palimpsest.host.morphing.conditioning import morphed
from palimpsest.host.morphing.lora_fit import fit_loras
from palimpsest.host.morphing.row_lora import interpolated
from palimpsest.host.motion.networks import Tools
from palimpsest.host.motion.sampler import FlowGuidanceSampler
from palimpsest.host.prompt_to_prompt.patch import with_prompt_to_prompt
from palimpsest.host.prompt_to_prompt.word_maps import maps_of_picture
from palimpsest.morphing.fit import LoraRecipe
from palimpsest.morphing.schedule import schedule
from palimpsest.nodes.diffedit import DiffEditMask
from palimpsest.nodes.diffedit_head_start import DiffEditHeadStart
from palimpsest.nodes.inversion import DDIMInvert
from palimpsest.nodes.inversion_free import InversionFreeEdit
from palimpsest.nodes.inversion_null_text import NullTextOptimize, ProximalGuidance
from palimpsest.nodes.prompt_to_prompt import PromptToPrompt
from palimpsest.nodes.prompt_to_prompt_results import WordAttentionMask
from palimpsest.nodes.sketch import EdgePredictorGuidance
from palimpsest.nodes.sketch_train import EdgePredictorTrain
from palimpsest.nodes.source_guidance import SourceGuidanceNode
from palimpsest.tools.readme import README, replaced

from ..motion.test_motion_host import FAST, motion
from ..prompt_to_prompt.test_transformers import plan_of, run
from ..prompt_to_prompt.tiny_clip import PARTS, tiny_clip
from ..tiny_models import CHANNELS, FAMILIES, tiny_cond, tiny_latent, tiny_model, tiny_vae
from ..tiny_transformers import conditioning_of, noise_of, prompt_of, tiny_transformer

TITLES = {"sd1": "SD 1", "sd2": "SD 2", "sdxl": "SDXL", "sd3": "SD 3", "flux": "Flux"}
STEPS, CFG, SIDE = 4, 3.0, 64
SOURCE, EDIT = "a red heart on grey", "a blue heart on grey"


class Family:
    """A small model of one family with all that goes with it."""

    def __init__(self, name: str):
        self.name, self.model, self.vae = name, tiny_model(name), tiny_vae(CHANNELS[name])
        self.positive, self.negative = tiny_cond(name), tiny_cond(name, seed=1)
        self.latent = tiny_latent(name)

    @property
    def sigmas(self) -> torch.Tensor:
        return comfy.samplers.calculate_sigmas(self.model.get_model_object("model_sampling"), "normal", STEPS).cpu()

    @cached_property
    def trajectory(self):
        return DDIMInvert.execute(self.model, {"samples": self.latent}, self.sigmas, positive=self.positive).args[0]

    def sampled(self, model=None, *, rows=1, positive=None, sampler=None, latent=None, guider=None) -> torch.Tensor:
        if guider is None:
            guider = comfy.samplers.CFGGuider(model or self.model)
            guider.set_conds(positive or self.positive, self.negative)
            guider.set_cfg(CFG)
        noise = torch.randn(rows, *self.latent.shape[1:], generator=torch.Generator().manual_seed(3))
        latent = torch.zeros_like(noise) if latent is None else latent
        sampler = sampler or comfy.samplers.sampler_object("euler")
        return guider.sample(noise, latent, sampler, self.sigmas, seed=1, disable_pbar=True)


def with_defaults(node, **given):
    """What a node makes of its own defaults and what is given."""
    named = {one.id: one.default for one in node.define_schema().inputs if getattr(one, "default", None) is not None}
    return node.execute(**{**named, **given}).args


def inversion(f: Family):
    """Masked, so that the half that may change differs from plain sampling."""
    mask = torch.ones(1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 0
    return f.sampled(anchored(f.model, Anchor(f.trajectory, mask)))


def null_text(f: Family):
    return NullTextOptimize.execute(f.model, f.trajectory, f.positive, cfg=CFG, inner_steps=1).args[0][0][0]


def proximal(f: Family):
    return f.sampled(ProximalGuidance.execute(f.model).args[0])


def mask_and_head_start(f: Family):
    asked = {"model": f.model, "reference": f.positive, "query": f.negative, "latent": {"samples": f.latent}}
    mask, *_, change = with_defaults(DiffEditMask, **asked, noises=2)
    assert bool(torch.isfinite(mask).all())
    return f.sampled(DiffEditHeadStart.execute(f.model, change, 0.5).args[0], latent=f.latent)


def source_guidance(f: Family):
    return f.sampled(guider=SourceGuidanceNode.execute(f.model, f.positive, f.negative).args[0], latent=f.latent)


def inversion_free(f: Family):
    return f.sampled(sampler=InversionFreeEdit.execute().args[0], latent=f.latent)


def moved(f: Family):
    return f.sampled(sampler=FlowGuidanceSampler(motion(), Tools(f.vae), FAST), latent=f.latent)


def word_edit(f: Family):
    """On a transformer with prompts of which it is known where its attention reads them."""
    if f.name in PARTS:
        model, positive = PromptToPrompt.execute(f.model, tiny_clip(f.name), SOURCE, EDIT).args[:2]
        return f.sampled(model, rows=2, positive=positive)
    model = tiny_transformer(f.name)
    made = run(with_prompt_to_prompt(model, plan_of(f.name, cross_steps=1.0)), f.name)
    assert not torch.equal(made, run(model, f.name))
    return made


def word_map(f: Family):
    if f.name in PARTS:
        asked = {"text": SOURCE, "words": "heart", "samples": {"samples": f.latent}, "levels": 2}
        return with_defaults(WordAttentionMask, model=f.model, clip=tiny_clip(f.name), **asked)[1]
    prompt, positive = prompt_of(f.name, SOURCE), conditioning_of(f.name, SOURCE)
    return maps_of_picture(tiny_transformer(f.name), prompt, positive, {"samples": noise_of(f.name, 1)}, 2, 0)


def sketch(f: Family):
    picture = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
    drawn = (torch.arange(SIDE) == SIDE // 3).float()[None, :, None, None].expand(1, SIDE, SIDE, 3)
    lists = {"model": [f.model], "vae": [f.vae], "images": [picture], "edges": [drawn], "conditioning": [f.positive]}
    trained = EdgePredictorTrain.execute(**lists, steps=[2], batch_size=[1], held_out=[0.0], width=[64]).args[0]
    return f.sampled(EdgePredictorGuidance.execute(f.model, trained, drawn).args[0])


def morph(f: Family):
    alphas, recipe = schedule(3), LoraRecipe(rank=2, steps=2)
    fits = fit_loras(f.model, torch.cat([f.latent, -f.latent]), [f.positive, f.negative], recipe)
    model = interpolated(f.model, [one.lora for one in fits], alphas)
    return f.sampled(model, rows=3, positive=morphed([f.positive, f.negative], alphas))


def blend(f: Family):
    alphas = schedule(3)
    return f.sampled(blended(f.model, alphas), rows=3, positive=morphed([f.positive, f.negative], alphas))


class Technique(NamedTuple):
    """limits: what the table says beside the families; what refuses a family does so with a sentence."""

    run: Callable[[Family], torch.Tensor]
    limits: str


TECHNIQUES = {
    "DDIM Invert, Trajectory Anchor": Technique(
        inversion, "any model of pictures that predicts noise, v or a flow; not video"
    ),
    "NullText Optimize": Technique(null_text, "not where guidance is distilled into the model (Flux)"),
    "Negative-Prompt Inversion with Proximal Guidance": Technique(proximal, "the same"),
    "DiffEdit Mask, Head Start": Technique(mask_and_head_start, "latents of pictures; not video, not Qwen-Image"),
    "Source Guidance": Technique(source_guidance, "any model that predicts noise, v or a flow"),
    "Inversion-Free Edit": Technique(inversion_free, "the same"),
    "Flow Guidance Sampler": Technique(moved, "pictures; each side a multiple of 8"),
    "Prompt-to-Prompt": Technique(
        word_edit, "also Flux 2, Chroma, Qwen-Image, Krea 2, Lumina 2, Z-Image, Wan, Cosmos-Predict 2, HiDream"
    ),
    "Word Attention Mask": Technique(word_map, "the same"),
    "Edge Predictor Train, Guidance": Technique(sketch, "features of a UNet; a predictor serves its own family"),
    "LoRA Fit, LoRA Interpolator": Technique(morph, "key pictures of one size"),
    "Attention Blend": Technique(blend, "as Prompt-to-Prompt"),
}


def served(technique: Technique, family: Family) -> bool:
    """Whether it does something; a model that it cannot serve it has to refuse with a sentence."""
    try:
        made = technique.run(family)
    except ValueError as refusal:
        assert len(str(refusal).split()) > 5, refusal
        return False
    assert bool(torch.isfinite(made).all())
    plain = family.sampled(rows=len(made)) if made.shape[1:] == family.latent.shape[1:] else None
    assert plain is None or not torch.equal(made, plain)
    return True


@pytest.fixture(scope="module")
def families():
    with torch.inference_mode():
        return [Family(name) for name in FAMILIES]


def table(families: list[Family]) -> str:
    lines = [f"| technique | {' | '.join(TITLES[one.name] for one in families)} | limits |"]
    lines.append("|---" * (len(families) + 2) + "|")
    for name, technique in TECHNIQUES.items():
        cells = ["yes" if served(technique, one) else "no" for one in families]
        lines.append(f"| {name} | {' | '.join(cells)} | {technique.limits} |")
    return "\n".join(lines)


def test_the_readme_says_which_family_each_technique_serves(families):
    with torch.inference_mode():
        found = table(families)
    text = README.read_text(encoding="utf-8")
    fresh = replaced(text, "families", found)
    if os.environ.get("FAMILIES") == "write":
        README.write_text(fresh, encoding="utf-8")
    else:
        assert fresh == text, f"run 'make families':\n{found}"
