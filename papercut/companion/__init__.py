"""Companion of the Papercut model: lets ComfyUI's stock Load Checkpoint node read `papercut.safetensors`.

Link this folder into `custom_nodes/`; the demo and the tests do so. It adds no node.
"""


async def comfy_entrypoint():
    """Called once by ComfyUI at start-up."""
    from comfy_api.latest import ComfyExtension

    from .model import register

    class PapercutCompanion(ComfyExtension):
        async def on_load(self) -> None:
            register()

        async def get_node_list(self) -> list:
            return []

    return PapercutCompanion()
