"""Every socket of every node is fed what other packs may send: a sentence that names the input, or it works.

`test_a_node_sees_only_what_its_socket_takes` stops each node before its work and looks at what reaches it;
`test_a_node_says_a_sentence_or_works` runs the nodes that are cheap.
"""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfy.samplers import ksampler
from comfy_api.internal import make_locked_method_func
from comfy_api.latest import io
from palimpsest.guidance.sketch.predictor import EdgePredictor
from palimpsest.host import folders
from palimpsest.host.motion.optical_flow import PARTS
from palimpsest.host.sockets import CHECKS
from palimpsest.inversion.trajectory import Trajectory
from palimpsest.morphing.schedule import schedule
from palimpsest.nodes import collect_nodes
from palimpsest.tests.tiny_models import tiny_cond, tiny_latent, tiny_lora, tiny_model, tiny_vae

SIDE = 64
WIDGETS = {"INT", "FLOAT", "BOOLEAN", "COMBO", "STRING", "PALIMPSEST_FLOW_CANVAS"}
# Cheap as they are; the others train, sample a network or write files.
RUN = (
    "FlowFromTransform",
    "FlowFromPoints",
    "FlowCompose",
    "FlowPreview",
    "FlowWarp",
    "FlowGuidanceReport",
    "SketchPrepare",
    "KeyPictures",
    "MorphSchedule",
    "MorphLatents",
    "MorphConditioning",
    "Reschedule",
    "AttentionBlend",
    "LoRAInterpolator",
    "DDIMInvert",
    "TrajectoryAnchor",
    "ProximalGuidance",
    "NegativePromptInversion",
    "DiffEditHeadStart",
    "PixelTrueFinish",
    "CropToMask",
)
JUNK = {
    "nothing": None, "a string": "x", "an empty string": "", "a list": [1, "a"], "an empty list": [], "a dict": {},
    "a tensor": torch.full((2, 3), 300.0), "a number": 0.5, "an array": np.zeros((1, 2, SIDE, SIDE)),
    "an object": object(), "NaN": float("nan"),
}  # fmt: skip


