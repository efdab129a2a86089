"""Morphing by the model: a LoRA for each key picture, its mixture in each frame, and attention to the key pictures."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..host.morphing.attention_blend import blended
from ..host.morphing.lora_fit import fit_loras
from ..host.morphing.row_lora import interpolated
from ..host.notify import notify
from ..host.validation import require_latent
from ..morphing.attention_blend import BLENDS
from ..morphing.fit import LoraRecipe
from ..morphing.lora import MIXINGS
from ..morphing.schedule import as_alphas
from ._loss_plot import plot
from .morphing import ALPHAS_TIP, CATEGORY, in_order, several
from .sockets import Alphas as AlphasSocket, Trajectory as TrajectorySocket, advanced

LORA_MODEL = io.Custom("LORA_MODEL")
LOSS_MAP = io.Custom("LOSS_MAP")
PER_FRAME, FIXED = "each frame's own", "one for all frames"


def _advanced_inputs() -> list[io.Input]:
    """What is right as it is for most pictures."""
    return [
        advanced(io.Int, "patience", "A picture stops early when this many checks in a row (one every 20 steps, on "
                 "fixed noise) bring no gain of 1 %, and keeps its best. 0: never.", default=3, min=0, max=100),
        advanced(io.Int, "noises", "Noise levels of each picture learned from in one step. More cost as much more "
                 "and steady the learning, so that fewer steps do. Sane: 1 to 4.", default=1, min=1, max=32),
        advanced(io.Int, "pictures_at_once", "Fewer take less memory and more time, for the same LoRAs. 0: all, "
                 "fewer where memory runs out.", default=0, min=0, max=64),
        advanced(io.Boolean, "decay", "On: the learning rate falls evenly to nothing, which lets few steps take a "
                 "higher one. Off: it stays, as published.", default=False),
    ]  # fmt: skip


class LoRAFit(io.ComfyNode):
    """Learns each key picture by heart, in a small LoRA of its own; all pictures are fitted at once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestLoRAFit",
            display_name="LoRA Fit",
            category=CATEGORY,
            description=cls.__doc__,
            search_aliases=["train lora", "diffmorpher", "single image lora", "finetune"],
            inputs=[
                io.Model.Input("model", tooltip="The model to fit to; it is not changed."),
                io.Latent.Input("latent", tooltip="All key pictures in one batch, through VAE Encode."),
                several(
                    "prompts",
                    "prompt",
                    io.Conditioning,
                    "What a key picture shows, in a few words; one prompt alone serves for all.",
                ),
                io.Int.Input(
                    "steps",
                    default=200,
                    min=1,
                    max=5000,
                    tooltip="Training steps at most. More cling closer to the picture. Sane: 100 to 300.",
                ),
                io.Int.Input(
                    "rank",
                    default=16,
                    min=1,
                    max=256,
                    tooltip="Room of each LoRA. Higher learns finer detail and takes more memory. Sane: 4 to 32.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=2e-4,
                    min=1e-6,
                    max=1e-1,
                    step=1e-5,
                    round=False,
                    tooltip="Speed of learning. Too high tears the picture. Sane: 0.0001 to 0.001.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Of the start and the noise. The same seed gives the same LoRA.",
                ),
                *_advanced_inputs(),
            ],
            outputs=[
                LORA_MODEL.Output(
                    "loras",
                    is_output_list=True,
                    tooltip="One LoRA a picture, in order: for LoRA Interpolator, or the host's Load LoRA Model and "
                    "Save LoRA Weights.",
                ),
                io.Image.Output("loss_plot", tooltip="How the loss of each picture fell, on fixed noise."),
                LOSS_MAP.Output("loss", tooltip="The mean loss at each step, for the host's Plot Loss Graph."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        latent,
        prompts,
        steps=200,
        rank=16,
        learning_rate=2e-4,
        seed=0,
        patience=3,
        noises=1,
        pictures_at_once=0,
        decay=False,
    ) -> io.NodeOutput:
        samples = require_latent(latent, "The latent of the key pictures", model)
        recipe = LoraRecipe(
            rank=rank,
            steps=steps,
            learning_rate=learning_rate,
            patience=patience,
            samples=noises,
            seed=seed,
            decay=decay,
        )
        fits = fit_loras(model, samples, in_order(prompts), recipe, pictures_at_once=pictures_at_once)
        reused = sum(one.reused for one in fits)
        if reused:
            notify(f"{reused} of {len(fits)} pictures had been fitted before, with the same settings; they are reused.")
        title = "picture {}: loss on fixed noise, at each check"
        curves = [(title.format(place), list(one.checks.values())) for place, one in enumerate(fits)]
        length = min(len(one.losses) for one in fits)
        mean = torch.tensor([one.losses[:length] for one in fits]).mean(0).tolist()
        return io.NodeOutput([one.lora for one in fits], plot(curves), {"loss": mean})


class LoRAInterpolator(io.ComfyNode):
    """Gives each frame of a morph its own mixture of the key pictures' LoRAs, in one batch of any stock sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestLoRAInterpolator",
            display_name="LoRA Interpolator",
            category=CATEGORY,
            description=cls.__doc__,
            search_aliases=["lora mix", "lora blend", "diffmorpher", "per frame lora"],
            # LoRA Fit hands out a list, which is one input here and not one run a LoRA.
            is_input_list=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that samples the frames; it is not changed."),
                several(
                    "loras",
                    "lora",
                    LORA_MODEL,
                    "The LoRA of a key picture, from LoRA Fit (all of them at once) or the host's Train LoRA; in the "
                    "order of the key pictures.",
                ),
                AlphasSocket.Input("alphas", tooltip=ALPHAS_TIP),
                io.Combo.Input(
                    "mixing",
                    options=list(MIXINGS),
                    default=MIXINGS[0],
                    tooltip="product: the sum of what each LoRA does, right for any LoRAs. factor: as the official "
                    "DiffMorpher mixes, only for LoRAs that LoRA Fit made together.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    tooltip="How much the LoRAs count: 0 is the plain model, 1 as they were fitted.",
                ),
                io.Combo.Input(
                    "mixture",
                    options=[PER_FRAME, FIXED],
                    default=PER_FRAME,
                    optional=True,
                    advanced=True,
                    tooltip="each frame's own: it morphs with the frames. one for all frames: the style stays as "
                    "`fixed_alpha` says while the rest moves.",
                ),
                io.Float.Input(
                    "fixed_alpha",
                    default=0.5,
                    min=0.0,
                    max=32.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="The one mixture: 0 is the first LoRA, 1 the second, 0.5 half of each.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with the LoRAs beside it; for any stock sampler.")],
        )

    @classmethod
    def execute(cls, model, loras, alphas, mixing, strength, mixture=(PER_FRAME,), fixed_alpha=(0.5,)) -> io.NodeOutput:
        flat = [lora for given in in_order(loras) for lora in (given if isinstance(given, list) else [given])]
        fixed = fixed_alpha[0] if mixture[0] == FIXED else None
        options = {"mixing": mixing[0], "strength": strength[0], "fixed": fixed}
        return io.NodeOutput(interpolated(model[0], flat, as_alphas(alphas[0]), **options))


class AttentionBlend(io.ComfyNode):
    """Lets each frame of a morph attend to its key pictures while it is painted, so that shapes hold together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestAttentionBlend",
            display_name="Attention Blend",
            category=CATEGORY,
            description=cls.__doc__,
            search_aliases=[
                "style",
                "style transfer",
                "self attention",
                "attention interpolation",
                "diffmorpher",
                "aid",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model that samples the frames; it is not changed."),
                AlphasSocket.Input("alphas", tooltip=ALPHAS_TIP),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of a frame's self-attention is the key pictures': 0 none, 1 all.",
                ),
                io.Float.Input(
                    "until",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="For which fraction of the steps, from the first (the paper's lambda). More is smoother "
                    "and blurrier. Sane: 0.4 to 0.6.",
                ),
                io.Combo.Input(
                    "blend",
                    options=list(BLENDS),
                    default=BLENDS[0],
                    optional=True,
                    advanced=True,
                    tooltip="What is mixed: input (what attention sees; the official code), values (keys and values; "
                    "the paper), output (what comes out; later work, sharper where pictures differ).",
                ),
                TrajectorySocket.Input(
                    "keys",
                    optional=True,
                    tooltip="The inverted key pictures, from Morph Latents. Needed only where a key picture is no "
                    "frame itself: a part of a morph, or a free reschedule.",
                ),
                io.Int.Input(
                    "frames_at_once",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    advanced=True,
                    tooltip="Frames in one call of the model, not counting the key pictures they attend to. 0: as many "
                    "as fit into memory. The result is the same.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, for any stock sampler, with as many pictures as frames.")],
        )

    @classmethod
    def execute(
        cls, model, alphas, strength=1.0, until=0.6, blend=BLENDS[0], keys=None, frames_at_once=0
    ) -> io.NodeOutput:
        options = {"strength": strength, "until": until, "blend": blend, "rows_at_once": frames_at_once}
        return io.NodeOutput(blended(model, as_alphas(alphas), keys=keys, **options))


NODES = (LoRAFit, LoRAInterpolator, AttentionBlend)
