"""Pictures with their edges -> what an edge predictor learns from: latents and targets, encoded once and kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...guidance.morphology import grey_dilate
from ...guidance.sketch.examples import Example
from ...guidance.sketch.predictor import PredictorSpec
from ...guidance.sketch.prepare import read_strokes
from ...guidance.sketch.targets import edge_target
from ..content_cache import content_key
from ..images import middle
from ..notify import notify
from ..progress import Progress, check_interrupt
from ..validation import require_conditioning, require_finite, require_vae_of

SIDE = 8
OTHERS, STEEPER = 8, 1.15
"""Edges must lie on places steeper by this factor in their own picture than in so many others."""
PLAIN = {"pooled_output", "width", "height", "target_width", "target_height", "crop_w", "crop_h", "prompt_type"}
"""What a prompt may carry beside its text; anything else (areas, ControlNets) belongs to one picture's composition."""


def single_pictures(images: Sequence[Tensor], name: str) -> list[Tensor]:
    """A list of IMAGE batches (B, H, W, C) -> one (1, H, W, 3) each, cropped in the middle to multiples of 8."""
    found = []
    for batch in images:
        if not isinstance(batch, Tensor) or batch.ndim != 4 or 0 in batch.shape:
            raise ValueError(f"{name} are not pictures: connect an IMAGE, such as the output of Load Image.")
        require_finite(batch, name, "load them again")
        found += [_cropped(picture[None, ..., :3]) for picture in batch]
    return found


def _cropped(picture: Tensor) -> Tensor:
    height, width = picture.shape[1:3]
    h, w = height // SIDE * SIDE, width // SIDE * SIDE
    if min(h, w) < SIDE:
        raise ValueError(f"A picture of {width} x {height} pixels is too small to learn from: use larger ones.")
    return middle(picture, (h, w))


def make_examples(
    model,
    vae,
    spec: PredictorSpec,
    pictures: list[Tensor],
    edges: list[Tensor],
    prompts: int,
    *,
    flips: bool,
    about: str = "",
) -> list[Example]:
    """pictures, edges: as `single_pictures` gives them, in pairs; prompts: how many there are, one for all or one each.
    flips: learn from the mirrored pictures too. about: what else the training depends on, part of their digests.

    Raises ValueError where pictures and edges do not pair, or an edge picture is blank.
    """
    require_vae_of(model, vae)
    _require_pairs(pictures, edges, prompts)
    drawn = [_lines(edge, i) for i, edge in enumerate(edges, 1)]
    if not in_order(pictures, drawn):
        notify(
            "The edges seem to lie on other pictures than their own: two folders may be listed in different orders. "
            "Make the edges from the pictures in the graph (Canny), or load both from one list."
        )
    progress = Progress(len(pictures))
    examples = []
    # Not in inference mode: the training's backward pass keeps what is made here.
    with torch.inference_mode(False), torch.no_grad():
        for i, (picture, lines) in enumerate(zip(pictures, drawn)):
            for mirrored in (False, True) if flips else (False,):
                turned = [one.flip(-2) if mirrored else one for one in (picture, lines[..., None])]
                latent = _encoded(model, vae, turned[0])
                target = _target(model, vae, spec, turned[1][..., 0], tuple(latent.shape[-2:]))
                content = content_key([picture, lines, mirrored, about]) or ""
                examples.append(Example(latent, target, i, i if prompts > 1 else 0, content))
            progress.step(i)
    return examples


def _lines(edge: Tensor, number: int) -> Tensor:
    """(1, H, W, 3) -> (1, H, W) bool, thin. Raises ValueError for a blank one."""
    lines = read_strokes(edge, check_interrupt).lines
    if not bool(lines.any()):
        raise ValueError(
            f"Edge picture {number} is blank: its edges must be drawn as lines, as Canny draws them; leave the picture "
            "out, or lower Canny's thresholds."
        )
    return lines


