"""Values of the right type that do not belong together, in nodes that run a network: prompts, pictures, latents and
trajectories of other models, sizes and counts. Each ends in a sentence, or works."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from palimpsest.host.fingerprint import fingerprint
from palimpsest.morphing.schedule import schedule
from palimpsest.tests.prompt_to_prompt.tiny_clip import tiny_clip
from palimpsest.tests.sketch.fixtures import tiny_predictor
from palimpsest.tests.tiny_models import tiny_cond, tiny_lora, tiny_model, tiny_vae
from torchvision.models.optical_flow import raft_small

from . import test_junk_inputs as junk

HEAVY = (
    "DDIMInvert",
    "InversionCheck",
    "NullTextOptimize",
    "PromptToPrompt",
    "WordAttentionMask",
    "DiffEditMask",
    "BestSeed",
    "EdgePredictorGuidance",
    "EdgePredictorTrain",
    "EdgePredictorPreview",
    "FlowFromImages",
    "LoRAFit",
)
CHEAP = {
    "steps": 2, "inner_steps": 1, "candidates": 2, "noises": 1, "rank": 2, "patience": 0, "levels": 1, "refinement": 0,
    "cfg": 1.5, "text": "a cat", "words": "cat", "source": "a cat", "edits": "a dog", "batch_size": 1, "width": 64,
    "autosave": "", "percents": "0.5", "updates": 1,
}  # fmt: skip
BESIDE = ("positive", "negative", "clip", "vae", "edge_predictor", "sketch", "trajectory")
RAW = ("mat1", "size of tensor", "must match", "NoneType", "unexpected", "out of range", "broadcast")


def strangers(socket: str) -> dict:
    """Values of a socket that belong to another model, another size or another number of pictures."""
    one = right()[socket]
    if socket == "IMAGE":
        return {
            "other size": torch.rand(1, 96, 64, 3),
            "three": one.repeat(3, 1, 1, 1),
            "pixel": torch.rand(1, 1, 1, 3),
        }
    if socket == "MASK":
        return {"other size": torch.ones(1, 96, 40), "three": one.repeat(3, 1, 1), "zeros": one * 0}
    if socket == "LATENT":
        samples = one["samples"]
        return {
            "16 channels": {"samples": torch.zeros(1, 16, 8, 8)}, "three": {"samples": samples.repeat(3, 1, 1, 1)},
            "other size": {"samples": torch.randn(1, 4, 12, 8)}, "masks": {**one, "noise_mask": torch.ones(3, 64, 64)},
        }  # fmt: skip
    if socket == "CONDITIONING":
        row, options = one[0]
        return {
            "combined": one + one, "other width": [[torch.randn(1, 77, 99), {}]],
            "area": [[row, {**options, "area": (4, 4, 0, 0)}]],
            "range": [[row, {**options, "start_percent": 0.9, "end_percent": 1.0}]],
        }  # fmt: skip
    if socket == "TRAJECTORY":
        return {
            "SDXL": replace(one, latent_format="SDXL"),
            "two": replace(one, latents=one.latents.repeat(1, 2, 1, 1, 1)),
            "other size": replace(one, latents=torch.randn(3, 1, 4, 12, 8)),
            "another model": replace(one, fingerprint=""),
        }
    others = {
        "FLOW": lambda: {"other size": torch.ones(1, 96, 64, 2), "three": one.repeat(3, 1, 1, 1), "far": one * 1e6},
        "ALPHAS": lambda: {"one": [0.0], "five": schedule(5), "beyond": [0.0, 9.0]},
        "MODEL": lambda: {"SDXL": tiny_model("sdxl"), "SD 2": tiny_model("sd2")},
        "CLIP": lambda: {"SDXL": tiny_clip("sdxl"), "SD 2": tiny_clip("sd2")},
        "VAE": lambda: {"16 channels": tiny_vae(16)},
        "SIGMAS": lambda: {"flow": torch.tensor([1.0, 0.5, 0.0]), "far": torch.tensor([1e6, 1.0, 0.0])},
        "EDGE_PREDICTOR": lambda: {"SDXL": tiny_predictor(tiny_model("sdxl"))},
        "LORA_MODEL": lambda: {"SDXL": tiny_lora("sdxl"), "names": {"a": torch.ones(2, 2)}},
    }
    return others.get(socket, dict)()


@cache
def right() -> dict:
    """A right value of each socket type for nodes that run it; the picture is a drawing, which edges are read from."""
    page = torch.ones(1, junk.SIDE, junk.SIDE, 3)
    page[:, 30:33, 8:56] = page[:, 8:56, 20:23] = 0.1
    network, cpu = raft_small(weights=None).eval(), torch.device("cpu")
    found = {**junk.good(), "IMAGE": page, "CLIP": tiny_clip("sd1"), "OPTICAL_FLOW": ModelPatcher(network, cpu, cpu)}
    trajectory = replace(found["TRAJECTORY"], fingerprint=fingerprint(found["MODEL"]))
    return {**found, "EDGE_PREDICTOR": tiny_predictor(found["MODEL"]), "TRAJECTORY": trajectory}


def right_for(name: str, where: str, socket: str):
    """A right value of one input."""
    value = right()[socket]
    if (name, where) == ("DiffEditMask", "query"):
        return tiny_cond("sd1", seed=1)
    if (name, where) == ("LoRAFit", "latent"):  # the inputs that grow get two prompts
        return {"samples": value["samples"].repeat(2, 1, 1, 1)}
    return value


def values(name, changed, value) -> dict:
    """As for the cheap nodes, with few steps, and with what a node needs beside an open input."""
    schema, found = junk.NODES[name].GET_SCHEMA(), junk.values(name, changed, value)
    for one in schema.inputs:
        socket = junk.socket_of(one)
        alternative = (changed.id, one.id) == ("samples", "trajectory")
        if one.id == changed.id or alternative or isinstance(one, io.Autogrow.Input):
            continue
        if socket in junk.WIDGETS:
            chosen = CHEAP.get(one.id)
        else:
            chosen = right_for(name, one.id, socket) if one.id in BESIDE or one.id in found else None
        if chosen is not None:
            found[one.id] = junk.given(one, chosen, schema.is_input_list)
    return found


EVERY = [(name, one) for name, one in junk.EVERY if name in HEAVY]


@pytest.mark.parametrize("name", HEAVY)
def test_right_values_work(name):
    one = next(one for node, one in EVERY if node == name)
    with torch.inference_mode():
        assert junk.executed(junk.NODES[name], **values(name, one, right_for(name, one.id, junk.socket_of(one)))).args


@pytest.mark.parametrize("name, one", EVERY, ids=[f"{name}-{one.id}" for name, one in EVERY])
def test_a_heavy_node_says_a_sentence_or_works(name, one):
    for kind, value in strangers(junk.socket_of(one)).items():
        try:
            with torch.inference_mode():
                junk.executed(junk.NODES[name], **values(name, one, value))
        except ValueError as error:
            junk.require_sentence(error, "")
            assert not any(word in str(error) for word in RAW), error
        except Exception as error:
            raise AssertionError(f"{kind}: {type(error).__name__}: {error}") from error


NAMED = [
    ("DDIMInvert", "positive", "other width", "another family"),
    ("DDIMInvert", "model", "SD 2", "another family"),
    ("InversionCheck", "image", "three", "3 images"),
    ("BestSeed", "sketch", "three", "3 sketches"),
    ("PromptToPrompt", "source_negative", "other width", "another family"),
]


@pytest.mark.parametrize("name, where, kind, words", NAMED, ids=[f"{name}-{where}" for name, where, *_ in NAMED])
def test_what_does_not_belong_is_named(name, where, kind, words):
    one = next(one for node, one in EVERY if (node, one.id) == (name, where))
    value = strangers(junk.socket_of(one))[kind]
    with torch.inference_mode(), pytest.raises(ValueError, match=words):
        junk.executed(junk.NODES[name], **values(name, one, value))


def test_an_open_prompt_is_encoded_by_the_models_own_clip():
    one = next(one for node, one in EVERY if (node, one.id) == ("DDIMInvert", "clip"))
    given = {**values("DDIMInvert", one, tiny_clip("sdxl")), "positive": None}
    with torch.inference_mode(), pytest.raises(ValueError, match="text of 'clip' was encoded for another family"):
        junk.executed(junk.NODES["DDIMInvert"], **given)
