"""Stand-ins for what other nodes do to attention, to prompts and to model calls."""

from __future__ import annotations

from itertools import pairwise

import comfy.hooks
import comfy.ldm.modules.attention as host_attention
import comfy.samplers
import torch
from comfy.context_windows import (
    ContextSchedules,
    IndexListContextHandler,
    get_matching_context_schedule,
    get_matching_fuse_method,
)
from comfy.patcher_extension import WrappersMP
from palimpsest.host.attention.blocks import attention_blocks


def identity(q, k, v, options):
    """A replacement of attention that changes nothing."""
    return host_attention.optimized_attention(
        q, k, v, options["n_heads"], attn_precision=options["attn_precision"], transformer_options=options
    )


class Foreign:
    """Another pack's patch with all that the host asks such patches for. kind: "replace", or "input" for a patch of
    what queries, keys and values are made of."""

    def __init__(self, kind="replace"):
        self.kind, self.calls, self.asked = kind, 0, set()

    def __call__(self, q, k, v, options):
        self.calls += 1
        return identity(q, k, v, options) if self.kind == "replace" else (q, k, v)

    def to(self, *args, **kwargs):
        self.asked.add("to")
        return self

    def models(self):
        self.asked.add("models")
        return []

    def cleanup(self):
        self.asked.add("cleanup")

    def on(self, model, attention="attn1"):
        """A clone of the MODEL with the patch in every layer."""
        clone = model.clone()
        if self.kind == "input":
            getattr(clone, f"set_model_{attention}_patch")(self)
        else:
            for block in attention_blocks(model.model.diffusion_model):
                getattr(clone, f"set_model_{attention}_replace")(self, *block, 0)
        return clone


def slots(model, attention="attn2"):
    """What a node that replaces attention in every layer leaves in a MODEL's options."""
    blocks = attention_blocks(model.model.diffusion_model)
    return {"patches_replace": {attention: {(*block, 0): identity for block in blocks}}}


def nested(model, attention="attn2"):
    """A clone whose innermost APPLY_MODEL wrapper sets a replacement in the options of the call."""

    def wrapper(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kwargs):
        options = {**transformer_options, **slots(model, attention)}
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "another pack", wrapper)
    return clone


def hooked(model, positive, attention="attn2"):
    """The CONDITIONING with a hook that sets a replacement where it is evaluated."""
    group = comfy.hooks.HookGroup()
    group.add(comfy.hooks.TransformerOptionsHook(slots(model, attention)))
    return comfy.hooks.set_hooks_for_conditioning(positive, group)


def euler_by_hand(cfg, order=("negative", "positive")):
    """A SAMPLER that asks for copies of the guider's conditionings itself, in an order of its own."""

    def loop(model, x, sigmas, extra_args, callback, disable):
        guider = model.inner_model
        for now, then in pairwise(sigmas):
            conds = [[dict(entry) for entry in guider.conds[name]] for name in order]
            found = comfy.samplers.calc_cond_batch(
                guider.inner_model, conds, x, now.expand(len(x)), extra_args["model_options"]
            )
            positive, negative = (found[order.index(name)] for name in ("positive", "negative"))
            denoised = negative + cfg * (positive - negative)
            x = x + (x - denoised) / now * (then - now)
        return x

    return comfy.samplers.KSAMPLER(loop)


def tiled(model, boxes, size, order="tiles first"):
    """A clone that evaluates the picture in tiles and averages them. boxes: corners (top, left); size: of a tile.

    order: all rows of one tile after the other, as Tiled Diffusion has it, or all tiles of one row.
    """
    height, width = size

    def cut(value, like):
        if not isinstance(value, torch.Tensor) or value.ndim == 0 or value.shape[0] != len(like):
            return value
        parts = [
            value[..., top : top + height, left : left + width] if value.shape[-2:] == like.shape[-2:] else value
            for top, left in boxes
        ]
        return torch.stack(parts, 0 if order == "tiles first" else 1).flatten(0, 1)

    def wrapper(apply, args):
        x, out, seen = args["input"], torch.zeros_like(args["input"]), torch.zeros_like(args["input"])
        inputs = {name: cut(value, x) for name, value in args["c"].items()}
        found = apply(cut(x, x), cut(args["timestep"], x), **inputs)
        shape = (len(boxes), len(x)) if order == "tiles first" else (len(x), len(boxes))
        found = found.unflatten(0, shape)
        for i, (top, left) in enumerate(boxes):
            place = (..., slice(top, top + height), slice(left, left + width))
            out[place] += found[i] if order == "tiles first" else found[:, i]
            seen[place] += 1
        return out / seen

    clone = model.clone()
    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def windowed(model, length):
    """A clone that evaluates the batch in windows of so many rows."""
    clone = model.clone()
    clone.model_options["context_handler"] = IndexListContextHandler(
        context_schedule=get_matching_context_schedule(ContextSchedules.STATIC_STANDARD),
        fuse_method=get_matching_fuse_method("pyramid"),
        context_length=length,
        context_overlap=0,
        dim=0,
    )
    return clone
