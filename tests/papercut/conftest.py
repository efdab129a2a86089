"""Random networks in Papercut's layout, and the one file they are exported to; they stand in for trained weights."""

import pytest
import torch
from palimpsest.papercut.networks import new_text_encoder, new_unet, new_vae


def fill_range(layers, example, *, mean, spread):
    """Rescale the last convolution so that each channel of the answer to `example` has this mean and std."""
    out, last = layers(example), layers[-1]
    gain = spread / out.std(dim=(0, 2, 3))
    last.weight *= gain[:, None, None, None]
    last.bias.copy_(mean + gain * (last.bias - out.mean(dim=(0, 2, 3))))


@torch.no_grad()
def random_networks():
    """Random weights, the autoencoder's last layers rescaled so that latents and pictures fill their ranges."""
    torch.manual_seed(0)
    unet, text, vae = new_unet(), new_text_encoder(), new_vae()
    pictures = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8), scale_factor=16)
    fill_range(vae.encoder.layers, pictures, mean=0.0, spread=1.0)
    fill_range(vae.decoder.layers, torch.randn(2, 4, 16, 16), mean=0.5, spread=0.25)
    return unet, text, vae


@pytest.fixture(scope="session")
def networks():
    return random_networks()


@pytest.fixture(scope="session")
def exported(networks, tmp_path_factory):
    from palimpsest.papercut.export import export, fit_preview_colours  # needs safetensors, which core tests lack

    unet, text, vae = networks
    colours = fit_preview_colours(vae, torch.rand(2, 3, 64, 64) * 2 - 1)
    path = tmp_path_factory.mktemp("papercut") / "papercut.safetensors"
    return export(unet, text, vae, path, preview_colours=colours, about={"licence": "test"})
