"""The narrow Stable Diffusion 1 of Papercut, as one more supported model of the host.

The host's own SD15 class fits only the full width: it asks for 320 channels and builds the full CLIP-L. Detection
reads the sizes of the UNet from the file; what it cannot read (number of heads, text encoder, vocabulary) stands here.
"""

import importlib.util
import json
from pathlib import Path

import comfy.clip_model
import comfy.latent_formats
import comfy.model_base
import comfy.supported_models
import comfy.supported_models_base
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer

NAME = "papercut"
# The real place of this file: ComfyUI sees the folder through a link, and a link has no neighbours.
HOME = Path(__file__).resolve().parent.parent
VOCABULARY = HOME / "tokenizer"
START, END = "<|startoftext|>", "<|endoftext|>"


def _sizes():
    """`papercut/configs.py`, loaded by its place, as the package round it is not importable from `custom_nodes`."""
    spec = importlib.util.spec_from_file_location(f"{__name__}_sizes", HOME / "configs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SIZES = _sizes()


class PapercutTokenizer(SDTokenizer):
    """The host's CLIP tokenizer with the Papercut vocabulary."""

    def __init__(self, embedding_directory=None, tokenizer_data={}):
        super().__init__(
            tokenizer_path=str(VOCABULARY),
            embedding_directory=embedding_directory,
            embedding_size=SIZES.TEXT.width,
            embedding_key=NAME,
            tokenizer_data=tokenizer_data,
        )


class PapercutTokenizers(SD1Tokenizer):
    """What the host's CLIP object holds: its tokenizers by name."""

    def __init__(self, embedding_directory=None, tokenizer_data={}):
        super().__init__(embedding_directory, tokenizer_data, name=NAME, tokenizer=PapercutTokenizer)


class PapercutTransformer(comfy.clip_model.CLIPTextModel):
    """The host's CLIP text model has a fixed vocabulary of 49408; this one has its own."""

    def __init__(self, config_dict, dtype, device, operations):
        super().__init__(config_dict, dtype, device, operations)
        size, width = config_dict["vocab_size"], config_dict["hidden_size"]
        self.set_input_embeddings(operations.Embedding(size, width, dtype=dtype, device=device))


class PapercutTextEncoder(SDClipModel):
    """One text encoder, its last hidden layer after the final norm; the pooled output is not projected, as in SD 1."""

    positions = SIZES.TEXT.positions

    def __init__(self, device="cpu", dtype=None, model_options={}):
        ids = _special_ids()
        text = SIZES.TEXT
        config = {
            "num_hidden_layers": text.layers,
            "hidden_size": text.width,
            "num_attention_heads": text.heads,
            "intermediate_size": text.intermediate,
            "hidden_act": text.activation,
            "max_position_embeddings": self.positions,
            "vocab_size": ids["size"],
            "eos_token_id": ids["end"],
        }
        super().__init__(
            device=device,
            dtype=dtype,
            max_length=self.positions,
            textmodel_json_config=config,
            special_tokens={"start": ids["start"], "end": ids["end"], "pad": ids["end"]},
            model_class=PapercutTransformer,
            return_projected_pooled=False,
            model_options=model_options,
        )


class PapercutTextEncoders(SD1ClipModel):
    """What the host's CLIP object holds: its text encoders by name."""

    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(device, dtype, model_options, name=NAME, clip_model=PapercutTextEncoder)


class Papercut(comfy.supported_models_base.BASE):
    """Stable Diffusion 1 in Papercut's sizes: epsilon prediction, scaled-linear betas, 4-channel latents at 1/8."""

    unet_config = {
        "context_dim": SIZES.UNET.context,
        "model_channels": SIZES.UNET.channels[0],
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
    }
    unet_extra_config = {"num_heads": SIZES.UNET.heads, "num_head_channels": -1}
    # The host's name "linear" means linear in the square root of beta, as in Stable Diffusion 1.
    sampling_settings = {
        "beta_schedule": "linear",
        "linear_start": SIZES.SCHEDULE.beta_start,
        "linear_end": SIZES.SCHEDULE.beta_end,
        "timesteps": SIZES.SCHEDULE.steps,
    }
    latent_format = comfy.latent_formats.SD15
    memory_usage_factor = 1.0

    def get_model(self, state_dict, prefix="", device=None):
        # The host's colours for previews belong to Stable Diffusion's own autoencoder; the file brings this one's.
        colours = state_dict.get(SIZES.PREVIEW_COLOURS)
        if colours is not None:
            *factors, bias = colours.tolist()
            self.latent_format.latent_rgb_factors, self.latent_format.latent_rgb_factors_bias = factors, bias
        return super().get_model(state_dict, prefix, device)

    def clip_target(self, state_dict={}):
        return comfy.supported_models_base.ClipTarget(PapercutTokenizers, PapercutTextEncoders)


class ShortTokenizer(PapercutTokenizer):
    """As many tokens as the flow transformer reads; what is longer goes on in a second piece of the same length."""

    def __init__(self, embedding_directory=None, tokenizer_data={}):
        super().__init__(embedding_directory, tokenizer_data)
        self.max_length = SIZES.TRANSFORMER.text_tokens


class ShortTokenizers(SD1Tokenizer):
    """What the host's CLIP object holds: its tokenizers by name."""

    def __init__(self, embedding_directory=None, tokenizer_data={}):
        super().__init__(embedding_directory, tokenizer_data, name=NAME, tokenizer=ShortTokenizer)


class ShortTextEncoder(PapercutTextEncoder):
    """The same for as many tokens as the flow transformer reads; the file has no more positions."""

    positions = SIZES.TRANSFORMER.text_tokens


class ShortTextEncoders(SD1ClipModel):
    """What the host's CLIP object holds: its text encoders by name."""

    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(device, dtype, model_options, name=NAME, clip_model=ShortTextEncoder)


class PapercutTransformerModel(comfy.supported_models_base.BASE):
    """Papercut-DiT: Flux's transformer in Papercut's sizes, no distilled guidance, 16-channel latents at 1/8."""

    unet_config = {
        "image_model": "flux",
        "context_in_dim": SIZES.TRANSFORMER.context,
        "vec_in_dim": SIZES.TRANSFORMER.context,
        "hidden_size": SIZES.TRANSFORMER.width,
        "guidance_embed": False,
    }
    unet_extra_config = {
        "num_heads": SIZES.TRANSFORMER.heads,
        "axes_dim": list(SIZES.TRANSFORMER.axes),
        "theta": SIZES.TRANSFORMER.theta,
    }
    sampling_settings = {"multiplier": 1.0, "shift": SIZES.TRANSFORMER.shift}
    latent_format = comfy.latent_formats.Flux
    memory_usage_factor = 1.0

    def get_model(self, state_dict, prefix="", device=None):
        return comfy.model_base.Flux(self, model_type=comfy.model_base.ModelType.FLOW, device=device)

    def process_unet_state_dict(self, state_dict):
        return comfy.supported_models.Flux.process_unet_state_dict(self, state_dict)

    def clip_target(self, state_dict={}):
        return comfy.supported_models_base.ClipTarget(ShortTokenizers, ShortTextEncoders)


def register() -> None:
    """Make the host know the models; doing so again changes nothing."""
    models = comfy.supported_models.models
    known = {model.__name__ for model in models}
    if Papercut.__name__ not in known:
        models.append(Papercut)
    if PapercutTransformerModel.__name__ not in known:
        # Before the host's own Flux, which would take the file too and ask for heads of 128.
        models.insert(0, PapercutTransformerModel)


def _special_ids() -> dict[str, int]:
    """The vocabulary's size and the ids of its two special tokens."""
    ids = json.loads((VOCABULARY / "vocab.json").read_text(encoding="utf-8"))
    return {"size": len(ids), "start": ids[START], "end": ids[END]}
