"""The nodes of the pack: every `nodes/<technique>.py` lists its classes in a tuple `NODES`."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path

try:
    from comfy_api.latest import ComfyExtension, io
except ImportError as error:
    raise ImportError("Palimpsest needs ComfyUI 0.30 or newer: update ComfyUI and start it again.") from error

FOLDER = Path(__file__).parent
MODULES = tuple(sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")))


def collect_nodes() -> list[type[io.ComfyNode]]:
    """All node classes, with checked inputs, in the order of the files; an error in any file is raised.

    A file without `NODES` is a helper of its neighbours (the custom sockets, for example).
    """
    from ._checked import checked

    modules = [import_module(f".{name}", __package__) for name in MODULES]
    return [checked(node) for module in modules for node in getattr(module, "NODES", ())]


class PalimpsestExtension(ComfyExtension):
    async def on_load(self) -> None:
        from ..host import folders

        folders.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        nodes = collect_nodes()
        for node in nodes:
            try:
                node.GET_SCHEMA()
            except Exception:
                # The host logs the message alone; this says which node, and where.
                logging.getLogger(__name__).exception("The schema of %s is not valid.", node.__name__)
                raise
        return nodes
