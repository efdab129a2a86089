"""The nodes of editing by words on transformers with the text encoders and tokenizers that belong to them."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from palimpsest.nodes.prompt_to_prompt import PromptToPrompt
from palimpsest.nodes.prompt_to_prompt_results import WordAttentionMask

from ..tiny_transformers import noise_of, tiny_transformer
from .tiny_text_encoders import text_encoder

# Model -> text encoder: filled up, with a template, as long as it is, filled up by the model, in layers of its own.
PAIRS = {"flux": "flux", "qwen-image": "qwen_image", "lumina 2": "lumina2", "z-image": "z_image", "wan": "wan"}
SOURCE, EDITS = "a red heart on grey paper", ("a blue heart on grey paper", "a big red (heart:2) on grey paper")


@pytest.fixture(scope="module", params=list(PAIRS))
def parts(request):
    """(family, model, clip), as loader nodes make them."""
    with torch.inference_mode():
        return request.param, tiny_transformer(request.param), text_encoder(PAIRS[request.param])


def edited(parts, **options):
    _, model, clip = parts
    with torch.inference_mode():
        return PromptToPrompt.execute(model, clip, SOURCE, "\n".join(EDITS), **options).args


def sampled(model, family, positive, batch):
    noise = noise_of(family, batch)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 2)
    sampler = comfy.samplers.sampler_object("euler")
    with torch.inference_mode():
        return comfy.sample.sample_custom(
            model, noise, 1.0, sampler, sigmas, positive, positive, torch.zeros_like(noise), disable_pbar=True, seed=1
        )


def test_rows_are_what_each_text_is_alone_and_edits_are_changed(parts):
    family, model, clip = parts
    off, positive, report, _, rows = edited(parts, cross_steps=0.0, self_steps=0.0)
    assert rows == 3 and "'red' becomes 'blue'" in report and "'heart' counts 2 times" in report
    together = sampled(off, family, positive, 3)
    plain = (SOURCE, EDITS[0], "a big red heart on grey paper")
    for row, text in enumerate(plain):
        with torch.inference_mode():
            alone = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        assert torch.allclose(together[row], sampled(model, family, alone, 1)[0], atol=1e-3)
    patched, positive, *_ = edited(parts, cross_steps=1.0, self_steps=1.0)
    changed = sampled(patched, family, positive, 3)
    assert torch.allclose(changed[0], together[0], atol=1e-3)
    assert all(not torch.allclose(changed[row], together[row], atol=1e-5) for row in (1, 2))


def test_masks_of_a_run_and_of_its_samples(parts):
    family, model, clip = parts
    patched, positive, *_ = edited(
        parts, blend_words="heart", blend_threshold=0.5, self_layers="first third of the blocks"
    )
    samples = {"samples": sampled(patched, family, positive, 3)}
    with torch.inference_mode():
        mask, heat = WordAttentionMask.execute(patched, clip, "", "heart", samples=samples).args
        blend, _ = WordAttentionMask.execute(patched, clip, "", "", samples=samples).args
        read, _ = WordAttentionMask.execute(model, clip, SOURCE, "heart", samples=samples, levels=1).args
    scale = model.model.latent_format.spacial_downscale_ratio
    assert mask.shape == blend.shape == read.shape == (3, 8 * scale, 6 * scale) and heat.shape == (*mask.shape, 3)
    assert bool(mask.flatten(1).any(1).all()) and bool(read.flatten(1).any(1).all())
