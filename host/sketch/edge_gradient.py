"""The gradient of a loss on predicted edges, computed in a sampler's own model call.

The call's conditional half runs by itself, with a leaf in place of its input. Where the host batches several entries of
the prompt, the rows of those that cover the whole picture count, in equal parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import comfy.model_patcher
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ...guidance.sketch.predictor import EdgePredictor
from ...inversion.diffusion import append_dims
from ..gradients import differentiable_call_options, gradients_through, plain
from ..memory import or_sparing
from ..recompute import checkpointed
from ..unet_features import reading, require_whole
from ..validation import require_finite
from .layers import require_channels

KEY = "palimpsest_sketch_gradient"
TECHNIQUE = "sketch guidance"
OWN_LEVELS = ("timestep_start", "timestep_end", "hooks")
"""Entries of a prompt with one of these change from level to level."""


class EdgeGradient:
    """dL/dx for the rows of one model call of a guider; filled by the call that `gradient_options`'s options go into.

    loss_of: the predictor's output -> (B,). shape: of x, (B, C, h, w), which must reach the model as a whole.
    sparing: recompute activations in backward, to need less memory.
    shortfalls: the positive prompt's prediction x0 minus each other prompt's, of an earlier call. Set before a call,
    they replace the calls for the other prompts; afterwards they are those of this call. (Old predictions themselves
    would lag behind the positive one's and so raise the CFG.)
    """

    def __init__(self, guider, predictor: EdgePredictor, loss_of: Callable[[Tensor], Tensor], shape: Sequence[int]):
        self.guider, self.predictor, self.loss_of, self.shape = guider, predictor, loss_of, tuple(shape)
        entries = guider.conds.get("positive") or []
        # Entries of an area are copied to the other prompts, number and all; those of the whole picture are not.
        self.whole = {entry["uuid"] for entry in entries if "area" not in entry and "uuid" in entry}
        self.sparing, self.open = False, False
        self.shortfalls: list[Tensor | None] | None = None
        self.gradients: list[Tensor] = []
        self.losses: list[Tensor] = []

    @property
    def loss(self) -> Tensor:
        """(B,) at x."""
        return torch.stack(self.losses).mean(0)

    def result(self) -> Tensor:
        """(B, C, h, w), detached. Raises ValueError where the call never evaluated a prompt for the whole picture."""
        if not self.gradients:
            raise ValueError(
                "Sketch guidance found no positive prompt for the whole picture in this sampler's model calls: give "
                "the positive conditioning an entry without an area."
            )
        remedy = "run the model in full precision (start ComfyUI with --force-fp32)"
        return require_finite(torch.stack(self.gradients).mean(0), "The gradient of the sketch", remedy)

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options):
        """CALC_COND_BATCH wrapper: the positive prompt in a call of its own."""
        mine = [cond is not None and any(entry.get("uuid") in self.whole for entry in cond) for cond in conds]
        require_whole(x_in, self.shape, TECHNIQUE)
        if self.gradients or not any(mine):
            return executor(model, conds, x_in, timestep, model_options)
        if "multigpu_clones" in model_options:
            raise ValueError("Sketch guidance stays on one GPU: connect the model before its Multi-GPU node.")
        others = [None if own else cond for own, cond in zip(mine, conds)]
        spared = self._may_reuse(mine, others, x_in)
        rest = None
        if not spared and any(cond is not None for cond in others):
            rest = executor(model, others, x_in, timestep, model_options)
        self.open = True
        try:
            first = executor(
                model, [cond if own else None for own, cond in zip(mine, conds)], x_in, timestep, model_options
            )
        finally:
            self.open = False
        return self._with_shortfalls(mine, first) if spared else self._together(mine, others, first, rest)

    def _together(self, mine: list[bool], others: list, first: list[Tensor], rest: list[Tensor] | None) -> list[Tensor]:
        if rest is None:
            self.shortfalls = None
            return first
        own = first[mine.index(True)]
        self.shortfalls = [None if cond is None else own - one for cond, one in zip(others, rest)]
        return [a if is_mine else b for is_mine, a, b in zip(mine, first, rest)]

    def _with_shortfalls(self, mine: list[bool], first: list[Tensor]) -> list[Tensor]:
        own = first[mine.index(True)]
        return [one if short is None else own - short for one, short in zip(first, self.shortfalls)]

    def _may_reuse(self, mine: list[bool], others: list, x: Tensor) -> bool:
        """Whether the shortfalls fit the other prompts of this call."""
        if self.shortfalls is None or mine.count(True) != 1 or len(self.shortfalls) != len(others):
            return False
        entries = [entry for cond in others for entry in cond or ()]
        if any(entry.get(key) is not None for entry in entries for key in OWN_LEVELS):
            return False
        known = [None if shortfall is None else shortfall.shape for shortfall in self.shortfalls]
        return known == [None if cond is None else x.shape for cond in others]

    def apply_model(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **extra
    ):
        """APPLY_MODEL wrapper: the forward pass, with gradients while the positive prompt is open."""
        chunks = transformer_options.get("uuids", ())
        if not self.open or not any(uuid in self.whole for uuid in chunks):
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **extra)
        require_whole(x, (len(chunks) * self.shape[0], *self.shape[1:]), TECHNIQUE)
        arguments = {key: _plain(value) for key, value in extra.items()}
        inputs = (plain(t), _plain(c_concat), _plain(c_crossattn))

        def forward(leaf: Tensor, options: dict) -> Tensor:
            # The UNet pops from the lists of a ControlNet.
            return executor(leaf, *inputs, _copied(control), options, **arguments)

        network = executor.class_obj.diffusion_model

        def attempt(sparing: bool) -> Tensor:
            self.sparing = sparing
            return self._forward(forward, network, x, t, transformer_options, control is not None)

        return or_sparing(attempt, "Sketch guidance", sparing=self.sparing)

    def _forward(self, forward, network, x: Tensor, t: Tensor, transformer_options: dict, controlled: bool) -> Tensor:
        seen: dict[str, Tensor] = {}
        self.gradients, self.losses = [], []
        nested = torch.is_grad_enabled() and x.requires_grad

        def keep(name: str, out: Tensor) -> Tensor | None:
            seen[name] = out
            # A ControlNet adds in place to what the block has put out.
            return out.clone() if controlled else None

        with ExitStack() as stack:
            stack.enter_context(gradients_through([self.guider.model_patcher]))
            if self.sparing:
                stack.enter_context(checkpointed(network))
            leaf = x if nested else plain(x).detach().clone().requires_grad_(True)
            options = differentiable_call_options(transformer_options)
            if not nested:
                _end_graph_behind(options, self.predictor.spec.taps)
            stack.enter_context(reading(network, self.predictor.spec.taps, keep))
            out = forward(leaf, options)
            self._take(leaf, seen, plain(t), transformer_options["uuids"], nested)
        return out if nested else out.detach()

    def _take(self, leaf: Tensor, seen: dict[str, Tensor], sigma: Tensor, chunks: list, nested: bool) -> None:
        """The loss and its gradient, for each entry that covers the whole picture."""
        taps = self.predictor.spec.taps
        if len(seen) != len(taps) or not all(seen[name].requires_grad for name in taps):
            raise ValueError(
                "Sketch guidance cannot see into this model: take nodes that skip or cache parts of the network out of "
                "the model's line, and use predictors of one kind where there are several."
            )
        features = [seen[name] for name in taps]
        require_channels(self.predictor.spec, features)
        rows = leaf.shape[0] // len(chunks)
        wanted = [i for i, uuid in enumerate(chunks) if uuid in self.whole]
        for number, chunk in enumerate(wanted):
            mine = slice(chunk * rows, (chunk + 1) * rows)
            loss, upstream, scale = self._edge_gradient(
                [f[mine] for f in features], sigma[mine], tuple(leaf.shape[-2:])
            )
            whole = [_placed(part, feature, mine) for part, feature in zip(upstream, features)]
            again = nested or number + 1 < len(wanted)
            (gradient,) = torch.autograd.grad(features, leaf, whole, retain_graph=again)
            self.gradients.append(gradient[mine].detach().float() / scale)
            self.losses.append(loss)

    def _edge_gradient(self, features: list[Tensor], sigma: Tensor, size: tuple[int, int]):
        """(losses (B,), their gradients with respect to the features, the factor (B, 1, 1, 1) they were scaled by).

        The backward pass is linear in each row, so a row's gradient is brought to size 1 before it enters the UNet: in
        half precision a small one would vanish, and a large one overflow.
        """
        leaves = [feature.detach().float().requires_grad_(True) for feature in features]
        out = self.predictor.logits(dict(zip(self.predictor.spec.taps, leaves)), sigma, size)
        losses = self.loss_of(out)
        gradients = torch.autograd.grad(losses.sum(), leaves)
        largest = torch.stack([gradient.abs().flatten(1).amax(1) for gradient in gradients]).amax(0)
        scale = append_dims(torch.where(largest > 0, 1 / largest.clamp_min(torch.finfo(torch.float32).tiny), 1.0), 4)
        return losses.detach(), [gradient * scale for gradient in gradients], scale


def gradient_options(gradient: EdgeGradient, model_options: dict) -> dict:
    """A copy of `model_options` with which a model call fills `gradient`."""
    options = comfy.model_patcher.create_model_options_clone(model_options)
    for kind, wrapper in (
        (WrappersMP.CALC_COND_BATCH, gradient.calc_cond_batch),
        (WrappersMP.APPLY_MODEL, gradient.apply_model),
    ):
        add_wrapper_with_key(kind, KEY, wrapper, options, is_model_options=True)
    return options


def _end_graph_behind(options: dict, taps: tuple[str, ...]) -> None:
    """The layers behind the last tap run without a graph: what enters them, skips included, is cut off."""
    last = max((int(name.split(".")[1]) for name in taps if name.startswith("output.")), default=-1)

    def cut(h: Tensor, skip: Tensor | None, transformer_options: dict):
        if transformer_options["block"][1] <= last:
            return h, skip
        return h.detach(), None if skip is None else skip.detach()

    patches = options.setdefault("patches", {})
    patches["output_block_patch"] = [cut, *patches.get("output_block_patch", ())]


def _placed(part: Tensor, feature: Tensor, rows: slice) -> Tensor:
    """`part` in its rows of zeros like `feature`, in the feature's precision."""
    whole = torch.zeros_like(feature)
    whole[rows] = part.to(feature.dtype)
    return whole


def _plain(value):
    """Tensors in lists and dicts as autograd may save them."""
    if isinstance(value, Tensor):
        return plain(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return {key: _plain(one) for key, one in value.items()} if isinstance(value, dict) else value


def _copied(control):
    """A ControlNet's output in lists of its own."""
    if not isinstance(control, dict):
        return control
    return {key: [_plain(one) for one in value] if isinstance(value, list) else value for key, value in control.items()}
