"""The names of weights: diffusers' and transformers' modules against Stable Diffusion 1's single file.

Only prefixes differ, so a table of prefixes in both directions is all there is. The autoencoder's table is TAESD's.
"""

from .configs import UNET, UNetConfig

UNET_PREFIX = "model.diffusion_model."
TEXT_PREFIX = "cond_stage_model.papercut.transformer.text_model."
VAE_PREFIX = "first_stage_model."

_ENDS = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
_RESIDUAL = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}


def unet_prefixes(config: UNetConfig = UNET) -> dict[str, str]:
    """diffusers' module prefix -> the single file's, for every module of the UNet; each ends in a dot."""
    table = dict(_ENDS)

    def residual(theirs: str, ours: str) -> None:
        table.update({theirs + a: ours + b for a, b in _RESIDUAL.items()})

    levels, blocks = len(config.channels), config.blocks_per_level
    number = 1
    for level in range(levels):
        for i in range(blocks):
            residual(f"down_blocks.{level}.resnets.{i}.", f"input_blocks.{number}.0.")
            table[f"down_blocks.{level}.attentions.{i}."] = f"input_blocks.{number}.1."
            number += 1
        table[f"down_blocks.{level}.downsamplers.0.conv."] = f"input_blocks.{number}.0.op."
        number += 1
    residual("mid_block.resnets.0.", "middle_block.0.")
    table["mid_block.attentions.0."] = "middle_block.1."
    residual("mid_block.resnets.1.", "middle_block.2.")
    number = 0
    for level in range(levels):
        attention = config.attention[levels - 1 - level]
        for i in range(blocks + 1):
            residual(f"up_blocks.{level}.resnets.{i}.", f"output_blocks.{number}.0.")
            table[f"up_blocks.{level}.attentions.{i}."] = f"output_blocks.{number}.1."
            number += 1
        # The enlargement comes last in its block, after the attention where there is one.
        table[f"up_blocks.{level}.upsamplers.0.conv."] = f"output_blocks.{number - 1}.{2 if attention else 1}.conv."
    return table


def vae_prefixes(layers: int = 32) -> dict[str, str]:
    """diffusers' `AutoencoderTiny` prefix -> TAESD's; the decoder's numbers shift by one: TAESD counts its clamp."""
    encoder = {f"encoder.layers.{i}.": f"taesd_encoder.{i}." for i in range(layers)}
    return encoder | {f"decoder.layers.{i}.": f"taesd_decoder.{i + 1}." for i in range(layers)}


def rename(state: dict, table: dict[str, str]) -> dict:
    """`state` with the prefix of each key replaced by the table's; a key that no prefix fits is an error."""
    out = {}
    for key, value in state.items():
        # The longest prefix wins, as `output_blocks.2.1.conv.` lies within `output_blocks.2.1.`.
        prefix = max((p for p in table if key.startswith(p)), key=len, default=None)
        if prefix is None:
            raise ValueError(f"No place is known for the weight '{key}'; the network is not laid out as Papercut's.")
        out[table[prefix] + key[len(prefix) :]] = value
    return out


def inverse(table: dict[str, str]) -> dict[str, str]:
    """The table in the other direction."""
    return {ours: theirs for theirs, ours in table.items()}
