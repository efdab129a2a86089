"""Says at load whether the host is one that the pack can live in, and brings the packages that it needs."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec

OLDEST = (0, 30, 0)

# Module and attribute: what the pack builds on, in the words of the host.
NEEDED = (
    ("comfy_api.latest", "ComfyExtension"),
    ("comfy.samplers", "CFGGuider"),
    ("comfy.samplers", "calc_cond_batch"),
    ("comfy.patcher_extension", "WrappersMP"),
    ("comfy.weight_adapter", "BypassInjectionManager"),
    ("comfy.model_management", "load_models_gpu"),
    ("latent_preview", "get_previewer"),
)

# What the host's requirements call not essential, so that an installation may lack it.
PACKAGES = ("kornia",)


def parse(version: str) -> tuple[int, int, int]:
    """The first three numbers of a version ("0.30.1rc2" -> (0, 30, 1)); missing ones count as 0."""
    numbers = [int(found) for found in re.findall(r"\d+", version)[:3]]
    return tuple(([*numbers, 0, 0, 0])[:3])


def running_version() -> str:
    """The host's own version, "" where it has none."""
    try:
        import comfyui_version
    except ImportError:
        return ""
    return str(getattr(comfyui_version, "__version__", ""))


def too_old(version: str, oldest: tuple[int, int, int] = OLDEST) -> str:
    """A sentence where `version` lies below the oldest host that the pack supports, else ""."""
    if not version or parse(version) >= oldest:
        return ""
    wanted = ".".join(str(number) for number in oldest)
    return f"Palimpsest needs ComfyUI {wanted} or newer and found {version}: update ComfyUI and start it again."


def missing_parts(needed: tuple[tuple[str, str], ...] = NEEDED) -> list[str]:
    """The names among `needed` (module, attribute) that the running host lacks."""
    from importlib import import_module

    missing = []
    for module, attribute in needed:
        try:
            found = hasattr(import_module(module), attribute)
        except ImportError:
            found = False
        if not found:
            missing.append(f"{module}.{attribute}")
    return missing


def require_host() -> None:
    """Raises RuntimeError with one sentence where the host is too old, or lacks a part that the pack builds on."""
    sentence = too_old(running_version())
    if sentence:
        raise RuntimeError(sentence)
    missing = missing_parts()
    if missing:
        raise RuntimeError(
            f"Palimpsest builds on parts that this ComfyUI {running_version()} lacks ({', '.join(missing)}): "
            "update ComfyUI and Palimpsest and start it again."
        )


def require_packages(packages: tuple[str, ...] = PACKAGES) -> None:
    """Raises RuntimeError with one sentence that names the command where a package is not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise RuntimeError(
            f"Palimpsest needs {' and '.join(missing)}, which ComfyUI's requirements list: run "
            f"'{sys.executable} -m pip install {' '.join(missing)}' and start ComfyUI again."
        )
