"""Makes the host of a test say that it is an older one, before it loads any pack."""

import comfyui_version

comfyui_version.__version__ = "0.29.3"
