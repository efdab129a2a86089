"""A random UNet of 0.4 M weights as a MODEL of the host, in each of the three parametrisations."""

import pytest
import torch


def tiny_model(kind: str):
    """A ModelPatcher round a tiny UNet; kind: "eps", "v" or "flow"."""
    import comfy.latent_formats
    from comfy.model_base import BaseModel, ModelType
    from comfy.model_patcher import ModelPatcher
    from comfy.supported_models_base import BASE

    class Config(BASE):
        unet_extra_config = {"num_heads": 2, "num_head_channels": -1}
        latent_format = comfy.latent_formats.SD15
        sampling_settings = {"shift": 1.0} if kind == "flow" else {}

    config = Config({
        "image_size": 32, "use_spatial_transformer": True, "legacy": False, "in_channels": 4, "out_channels": 4,
        "model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": (1, 2), "transformer_depth": [0, 1],
        "transformer_depth_output": [0, 0, 1, 1], "transformer_depth_middle": 1, "context_dim": 16,
        "use_linear_in_transformer": False, "adm_in_channels": None, "dtype": torch.float32,
    })  # fmt: skip
    types = {"eps": ModelType.EPS, "v": ModelType.V_PREDICTION, "flow": ModelType.FLOW}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = BaseModel(config, types[kind])
        with torch.no_grad():
            for name, weight in model.diffusion_model.named_parameters():
                # The host's UNet begins with zeroed output layers, which would hide what comes before them.
                weight.copy_(torch.randn_like(weight) * (0.02 if weight.ndim == 1 else weight[0].numel() ** -0.5))
                if name.endswith("norm.weight") or "norm" in name and weight.ndim == 1 and "weight" in name:
                    weight.add_(1.0)
    return ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


@pytest.fixture(scope="session")
def models():
    """The three MODELs by their parametrisation."""
    return {kind: tiny_model(kind) for kind in ("eps", "v", "flow")}

