"""The sizes of the Papercut networks, in one place: training, export and the companion of the host read them here.

This file imports nothing but the standard library, because the host's companion reads it too.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class TextConfig:
    """CLIP text encoder (arXiv 2103.00020): a causal transformer of `layers` blocks, `width` channels."""

    width: int = 192
    layers: int = 4
    heads: int = 4
    intermediate: int = 768
    activation: str = "quick_gelu"
    positions: int = 77


@dataclass(frozen=True)
class UNetConfig:
    """Stable Diffusion 1's UNet (arXiv 2112.10752), narrow; the costly first level has no attention."""

    channels: tuple[int, ...] = (64, 128, 192)
    attention: tuple[bool, ...] = (False, True, True)
    # One block a level, not Stable Diffusion's two: two make 16 M weights, past what all networks together may weigh.
    blocks_per_level: int = 1
    heads: int = 4
    context: int = 192
    norm_groups: int = 32
    latent_channels: int = 4
    sample_size: int = 32

    @property
    def channel_mult(self) -> tuple[int, ...]:
        """The widths as multiples of the first level's."""
        return tuple(c // self.channels[0] for c in self.channels)

    @property
    def transformer_depth(self) -> list[int]:
        """Transformer blocks after each residual block on the way down, in the host's order."""
        return [int(a) for a in self.attention for _ in range(self.blocks_per_level)]

    @property
    def transformer_depth_output(self) -> list[int]:
        """The same on the way up, listed from the widest picture to the narrowest as the host does."""
        return [int(a) for a in self.attention for _ in range(self.blocks_per_level + 1)]

    def diffusers(self) -> dict:
        """Arguments of diffusers' `UNet2DConditionModel`, whose `attention_head_dim` is here the number of heads."""
        down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in self.attention]
        up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(self.attention)]
        return {
            "sample_size": self.sample_size,
            "in_channels": self.latent_channels,
            "out_channels": self.latent_channels,
            "down_block_types": tuple(down),
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "up_block_types": tuple(up),
            "block_out_channels": self.channels,
            "layers_per_block": self.blocks_per_level,
            "norm_num_groups": self.norm_groups,
            "cross_attention_dim": self.context,
            "attention_head_dim": self.heads,
            "transformer_layers_per_block": 1,
            "use_linear_projection": False,
        }

    def host(self) -> dict:
        """The part of the host's UNet configuration that its key map needs (`comfy.utils.unet_to_diffusers`)."""
        return {
            "num_res_blocks": [self.blocks_per_level] * len(self.channels),
            "channel_mult": list(self.channel_mult),
            "transformer_depth": self.transformer_depth,
            "transformer_depth_output": self.transformer_depth_output,
            "transformer_depth_middle": 1,
        }


@dataclass(frozen=True)
class ScheduleConfig:
    """Stable Diffusion 1's noise levels: betas linear in their square root over `steps`, epsilon predicted."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    steps: int = 1000

    def diffusers(self) -> dict:
        """Arguments of diffusers' schedulers; no clipping, and the levels go down to the cleanest trained level."""
        return {
            "num_train_timesteps": self.steps,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "beta_schedule": "scaled_linear",
            "prediction_type": "epsilon",
        }


@dataclass(frozen=True)
class TransformerConfig:
    """Flux's transformer, narrow: `double_blocks` with a stream each for text and picture, then `single_blocks`.

    Flux's own positions (axes 16, 56, 56; theta 10,000) are made for grids of hundreds; these fit one of 16 x 16.
    """

    width: int = 256
    heads: int = 8
    axes: tuple[int, int, int] = (4, 14, 14)
    theta: int = 100
    double_blocks: int = 2
    single_blocks: int = 4
    context: int = 192
    latent_channels: int = 16
    patch: int = 2
    text_tokens: int = 32
    shift: float = 4.0

    @property
    def token(self) -> int:
        """Numbers in one picture token: a patch of all latent channels."""
        return self.latent_channels * self.patch**2

    def diffusers(self) -> dict:
        """Arguments of diffusers' `FluxTransformer2DModel`; theta is not among them."""
        return {
            "in_channels": self.token,
            "num_layers": self.double_blocks,
            "num_single_layers": self.single_blocks,
            "attention_head_dim": self.width // self.heads,
            "num_attention_heads": self.heads,
            "joint_attention_dim": self.context,
            "pooled_projection_dim": self.context,
            "axes_dims_rope": self.axes,
        }

    def host(self) -> dict:
        """Arguments of the host's `Flux`."""
        return {
            "in_channels": self.latent_channels,
            "out_channels": self.latent_channels,
            "vec_in_dim": self.context,
            "context_in_dim": self.context,
            "hidden_size": self.width,
            "mlp_ratio": 4.0,
            "num_heads": self.heads,
            "depth": self.double_blocks,
            "depth_single_blocks": self.single_blocks,
            "axes_dim": list(self.axes),
            "theta": self.theta,
            "patch_size": self.patch,
            "qkv_bias": True,
            "guidance_embed": False,
            "txt_ids_dims": [],
        }


TEXT = TextConfig()
UNET = UNetConfig()
TRANSFORMER = TransformerConfig()
SCHEDULE = ScheduleConfig()

PREVIEW_COLOURS = "papercut.preview_colours"
"""Name of the (5, 3) table in the file: red, green, blue in -1..1 of one unit of each latent channel, then of none."""

LATENT_SCALE = 0.18215
"""Stable Diffusion 1's latent scale. The autoencoder is trained on latents of unit size; the host's raw latents are
those divided by this number, and its SD15 latent format multiplies it back before the UNet sees them."""
