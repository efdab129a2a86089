"""The room that the host makes for a backward pass, beside what graphs keep: counted on networks without values."""

from functools import partial

import comfy.model_management
import comfy.sampler_helpers
import comfy.supported_models
import pytest
import torch
from palimpsest.benchmarks.inversion.memory import fused_attention
from palimpsest.benchmarks.random_sd1 import unet_of_stable_diffusion_1
from palimpsest.host.inversion.backward_chunks import bytes_kept
from palimpsest.host.memory import GRADIENT_BATCHES
from palimpsest.host.recompute import checkpointed
from palimpsest.host.session import with_denoiser

from ..tiny_models import tiny_cond, tiny_latent, tiny_model

SD1 = {**unet_of_stable_diffusion_1(), "num_heads": 8}
SD2 = {**SD1, "num_heads": -1, "num_head_channels": 64, "context_dim": 1024, "use_linear_in_transformer": True}
SDXL = {
    **SD2, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048,
    "num_classes": "sequential", "adm_in_channels": 2816,
}  # fmt: skip
# Of the host's rows, beside a graph: what is computed while it is built and walked.
WORKING = 2


class Sized:
    """A model of a family's true size in half precision, without values, at latents of side x side."""

    def __init__(self, kind, facts: dict, side: int):
        config = kind(facts)
        config.set_inference_dtype(torch.float16, None)
        self.model, self.facts, self.side = config.get_model({}, "", device="meta"), facts, side
        self.network = self.model.diffusion_model.requires_grad_(False)

    def row(self) -> float:
        """Bytes that the host counts for a row of sampling."""
        return self.model.memory_required([1, 4, self.side, self.side])

    def graph(self) -> int:
        """Bytes that the graph of a row keeps, where a prompt is fitted."""
        empty = partial(torch.empty, device="meta", dtype=torch.float16)
        x, text = empty(1, 4, self.side, self.side), empty(1, 77, self.facts["context_dim"], requires_grad=True)
        label = empty(1, self.facts["adm_in_channels"]) if self.facts["adm_in_channels"] else None
        ask = lambda: self.network(x, torch.empty(1, device="meta"), context=text, y=label)
        return bytes_kept(ask, self.network.parameters())


@pytest.mark.parametrize(
    ("kind", "facts", "side"),
    [
        (comfy.supported_models.SD15, SD1, 64),
        (comfy.supported_models.SD20, SD2, 96),
        (comfy.supported_models.SDXL, SDXL, 128),
    ],
    ids=["SD1", "SD2", "SDXL"],
)
def test_room_is_made_for_the_graph_of_a_row(monkeypatch, kind, facts, side):
    # As on a GPU, whose fused attention keeps no maps.
    monkeypatch.setattr(comfy.model_management, "pytorch_attention_flash_attention", lambda: True)
    with torch.inference_mode(False), fused_attention():
        sized = Sized(kind, facts, side)
        row, whole = sized.row(), sized.graph()
        with checkpointed(sized.network):
            sparing = sized.graph()
    # The host asks other models for two rows a picture, and leaves one beside the model's own weights.
    assert whole + WORKING * row <= 2 * GRADIENT_BATCHES * row
    assert sparing + WORKING * row <= GRADIENT_BATCHES * row
    # Nor is it far too much: other models would be thrown out for nothing.
    assert whole > 0.35 * 2 * GRADIENT_BATCHES * row


@pytest.mark.parametrize(
    ("batch", "graphs", "rows"), [(1, None, 1), (3, None, 3), (3, 1, 1), (3 * GRADIENT_BATCHES, 1, 3)]
)
def test_the_host_is_asked_for_it(monkeypatch, batch, graphs, rows):
    """rows: with a graph, in effect; a batch that is larger by itself stays as it is."""
    asked, estimate = [], comfy.sampler_helpers.estimate_memory

    def spy(model, shape, conds):
        asked.append(list(shape))
        return estimate(model, shape, conds)

    monkeypatch.setattr(comfy.sampler_helpers, "estimate_memory", spy)
    with torch.inference_mode():
        with_denoiser(
            tiny_model("sd1"),
            {"positive": tiny_cond("sd1")},
            tiny_latent("sd1", batch),
            torch.tensor([0.7]),
            lambda session: None,
            gradients=True,
            graphs=graphs,
        )
    assert asked == [[rows * GRADIENT_BATCHES, 4, 8, 8]]