def spoiled(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with one NaN."""
    copy = tensor.clone()
    copy.view(-1)[0] = torch.nan
    return copy


def odd_pictures(image: torch.Tensor) -> dict:
    return {
        "rgba": torch.cat([image, image[..., :1]], -1), "grey": image[..., :1], "half": image.half(),
        "255": image * 255, "one": image[0], "two channels": image[..., :2], "over": image * 1.5 - 0.25,
        "NaN": spoiled(image), "double": image.double(), "empty": image[:0], "no width": image[:, :, :0],
        "strided": image.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1), "video": image[None],
        "bytes": (image * 255).to(torch.uint8),
    }  # fmt: skip


def odd_masks(mask: torch.Tensor) -> dict:
    return {
        "one": mask[0], "channel first": mask[:, None], "channel last": mask[..., None], "bool": mask > 0.5,
        "half": mask.half(), "double": mask.double(), "0 and 1": mask.to(torch.uint8), "255": mask * 255,
        "bytes": (mask * 255).to(torch.uint8), "NaN": spoiled(mask), "negative": mask - 0.5, "empty": mask[:0],
        "picture": mask[..., None].repeat(1, 1, 1, 3), "three": mask.repeat(3, 1, 1),
    }  # fmt: skip


def odd_latents(latent: dict) -> dict:
    samples = latent["samples"]
    tensors = {
        "half": samples.half(), "bf16": samples.bfloat16(), "5-D": samples[:, :, None], "3-D": samples[0],
        "NaN": spoiled(samples), "empty": samples[:0], "an array": samples.numpy(),
    }  # fmt: skip
    masks = {"mask NaN": spoiled(torch.ones(1, SIDE, SIDE)), "mask string": "x", "mask 2-D": torch.ones(SIDE, SIDE)}
    return {
        **{kind: {"samples": tensor} for kind, tensor in tensors.items()},
        **{kind: {**latent, "noise_mask": mask} for kind, mask in masks.items()},
        "further keys": {**latent, "type": "x", "batch_index": [7]},
    }


def odd_prompts(cond: list) -> dict:
    row, options = cond[0]
    return {
        "pooled None": [[row, {**options, "pooled_output": None}]], "tuples": ((row, options),),
        "half": [[row.half(), {}]], "three rows": [[row.repeat(3, 1, 1), options]],
        "no tokens": [[row[:, :0], options]], "NaN": [[spoiled(row), {}]],
        "one token": [[row[:, :1], options]], "2-D": [[row[0], options]], "None in it": [[None, options]],
        "no options": [[row]],
    }  # fmt: skip


def odd_schedules(sigmas: torch.Tensor) -> dict:
    return {
        "twice": torch.cat([sigmas[:2], sigmas[1:]]), "rising": sigmas.flip(0), "one": sigmas[:1], "empty": sigmas[:0],
        "double": sigmas.double(), "half": sigmas.half(), "list": sigmas.tolist(), "NaN": spoiled(sigmas),
        "negative": -sigmas, "2-D": sigmas[None],
    }  # fmt: skip


@cache
def good() -> dict:
    """A right value of each socket type."""
    ramp = torch.linspace(0, 1, SIDE).expand(1, SIDE, SIDE)
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 20:40, 20:40] = 1
    samples = tiny_latent("sd1")
    levels = torch.tensor([0.0, 1.0, 4.0])
    path = torch.stack([samples, samples + 1, samples + 4])
    flow = mask[..., None] * torch.tensor([3.0, 2.0])
    network = torch.nn.Module()
    for part in PARTS:
        network.add_module(part, torch.nn.Identity())
    tracks = torch.tensor([[[25.0, 25.0], [35.0, 35.0]], [[28.0, 27.0], [39.0, 36.0]]])
    return {
        "MODEL": tiny_model("sd1"), "VAE": tiny_vae(), "IMAGE": torch.stack([ramp, ramp, 1 - ramp], -1), "MASK": mask,
        "LATENT": {"samples": samples}, "CONDITIONING": tiny_cond("sd1"), "SIGMAS": levels.flip(0), "FLOW": flow,
        "CLIP": SimpleNamespace(tokenize=None, encode_from_tokens=None), "SAMPLER": ksampler("euler"),
        "CLIP_VISION": SimpleNamespace(encode_image=None), "CURVE": SimpleNamespace(interp=lambda time: time),
        "TRAJECTORY": Trajectory(levels, path, "", 1.0, "", "eps", "SD15"), "ALPHAS": schedule(3),
        "EDGE_PREDICTOR": object.__new__(EdgePredictor), "LORA_MODEL": tiny_lora("sd1"),
        "BOUNDING_BOX": {"x": 0, "y": 0, "width": SIDE, "height": SIDE},
        "OPTICAL_FLOW": SimpleNamespace(model=network), "TRACKS": {"track_path": tracks, "track_visibility": None},
    }  # fmt: skip


def kinds(socket: str) -> dict:
    value = good()[socket]
    odd = {
        "IMAGE": odd_pictures,
        "MASK": odd_masks,
        "LATENT": odd_latents,
        "CONDITIONING": odd_prompts,
        "SIGMAS": odd_schedules,
        "FLOW": lambda flow: {"NaN": spoiled(flow), "half": flow.half(), "one": flow[0]},
        "ALPHAS": lambda one: {"NaN": [0.0, torch.nan], "negative": [-1.0], "list": [0, 0.5, 1], "words": ["0", "1"]},
        "LORA_MODEL": lambda lora: {
            "numbers": dict.fromkeys(lora, 1.0),
            "NaN": {key: spoiled(one) for key, one in lora.items()},
        },
        "TRACKS": lambda one: {"NaN": {"track_path": one["track_path"] * torch.nan}, "words": {"track_path": "x"}},
    }.get(socket, lambda value: {})
    return {**JUNK, **odd(value)}


folders.register()
NODES = {node.GET_SCHEMA().node_id.removeprefix("Palimpsest"): node for node in collect_nodes()}


def socket_of(one: io.Input) -> str:
    return one.template.input.io_type if isinstance(one, io.Autogrow.Input) else one.io_type


def sockets(name: str) -> list[io.Input]:
    return [one for one in NODES[name].GET_SCHEMA().inputs if socket_of(one) not in WIDGETS]


def given(one: io.Input, value, listed: bool):
    """The value as the executor hands it to the input; several inputs of a kind get two of it, one of them right."""
    wrap = (lambda value: [value]) if listed else (lambda value: value)
    if isinstance(one, io.Autogrow.Input):
        return {"first0": wrap(good()[socket_of(one)]), "first1": wrap(value)}
    return wrap(value)


def values(name: str, changed: io.Input, value) -> dict:
    """Inputs of a node: widgets at their defaults, required sockets right, one changed."""
    schema, found = NODES[name].GET_SCHEMA(), {}
    for one in schema.inputs:
        socket = socket_of(one)
        if one.id == changed.id:
            found[one.id] = given(one, value, schema.is_input_list)
        elif socket in WIDGETS and socket != "PALIMPSEST_FLOW_CANVAS":
            default = getattr(one, "default", None)
            default = (getattr(one, "options", None) or [0])[0] if default is None else default
            found[one.id] = [default] if schema.is_input_list else default
        elif not one.optional and socket in good():
            found[one.id] = given(one, good()[socket], schema.is_input_list)
    return found


def executed(node, **values):
    """Runs a node as the executor does: as a locked copy of its class."""
    return make_locked_method_func(node, node.FUNCTION, node.PREPARE_CLASS_CLONE(None))(**values)


def require_sentence(error: ValueError, name: str):
    text = str(error)
    assert text.endswith(".") and "\n" not in text and len(text) > 30, text
    if name:
        assert f"'{name}'" in text, text


def fits(socket: str, value) -> bool:
    """Whether the value that reached a node is one of its socket, said apart from the table."""
    tensor = value["samples"] if socket == "LATENT" and isinstance(value, dict) else value
    if socket in ("IMAGE", "MASK", "LATENT", "SIGMAS", "FLOW"):
        dims = {"IMAGE": 4, "MASK": 3, "LATENT": 4, "SIGMAS": 1, "FLOW": 4}[socket]
        right = tensor.dtype == torch.float32 and tensor.ndim == dims and bool(torch.isfinite(tensor).all())
        return right and tensor.numel() and (socket != "IMAGE" or tensor.shape[-1] in (3, 4))
    if socket == "CONDITIONING":
        return all(row.ndim == 3 and row.numel() and isinstance(options, dict) for row, options in value)
    if socket == "ALPHAS" and isinstance(value, list):
        return min(value) >= 0
    return type(value) is type(good()[socket])


EVERY = [(name, one) for name in NODES for one in sockets(name)]
each_input = pytest.mark.parametrize("name, one", EVERY, ids=[f"{name}-{one.id}" for name, one in EVERY])
each_run = pytest.mark.parametrize(
    "name, one", [pair for pair in EVERY if pair[0] in RUN], ids=[f"{n}-{o.id}" for n, o in EVERY if n in RUN]
)


def test_the_table_knows_every_socket():
    assert {socket_of(one) for _, one in EVERY} <= set(CHECKS) & set(good())


@each_input
def test_a_node_sees_only_what_its_socket_takes(name, one, monkeypatch):
    node, socket, reached = NODES[name], socket_of(one), {}
    worker = (
        next(kind for kind in node.__mro__ if kind.__module__.startswith("palimpsest") and kind is not node)
        if "checked" in node.execute.__func__.__qualname__
        else node
    )
    monkeypatch.setattr(worker, "execute", classmethod(lambda cls, **given: reached.update(given)))
    for kind, value in {**kinds(socket), "right": good()[socket]}.items():
        reached.clear()
        inner = "first1" if isinstance(one, io.Autogrow.Input) else one.id
        try:
            executed(node, **values(name, one, value))
        except ValueError as error:
            assert kind != "right", error
            require_sentence(error, "tracks" if socket == "TRACKS" else inner)
            continue
        seen = reached[one.id]
        seen = seen.get(inner) if isinstance(one, io.Autogrow.Input) else seen
        seen = seen[0] if node.GET_SCHEMA().is_input_list and seen is not None else seen
        may_be_open = one.optional or isinstance(one, io.Autogrow.Input)
        assert (seen is None and may_be_open) or fits(socket, seen), f"{kind} reached {name}"


@each_run
def test_a_node_says_a_sentence_or_works(name, one):
    with torch.inference_mode():
        for kind, value in kinds(socket_of(one)).items():
            try:
                executed(NODES[name], **values(name, one, value))
            except ValueError as error:
                require_sentence(error, "")
            except Exception as error:
                raise AssertionError(f"{kind}: {type(error).__name__}: {error}") from error
