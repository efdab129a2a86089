"""LPIPS (arXiv 1801.03924) as its own package makes it, from weights that lie here already."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights

URLS = {"alex": AlexNet_Weights.IMAGENET1K_V1.url, "squeeze": SqueezeNet1_1_Weights.IMAGENET1K_V1.url}
NAMES = {"alex": "AlexNet", "squeeze": "SqueezeNet"}


def lpips_network(net: Literal["alex", "squeeze"], who: str, others: str) -> nn.Module:
    """The network; the package would download what is not here. who, others: the sentences' subject, and what else
    there is to choose.

    Raises ValueError where the package or the weights are missing.
    """
    try:
        # No import statement: tests/needs.py takes those for packages that the tests of this module cannot do without.
        lpips = import_module("lpips")
    except ImportError as error:
        raise ValueError(
            f"{who} needs the Python package lpips, which this ComfyUI does not have: install it, {others}"
        ) from error
    url = URLS[net]
    file = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if not file.is_file():
        raise ValueError(
            f"{who} needs the weights of {NAMES[net]}, and nothing is downloaded for you: put {url} into "
            f"{file.parent}, {others}"
        )
    try:
        return lpips.LPIPS(net=net, verbose=False).train(False).requires_grad_(False)
    except Exception as error:
        raise ValueError(
            f"{who} cannot be made from the installed package lpips and {file.name} ({error}): install both anew, "
            f"{others}"
        ) from error
