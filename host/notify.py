"""A sentence for the artist that stops nothing: in the log, and on the node that runs (web/warnings.js shows it)."""

from __future__ import annotations

import logging
import sys

from comfy_execution.utils import get_executing_context

log = logging.getLogger(__name__)


def notify(sentence: str) -> None:
    """Shown below what the node has said in this run, each sentence once. Nothing is kept here after the call."""
    log.warning(sentence)
    # Without a server (scripts, tests in one process) there is no node to write on, without a client no browser.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    context = get_executing_context()
    if context is None or getattr(server, "client_id", None) is None:
        return
    message = {"node": str(context.node_id), "prompt": context.prompt_id, "text": sentence}
    server.send_sync("palimpsest.warning", message, server.client_id)
