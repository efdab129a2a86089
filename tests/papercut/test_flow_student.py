"""Papercut-DiT's few-step student: what it learns, its file in the host's Load LoRA, and its training."""

import torch
from palimpsest.papercut.flow_transformer import levels, velocity
from palimpsest.papercut.flow_transformer_export import write
from palimpsest.papercut.train_flow_student import Recipe, Student, intervals, lora_state, walk, with_lora

from tests.papercut.test_flow_transformer import SMALL, host_flux, inputs, random_transformer


def texts(batch):
    torch.manual_seed(2)
    return torch.randn(2 * batch, 7, 192), torch.randn(2 * batch, 192)


def student(path, **recipe):
    return Student(path, random_transformer(), random_transformer(), Recipe(rank=2, **recipe), shift=4.0, stride=1)


def test_the_teacher_walks_from_one_level_of_the_students_grid_to_the_next():
    torch.manual_seed(0)
    ends = {few: levels(few, 4.0) for few in (4, 8)}
    seen = set()
    for _ in range(20):
        found = intervals(6, Recipe(), 4.0)
        few = 24 // (found.shape[1] - 1)
        seen.add(few)
        for row in found:
            at = (ends[few] - row[0]).abs().argmin()
            torch.testing.assert_close(row[[0, -1]], ends[few][at : at + 2])
    assert seen == {4, 8}


@torch.no_grad()
def test_an_untrained_lora_changes_nothing():
    x, sigma, text, pooled = inputs()
    before = velocity(random_transformer(), x, sigma, text, pooled)
    assert torch.equal(velocity(with_lora(random_transformer(), 2), x, sigma, text, pooled), before)


def test_a_walk_of_one_step_without_guidance_is_the_models_own_euler_step():
    x, _, _, _ = inputs()
    sigmas, both = torch.tensor([[0.9, 0.7], [0.5, 0.1]]), texts(2)
    model = random_transformer().double()
    x, both = x.double(), tuple(part.double() for part in both)
    with torch.no_grad():
        own = velocity(model, x, sigmas[:, 0].double(), both[0][2:], both[1][2:])
    step = (sigmas[:, 1] - sigmas[:, 0]).double()[:, None, None, None]
    found = walk(model, x, sigmas.double(), both, 1.0, 1)
    # The network answers in the machine's fast type; the steps are its own.
    torch.testing.assert_close((found - x) / step, own.float().double(), rtol=0.1, atol=0.1)


def test_training_changes_the_lora_alone_and_goes_on_where_it_stopped(tmp_path):
    torch.manual_seed(0)
    latents, both = torch.randn(2, 16, 8, 8), texts(2)
    whole, part = student(tmp_path / "whole.pt"), student(tmp_path / "part.pt")
    plain = {key: value.clone() for key, value in whole.teacher.state_dict().items()}
    for run in (whole, part):
        torch.manual_seed(1)
        run.update(latents, both)
    part.save()
    again = student(tmp_path / "part.pt")
    again.resume()
    for run in (whole, again):
        torch.manual_seed(2)
        run.update(latents, both)
    assert again.step == whole.step == 2
    first, second = lora_state(whole.model), lora_state(again.model)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(value.abs().sum() > 0 for key, value in first.items() if "lora_B" in key)
    after = whole.model.state_dict()
    for key, value in plain.items():
        names = [k for k in after if k.replace(".base_layer", "") == key]
        assert len(names) == 1 and torch.equal(after[names[0]], value)


@torch.no_grad()
def test_the_hosts_load_lora_gives_the_students_velocity(tmp_path):
    """Every matrix of the file finds its place, and the patched weights are the student's."""
    import comfy.lora
    import comfy.utils
    from comfy.model_base import Flux

    model = random_transformer()
    learner = with_lora(random_transformer(), 2)
    torch.manual_seed(3)
    for name, weight in learner.named_parameters():
        if "lora_" in name:
            weight.copy_(0.1 * torch.randn_like(weight))
    path = write(lora_state(learner), tmp_path / "student.safetensors", "test")
    flux = host_flux(model)
    holder = _holder(Flux, flux)
    keys = comfy.lora.model_lora_keys_unet(holder, {})
    loaded = comfy.lora.load_lora(comfy.utils.load_torch_file(str(path)), keys)
    assert sum(1 for _ in loaded) == len(lora_state(learner)) // 2
    weights = flux.state_dict()
    for key, patch in loaded.items():
        name, place = (key, None) if isinstance(key, str) else key[:2]
        name = name.removeprefix("diffusion_model.")
        target = weights[name] if place is None else weights[name].narrow(*place)
        change = comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], target.clone(), name)
        target.copy_(change)
    flux.load_state_dict(weights)
    x, sigma, text, pooled = inputs()
    torch.testing.assert_close(
        flux(x, sigma, text.clone(), y=pooled), velocity(learner, x, sigma, text, pooled), rtol=5e-3, atol=5e-3
    )


def _holder(kind, flux):
    """As much of the host's model as its table of LoRA names asks for."""
    holder = kind.__new__(kind)
    torch.nn.Module.__init__(holder)
    holder.diffusion_model = flux
    holder.model_config = type("Config", (), {"unet_config": SMALL.host()})
    return holder
