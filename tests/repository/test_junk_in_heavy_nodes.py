"""Values of the right type that do not belong together, in nodes that run a network: prompts, pictures, latents and
trajectories of other models, sizes and counts. Each ends in a sentence, or works."""

import pytest
import torch
from palimpsest.inversion.trajectory import Trajectory
from palimpsest.morphing.schedule import schedule
from palimpsest.tests.prompt_to_prompt.tiny_clip import tiny_clip
from palimpsest.tests.sketch.fixtures import tiny_predictor
from palimpsest.tests.tiny_models import tiny_lora, tiny_model, tiny_vae

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
    "LoRAFit",
)
CHEAP = {
    "steps": 2, "inner_steps": 1, "candidates": 2, "noises": 1, "rank": 2, "patience": 0, "levels": 1, "refinement": 0,
    "cfg": 1.5, "text": "a cat", "words": "cat", "source": "a cat", "edits": "a dog",
}  # fmt: skip
BESIDE = ("positive", "negative", "clip", "vae", "edge_predictor", "sketch")
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
        facts = ("", 1.0, "", "eps", "SD15")
        return {
            "SDXL": Trajectory(one.sigmas, one.latents, *facts[:4], "SDXL"),
            "two": Trajectory(one.sigmas, one.latents.repeat(1, 2, 1, 1, 1), *facts),
            "other size": Trajectory(one.sigmas, torch.randn(3, 1, 4, 12, 8), *facts),
        }
    others = {
        "FLOW": lambda: {"other size": torch.ones(1, 96, 64, 2), "three": one.repeat(3, 1, 1, 1), "far": one * 1e6},
        "ALPHAS": lambda: {"one": [0.0], "five": schedule(5), "beyond": [0.0, 9.0]},
        "MODEL": lambda: {"SDXL": tiny_model("sdxl"), "SD 2": tiny_model("sd2")},
        "VAE": lambda: {"16 channels": tiny_vae(16)},
        "SIGMAS": lambda: {"flow": torch.tensor([1.0, 0.5, 0.0]), "far": torch.tensor([1e6, 1.0, 0.0])},
        "LORA_MODEL": lambda: {"SDXL": tiny_lora("sdxl"), "names": {"a": torch.ones(2, 2)}},
    }
    return others.get(socket, dict)()


def right() -> dict:
    found = junk.good()
    if isinstance(found["CLIP"], type(tiny_clip("sd1"))):
        return found
    found["CLIP"], found["EDGE_PREDICTOR"] = tiny_clip("sd1"), tiny_predictor(found["MODEL"])
    return found


def values(name, changed, value) -> dict:
    """As for the cheap nodes, with few steps, and with what a node needs beside an open input."""
    schema, found = junk.NODES[name].GET_SCHEMA(), junk.values(name, changed, value)
    for one in schema.inputs:
        socket = junk.socket_of(one)
        if one.id == changed.id:
            continue
        if socket in junk.WIDGETS:
            found[one.id] = CHEAP.get(one.id, found[one.id])
        elif one.id in BESIDE:
            found[one.id] = right()[socket]
    return found


EVERY = [(name, one) for name, one in junk.EVERY if name in HEAVY]


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
