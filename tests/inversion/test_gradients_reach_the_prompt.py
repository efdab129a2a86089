"""What cuts the gradient to the text gets a sentence, not PyTorch's own words."""

import pytest
import torch
from comfy.patcher_extension import WrappersMP

from .test_null_text_host import fit, prepared


def tiled(executor, x, t, *args, **kwargs):
    """As tiled diffusion does it: parts of the picture, each written into a buffer without gradients."""
    with torch.no_grad():
        return executor(x, t, *args, **kwargs).clone()


@pytest.mark.parametrize("mode", ["fast", "faithful", "global"])
def test_a_model_in_tiles_is_named(mode):
    model, _, trajectory = prepared("sd1")
    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "tiles", tiled)
    with pytest.raises(ValueError, match="tiles"):
        fit(patched, "sd1", trajectory, mode)
