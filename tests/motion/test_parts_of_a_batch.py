"""A batch that does not fit goes through the sampler in parts, which come out as the whole would."""

import pytest
import torch
from palimpsest.host.motion.decode import DifferentiableVAE
from palimpsest.host.motion.networks import Tools
from palimpsest.host.motion.sampler import FlowGuidanceSampler

from ..tiny_models import tiny_latent, tiny_model, tiny_vae
from .test_motion_host import FAST, motion, sample


@torch.inference_mode()
@pytest.mark.xfail(strict=True, reason="a batch that does not fit is an error, not cut into parts")
def test_a_part_that_does_not_fit_after_all_is_halved_and_what_is_done_stays(monkeypatch):
    model, vae, decode = tiny_model("sd1"), tiny_vae(), DifferentiableVAE.decode

    def short(self, latent):
        if latent.shape[0] > 1:
            raise torch.OutOfMemoryError("out of memory")
        return decode(self, latent)

    monkeypatch.setattr(DifferentiableVAE, "decode", short)
    sampler = FlowGuidanceSampler(motion(), Tools(vae), FAST)
    assert sample(model, sampler, tiny_latent("sd1", batch=3)).shape[0] == 3
