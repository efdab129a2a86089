"""Prompts where the artist connected none, and the text behind those that are connected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .guidance_patches import asks_for_negative
from .validation import require_conditioning, require_prompt_of, require_unconditional

MAX_DEPTH = 50
FROM_CLIP = "The text of 'clip'"
# Where the host's text encoders take their text; some take one for each of several networks.
TEXTS = ("text", "text_g", "text_l", "clip_g", "clip_l", "t5xxl")


def encode(model, clip, text: str = "") -> list:
    """CLIP and a text -> CONDITIONING, as the host's CLIP Text Encode makes it.

    Raises ValueError if it is not finite, or not for models of this family.
    """
    encoded = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    require_prompt_of(model, require_conditioning(encoded, f"The encoded prompt '{text}'"), FROM_CLIP)
    return encoded


def connected_or_encoded(model, conditioning, clip, name: str, text: str = ""):
    """The CONDITIONING, or where none is connected the encoded text; raises ValueError without a CLIP of the model."""
    if conditioning is not None:
        return conditioning
    if clip is None:
        raise ValueError(
            f"{name} is not connected: connect a CLIP Text Encode node, or CLIP alone for "
            + (f"the prompt '{text}'." if text else "an empty prompt.")
        )
    return encode(model, clip, text)


def conditionings(model, positive, negative, clip, cfg: float, technique: str, text: str = "") -> dict[str, list]:
    """The prompts that a guided run needs, by name; raises ValueError where one is missing.

    An open prompt is encoded with CLIP: a positive as `text`, a negative as the empty prompt. At CFG 1 a negative is
    needed only where a patch of the model asks for it. technique: the node, for the error.
    """
    conds = {"positive": connected_or_encoded(model, positive, clip, "The positive prompt", text)}
    if cfg != 1.0:
        require_unconditional(model, f"{technique} at CFG {cfg:g}")
        name = "The negative prompt, needed where CFG is not 1,"
        conds["negative"] = connected_or_encoded(model, negative, clip, name)
    elif negative is not None:
        conds["negative"] = negative  # patches may ask for it even then
    elif asks_for_negative(model):
        name = "The negative prompt, which a patch of the model (such as Self-Attention Guidance) needs at any CFG,"
        conds["negative"] = connected_or_encoded(model, None, clip, name)
    return conds


@dataclass(frozen=True)
class Text:
    """The text behind a CONDITIONING; whole: whether encoding it with CLIP alone gives that CONDITIONING."""

    text: str
    whole: bool


def text_of_input(hidden, name: str) -> Text | None:
    """The text behind an input of the running node, as `text_behind`. hidden: the node's hidden values, or None."""
    return None if hidden is None else text_behind(hidden.prompt, hidden.unique_id, name)


def text_behind(prompt: Mapping | None, node: str | None, name: str) -> Text | None:
    """The text that an input's CONDITIONING was encoded from; None where the graph does not say, or names several.

    prompt: the host's hidden `prompt`; node: the id of the node whose input `name` is meant. Nodes that pass a single
    conditioning on, such as ControlNets and areas, are followed; what they add is more than the text.
    """
    prompt, whole = prompt or {}, True
    for _ in range(MAX_DEPTH):
        link = _inputs(prompt, node).get(name)
        if not isinstance(link, list) or len(link) != 2:
            return None
        node = str(link[0])
        inputs = _inputs(prompt, node)
        texts = [inputs[key] for key in TEXTS if key in inputs]
        if texts:
            found = {one if isinstance(one, str) else _literal(prompt, one) for one in texts}
            plain = whole and set(inputs) <= {"text", "clip"}
            text = found.pop() if len(found) == 1 else None
            return None if text is None else Text(text, plain)
        # A node with a positive and a negative side gives them out in that order.
        sides = ("negative",) if int(link[1]) == 1 and "negative" in inputs else ("conditioning", "positive", "cond")
        name, whole = next((key for key in sides if key in inputs), ""), False
    return None


def _inputs(prompt: Mapping, node: str | None) -> Mapping:
    return (prompt.get(str(node)) or {}).get("inputs", {})


def _literal(prompt: Mapping, link: list) -> str | None:
    """The string that a text widget's link leads to, where it comes from a node that merely holds it."""
    texts = [value for value in _inputs(prompt, link[0]).values() if isinstance(value, str)]
    return texts[0] if len(texts) == 1 else None
