"""Prompts where the artist connected none, and the text behind those that are connected."""

from __future__ import annotations

from collections.abc import Mapping

from .validation import require_unconditional

MAX_DEPTH = 50


def encode(clip, text: str = "") -> list:
    """CLIP and a text -> CONDITIONING, as the host's CLIP Text Encode makes it."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def connected_or_encoded(conditioning, clip, name: str, text: str = ""):
    """The CONDITIONING, or where none is connected the encoded text; without a CLIP, a sentence as ValueError."""
    if conditioning is not None:
        return conditioning
    if clip is None:
        raise ValueError(
            f"{name} is not connected: connect a CLIP Text Encode node, or CLIP alone for "
            + (f"the prompt '{text}'." if text else "an empty prompt.")
        )
    return encode(clip, text)


def conditionings(model, positive, negative, clip, cfg: float, technique: str, text: str = "") -> dict[str, list]:
    """The prompts that a guided run needs, by name; ValueError with a sentence where one is missing.

    An open prompt is encoded with CLIP: a positive as `text`, a negative as the empty prompt. At CFG 1 no
    negative is needed. technique: the node, for the sentence.
    """
    conds = {"positive": connected_or_encoded(positive, clip, "The positive prompt", text)}
    if cfg != 1.0:
        require_unconditional(model, f"{technique} at CFG {cfg:g}")
        conds["negative"] = connected_or_encoded(negative, clip, "The negative prompt, needed where CFG is not 1,")
    elif negative is not None:
        conds["negative"] = negative  # patches may ask for it even then
    return conds


def text_behind(prompt: Mapping | None, node: str | None, name: str) -> str:
    """The text that an input's CONDITIONING was encoded from, as far as the graph tells; "" where it does not.

    prompt: the host's hidden `prompt`; node: the id of the node whose input `name` is meant. Nodes that only pass a
    conditioning on, such as ControlNets, are followed.
    """
    prompt = prompt or {}
    for _ in range(MAX_DEPTH):
        link = (prompt.get(str(node)) or {}).get("inputs", {}).get(name)
        if not isinstance(link, list) or len(link) != 2:
            return ""
        node = str(link[0])
        inputs = (prompt.get(node) or {}).get("inputs", {})
        text = inputs.get("text")
        if isinstance(text, str):
            return text
        if isinstance(text, list):
            return _literal(prompt, text)
        # A node with a positive and a negative side gives them out in that order.
        sides = ["negative"] if int(link[1]) == 1 and "negative" in inputs else []
        keys = [*sides, "conditioning", "positive", "cond", "conditioning_1"]
        name = next((key for key in keys if key in inputs), "")
    return ""


def _literal(prompt: Mapping, link: list) -> str:
    """The string that a text widget's link leads to, where it comes from a node that merely holds it."""
    inputs = (prompt.get(str(link[0])) or {}).get("inputs", {})
    texts = [value for value in inputs.values() if isinstance(value, str)]
    return texts[0] if len(texts) == 1 else ""
