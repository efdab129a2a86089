"""A sentence for the artist that stops nothing: in the log, and as text on the node that runs."""

from __future__ import annotations

import logging
import sys

from comfy_execution.utils import get_executing_context

log = logging.getLogger(__name__)


def notice(sentence: str) -> None:
    log.warning(sentence)
    # Without a server (scripts, tests in one process) there is no node to write on.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    context = get_executing_context()
    if server is not None and context is not None:
        server.send_progress_text(sentence, context.node_id)
