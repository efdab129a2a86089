"""Where a prompt's words stand in what the model itself makes of its conditioning."""

from types import SimpleNamespace

import comfy.model_base
import comfy.ops
import comfy.supported_models
import pytest
import torch
from comfy.ldm.anima.model import Anima
from comfy.ldm.lumina.model import NextDiT
from palimpsest.host.prompt_to_prompt.text_encoders import in_context
from palimpsest.host.prompt_to_prompt.tokens import encode_tokens, read_prompt

from ..tiny_models import fill
from .tiny_text_encoders import WIDTH, text_encoder

TEXT = "a red heart, on grey"
FLUX2 = dict(
    image_model="flux2", in_channels=128, out_channels=128, mlp_ratio=3.0, axes_dim=[32, 32, 32, 32], patch_size=1,
    qkv_bias=False, guidance_embed=True, txt_ids_dims=[3], global_modulation=True, mlp_silu_act=True, ops_bias=False,
    hidden_size=128, num_heads=1, depth=1, depth_single_blocks=1, theta=10000, vec_in_dim=None,
    context_in_dim=3 * WIDTH,
)  # fmt: skip


def model_of(base) -> SimpleNamespace:
    return SimpleNamespace(model=base)


def read(clip, text: str, **options):
    prompt, tokens = read_prompt(clip, text, **options)
    return prompt, encode_tokens(clip, tokens)


@pytest.mark.parametrize("family", ["flux2", "klein"])
@torch.inference_mode()
def test_flux2_puts_zeros_before_a_short_text(family):
    base = comfy.supported_models.Flux2(FLUX2).get_model({}, "", device=torch.device("cpu"))
    for text in (TEXT, "a heart and " * 300):
        prompt, conditioning = read(text_encoder(family), text)
        embedding = conditioning[0][0]
        noise = torch.zeros(1, 128, 4, 4)
        context = base.extra_conds(cross_attn=embedding, noise=noise, device=torch.device("cpu"))["c_crossattn"].cond
        moved = in_context(prompt, conditioning, model_of(base))
        assert len(moved) == context.shape[1]
        assert len(moved.words) == len(prompt.words)
        for old, new in zip(prompt.words, moved.words):
            assert torch.equal(context[:, list(new.columns)], embedding[:, list(old.columns)])


@torch.inference_mode()
def test_z_image_fills_texts_up_to_a_multiple_of_32():
    network = NextDiT(
        patch_size=2, in_channels=16, dim=24, n_layers=1, n_refiner_layers=1, n_heads=2, qk_norm=True,
        cap_feat_dim=WIDTH, axes_dims=[4, 4, 4], axes_lens=[64, 64, 64], pad_tokens_multiple=32,
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    fill(network, 3)
    base = SimpleNamespace(diffusion_model=network)
    for text in (TEXT, " and ".join([TEXT] * 9)):
        prompt, conditioning = read(text_encoder("z_image"), text)
        (tokens,), *_ = network.embed_cap(conditioning[0][0])
        moved = in_context(prompt, conditioning, model_of(base))
        assert len(moved) == tokens.shape[1] and moved.words == prompt.words
        assert all(token.kind == "pad" for token in moved.tokens[len(prompt) :])


@torch.inference_mode()
def test_animas_columns_are_t5s_whose_weights_multiply_them():
    prompt, conditioning = read(text_encoder("anima"), "a (red:1.5) heart")
    ((embedding, options),) = conditioning
    adapter = SimpleNamespace(llm_adapter=lambda text, numbers: torch.ones(1, numbers.shape[1], WIDTH))
    weights = options["t5xxl_weights"][None, :, None]
    context = Anima.preprocess_text_embeds(adapter, embedding, options["t5xxl_ids"][None], weights)
    base = comfy.model_base.Anima.__new__(comfy.model_base.Anima)
    moved = in_context(prompt, conditioning, model_of(base))
    assert len(moved) == context.shape[1] == 512
    assert context[0, list(moved.words[1].columns)].unique().tolist() == [1.5]
    assert context[0, list(moved.words[2].columns)].unique().tolist() == [1.0]


@torch.inference_mode()
def test_pictures_before_the_text_move_its_words():
    """A picture is one token for the tokenizer and many columns for the model (Qwen-Image-Edit)."""
    clip, picture = text_encoder("qwen_image"), torch.rand(1, 56, 112, 3, generator=torch.Generator().manual_seed(1))
    moved, contexts = [], []
    for text in (TEXT, TEXT.replace("heart", "leaf")):
        prompt, conditioning = read(clip, text, images=[picture])
        assert [word.text for word in prompt.words] == ["a", "red", text.split()[2][:-1], ",", "on", "grey"]
        moved.append(in_context(prompt, conditioning, model_of(SimpleNamespace(diffusion_model=None))))
        contexts.append(conditioning[0][0][0])
        assert len(moved[-1]) == len(contexts[-1]) > len(prompt)
    # A language model's vector depends on what stands before it alone.
    place = moved[0].words[2].columns[0]
    same = (contexts[0][: place + 1] == contexts[1][: place + 1]).all(-1)
    assert same[:place].all() and not same[place]


@torch.inference_mode()
def test_a_text_that_the_host_cuts_in_two_is_a_sentence():
    """Krea 2 has no conditioning with pictures: the host counts a picture as one column where it cuts the template."""
    prompt, conditioning = read(text_encoder("krea2"), TEXT, images=[torch.rand(1, 64, 64, 3)])
    with pytest.raises(ValueError, match="cannot be found in its conditioning"):
        in_context(prompt, conditioning, model_of(SimpleNamespace(diffusion_model=None)))


@torch.inference_mode()
def test_a_conditioning_of_another_text_is_a_sentence():
    prompt, _ = read(text_encoder("qwen_image"), TEXT)
    _, other = read(text_encoder("qwen_image"), TEXT + " and more")
    with pytest.raises(ValueError, match="cannot be found in its conditioning, which has"):
        in_context(prompt, other, model_of(SimpleNamespace(diffusion_model=None)))
