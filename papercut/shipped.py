"""The shipped checkpoint in the host, as its Load Checkpoint node gives it."""

from __future__ import annotations

from .networks import FILE


def load_shipped() -> tuple[object, object, object]:
    """MODEL, CLIP and VAE; the host must have been entered."""
    import comfy.sd

    from .companion.model import register

    register()
    return comfy.sd.load_checkpoint_guess_config(str(FILE))[:3]
