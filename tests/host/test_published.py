"""A run with a published preset says where it samples otherwise than the paper."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from palimpsest.nodes.inversion_null_text import ProximalGuidance

from ..tiny_models import tiny_cond, tiny_latent, tiny_model


@pytest.mark.parametrize(
    ("preset", "cfg", "steps", "said"),
    [
        ("as published", 4.0, 3, "Proximal Guidance, published: CFG 7.5, 50 steps; this run: CFG 4, 3 steps."),
        ("as published", 7.5, 50, ""),
        ("as set", 4.0, 3, ""),
        ("our defaults", 4.0, 3, ""),
    ],
)
def test_cfg_and_steps_of_the_paper_stand_beside_the_runs(caplog, preset, cfg, steps, said):
    with torch.inference_mode():
        model = ProximalGuidance.execute(tiny_model("sd1"), preset=preset).args[0]
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
        latent = tiny_latent("sd1", size=(4, 4))
        comfy.sample.sample_custom(
            model,
            torch.zeros_like(latent),
            cfg,
            comfy.samplers.sampler_object("euler"),
            sigmas,
            tiny_cond("sd1"),
            tiny_cond("sd1", seed=2),
            latent,
            disable_pbar=True,
            seed=0,
        )
    assert [record.message for record in caplog.records if "published" in record.message] == [said] * bool(said)
