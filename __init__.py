"""Palimpsest: edit the pictures you already have with the diffusion model that is already loaded."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called once by ComfyUI at start-up; returns the extension that lists the nodes."""
    import logging

    try:
        from .host.version import require_host, require_packages

        require_host()
        require_packages()
        from .nodes import PalimpsestExtension
    except Exception:
        # The host logs only the message of an entrypoint's error; whoever has to mend it needs the place too.
        logging.getLogger(__name__).exception("Palimpsest could not be loaded.")
        raise
    return PalimpsestExtension()