def in_order(pictures: list[Tensor], lines: list[Tensor]) -> bool:
    """Whether edges lie on steeper places of their own pictures than of others; True where that cannot be compared."""
    steep = [_steepness(picture) for picture in pictures]
    count = len(steep)
    own, other = [], []
    for i, drawn in enumerate(lines):
        check_interrupt()
        beside = [steep[(i + step) % count] for step in range(1, min(count, OTHERS + 1))]
        there = [one[drawn].mean() for one in beside if one.shape == steep[i].shape]
        if count > 2 and there:
            own.append(steep[i][drawn].mean())
            other.append(torch.stack(there).mean())
    return not own or bool(torch.stack(own).mean() > STEEPER * torch.stack(other).mean())


def _steepness(picture: Tensor) -> Tensor:
    """(1, H, W, 3) -> (1, H, W) how much brightness changes round a pixel, the picture's mean being 1."""
    check_interrupt()
    grey = picture.float().mean(-1)
    rows, columns = torch.gradient(grey, dim=(1, 2))
    change = grey_dilate(torch.hypot(rows, columns), 1)
    return change / change.mean().clamp_min(1e-6)


def _require_pairs(pictures: list[Tensor], edges: list[Tensor], prompts: int) -> None:
    if not pictures:
        raise ValueError("There are no pictures to learn from: connect one or more.")
    if len(pictures) != len(edges):
        raise ValueError(
            f"There are {len(pictures)} pictures and {len(edges)} edge pictures: give each picture its own, in the "
            "same order, for instance with the Canny node."
        )
    for i, (picture, edge) in enumerate(zip(pictures, edges), 1):
        if picture.shape[1:3] != edge.shape[1:3]:
            (h1, w1), (h2, w2) = picture.shape[1:3], edge.shape[1:3]
            raise ValueError(f"Picture {i} is {w1} x {h1} and its edge picture {w2} x {h2}: bring both to one size.")
    if prompts not in (1, len(pictures)):
        raise ValueError(
            f"There are {prompts} conditionings for {len(pictures)} pictures: give one for all of them, or one each."
        )


def _encoded(model, vae, picture: Tensor) -> Tensor:
    """(1, H, W, 3) in 0..1 -> (4, h, w) scaled latent."""
    latent = require_finite(vae.encode(picture), "The encoded picture").float().cpu()
    return model.model.process_latent_in(latent)[0]


def _target(model, vae, spec: PredictorSpec, lines: Tensor, size: tuple[int, int]) -> Tensor:
    """lines: (1, H, W) bool -> (K, H', W')."""
    if spec.target == "latent":
        return _encoded(model, vae, lines.float()[..., None].expand(-1, -1, -1, 3))
    return edge_target(lines, size, detail=spec.detail, spread=spec.spread)[0]


def together(prompts: Sequence[list]) -> list:
    """Single CONDITIONINGs -> one with a row for each. Raises ValueError for prompts that are no plain text."""
    entries = [_single(prompt) for prompt in prompts]
    length = max(tokens.shape[1] for tokens, _ in entries)
    rows = [_lengthened(tokens, length) for tokens, _ in entries]
    if len({row.shape[1:] for row in rows}) != 1:
        raise ValueError("The conditionings come from different text encoders: encode all prompts with one CLIP.")
    options = dict(entries[0][1])
    if isinstance(options.get("pooled_output"), Tensor):
        options["pooled_output"] = torch.cat([o["pooled_output"][:1] for _, o in entries])
    return [[torch.cat(rows), options]]


def require_plain_prompt(prompt: list, name: str) -> list:
    """CONDITIONING of one entry of plain text. Raises ValueError for any other."""
    _single(require_conditioning(prompt, name))
    return prompt


def _single(prompt: list) -> tuple[Tensor, dict]:
    tokens, options = prompt[0]
    extra = sorted(key for key, value in options.items() if key not in PLAIN and value is not None)
    if len(prompt) != 1 or tokens.shape[0] != 1 or extra:
        what = f"with {extra[0]}" if extra else "of several parts"
        raise ValueError(
            f"A conditioning {what} cannot be learned from: connect plain prompts from CLIP Text Encode, one a picture."
        )
    return tokens, options


def _lengthened(tokens: Tensor, length: int) -> Tensor:
    """Repeated to `length` tokens where that is a multiple, as the host does; repeating changes no attention."""
    times = length // tokens.shape[1]
    return tokens.repeat(1, times, 1) if times * tokens.shape[1] == length else tokens
