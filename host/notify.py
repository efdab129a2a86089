"""A sentence for the artist that stops nothing: in the log, and as text on the node that runs."""

from __future__ import annotations

import logging
import sys

from comfy_execution.utils import get_executing_context

log = logging.getLogger(__name__)


# What each node of the running prompt has said: the front end shows a node's last text alone.
_said: dict[tuple[str, str], list[str]] = {}


def notify(sentence: str) -> None:
    """Each sentence once on a node in a run, below what the node has said before."""
    log.warning(sentence)
    # Without a server (scripts, tests in one process) there is no node to write on.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    context = get_executing_context()
    if server is not None and context is not None:
        server.send_progress_text("\n".join(_with(context, sentence)), context.node_id)


def _with(context, sentence: str) -> list[str]:
    """All that the node has said in this prompt, the new sentence last; earlier prompts are forgotten."""
    key = (context.prompt_id, context.node_id)
    for old in [one for one in _said if one[0] != context.prompt_id]:
        del _said[old]
    said = _said.setdefault(key, [])
    if sentence not in said:
        said.append(sentence)
    return said
