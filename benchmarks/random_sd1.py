"""A network of Stable Diffusion 1's size with random weights, for what costs alone are measured on."""

from __future__ import annotations

import torch


def unet_of_stable_diffusion_1() -> dict:
    """Its size, as the host reads it off a checkpoint."""
    return {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4], "use_spatial_transformer": True, "context_dim": 768, "legacy": False,
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "use_linear_in_transformer": False,
        "adm_in_channels": None, "use_temporal_attention": False,
    }  # fmt: skip


def stable_diffusion_1():
    """A MODEL of Stable Diffusion 1's size with random weights."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SD15(unet_of_stable_diffusion_1())
    device = comfy.model_management.get_torch_device()
    config.set_inference_dtype(torch.float16 if device.type == "cuda" else torch.float32, None)
    model = config.get_model({}, "", device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.diffusion_model.parameters():
            weight.normal_(0, weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1, generator=generator)
    return comfy.model_patcher.CoreModelPatcher(model.eval(), device, torch.device("cpu"))
