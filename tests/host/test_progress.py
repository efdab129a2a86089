"""Progress, latent previews and interruption, in plain runs and under gradients."""

import comfy.cli_args
import comfy.model_management
import comfy.utils
import pytest
import torch
from comfy.cli_args import LatentPreviewMethod
from palimpsest.host.progress import Progress, as_picture, check_interrupt
from palimpsest.host.session import with_denoiser
from PIL import Image

from ..tiny_models import tiny_cond, tiny_latent, tiny_model

SIGMAS = torch.tensor([0.8, 0.4, 0.0])


@pytest.fixture
def updates():
    """What the host's progress hook gets: (value, total, preview)."""
    seen, before = [], comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: seen.append((value, preview)))
    yield seen
    comfy.utils.set_progress_bar_global_hook(before)


@pytest.mark.parametrize("gradients", [False, True])
def test_steps_and_latent_previews_reach_the_host(updates, monkeypatch, gradients):
    monkeypatch.setattr(comfy.cli_args.args, "preview_method", LatentPreviewMethod.Latent2RGB)
    with torch.inference_mode():
        model = tiny_model("sd1")

        def body(session):
            x = session.latent.clone().requires_grad_(gradients)
            for i in range(2):
                session.report(i, 2, session.denoise(x, 0.8), x)
            session.report(1, 2)

        with_denoiser(model, {"positive": tiny_cond("sd1")}, tiny_latent("sd1"), SIGMAS, body, gradients=gradients)
    assert [value for value, _ in updates] == [1, 2, 2]
    (kind, picture, _), shown = updates[0][1], [preview for _, preview in updates]
    assert kind == "JPEG" and isinstance(picture, Image.Image) and picture.size == (8, 8)
    assert shown[1] is not None and shown[2] is None


def test_pictures_of_the_nodes_own_progress(updates):
    progress = Progress(2)
    progress.step(0, torch.full((1, 4, 6, 3), 0.5))
    progress.step(1, torch.zeros(4, 6, 1))
    assert [value for value, _ in updates] == [1, 2]
    assert updates[0][1][1].size == (6, 4) and updates[0][1][1].getpixel((0, 0)) == (128, 128, 128)
    assert as_picture(torch.full((4, 6, 1), 2.0)).getpixel((0, 0)) == 255


def test_interruption_is_raised_and_taken_back():
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        check_interrupt()
    check_interrupt()


def test_interruption_inside_a_loop_cleans_up():
    with torch.inference_mode():
        model, latent, conds = tiny_model("sd1"), tiny_latent("sd1"), {"positive": tiny_cond("sd1")}
        plain = with_denoiser(model, conds, latent, SIGMAS, lambda s: s.denoise(s.latent, 0.8))

        def body(session):
            comfy.model_management.interrupt_current_processing(True)
            session.report(0, 2)

        for gradients in (False, True):
            with pytest.raises(comfy.model_management.InterruptProcessingException):
                with_denoiser(model, conds, latent, SIGMAS, body, gradients=gradients)
            assert not comfy.model_management.in_training and torch.is_inference_mode_enabled()
            assert torch.equal(with_denoiser(model, conds, latent, SIGMAS, lambda s: s.denoise(s.latent, 0.8)), plain)
