"""Nodes for tests alone: tiny random models, and loops of the pack's host room, in a real ComfyUI.

Linked into the custom_nodes of the tests' host; the models come into being there under inference mode, as those of
the host's loaders do.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import comfy.model_management
import comfy.sample
import execution
import torch
from comfy_api.latest import ComfyExtension, io, ui

sys.path.append(str(Path(__file__).resolve().parents[2] / ".host" / "packages"))

from palimpsest.host.fingerprint import fingerprint
from palimpsest.host.gradients import gradients_through, plain
from palimpsest.host.motion.decode import DifferentiableVAE
from palimpsest.host.session import Session, with_denoiser
from palimpsest.host.validation import require_picture, require_same_batch, require_same_size, require_vae_of
from palimpsest.tests import narrow_models, tiny_models as tiny
from palimpsest.tests.host.finite_difference import extrapolated
from palimpsest.tests.portability import PERTURBED, Perturb

CATEGORY = "palimpsest/tests"
SEED = os.environ.get(PERTURBED)
EXECUTE = execution.PromptExecutor.execute


def execute_perturbed(*arguments, **named):
    """A prompt with the rounding of another CPU: `--perturb` reaches the host's own thread."""
    with Perturb(int(SEED)).mode():
        return EXECUTE(*arguments, **named)


if SEED is not None:
    execution.PromptExecutor.execute = execute_perturbed


def schema(name: str, inputs: list, outputs: list, **more) -> io.Schema:
    return io.Schema(node_id=name, display_name=name, category=CATEGORY, inputs=inputs, outputs=outputs, **more)


def family() -> io.Combo.Input:
    return io.Combo.Input("family", options=list(tiny.FAMILIES))


def seed() -> io.Int.Input:
    return io.Int.Input("seed", default=0, min=0, max=2**31)


class TestTinyModel(io.ComfyNode):
    """A tiny random MODEL and the VAE that fits it. half: weights in half precision; damaged: all that it gives out is
    no number."""

    @classmethod
    def define_schema(cls):
        state = io.Combo.Input("state", options=["whole", "half", "damaged"], default="whole", optional=True)
        return schema("TestTinyModel", [family(), seed(), state], [io.Model.Output(), io.Vae.Output()])

    @classmethod
    def execute(cls, family, seed, state="whole"):
        model = tiny.tiny_model(family, seed, dtype=torch.float16 if state == "half" else torch.float32)
        if state == "damaged":
            next(model.model.diffusion_model.parameters()).fill_(float("nan"))
        return io.NodeOutput(model, tiny.tiny_vae(tiny.CHANNELS[family], seed))


class TestTinyConditioning(io.ComfyNode):
    """A CONDITIONING of `batch` rows."""

    @classmethod
    def define_schema(cls):
        batch = io.Int.Input("batch", default=1, min=1, max=8)
        return schema("TestTinyConditioning", [family(), seed(), batch], [io.Conditioning.Output()])

    @classmethod
    def execute(cls, family, seed, batch):
        return io.NodeOutput(tiny.tiny_cond(family, batch, seed))


class TestTinyLatent(io.ComfyNode):
    """A LATENT like a picture's."""

    @classmethod
    def define_schema(cls):
        batch = io.Int.Input("batch", default=1, min=1, max=8)
        size = io.Int.Input("size", default=8, min=4, max=64)
        return schema("TestTinyLatent", [family(), seed(), batch, size], [io.Latent.Output()])

    @classmethod
    def execute(cls, family, seed, batch, size):
        return io.NodeOutput({"samples": tiny.tiny_latent(family, batch, (size, size), seed)})


def run_inputs() -> list:
    return [
        io.Model.Input("model"), io.Conditioning.Input("positive"), io.Conditioning.Input("negative"),
        io.Latent.Input("latent"), io.Sigmas.Input("sigmas"), io.Float.Input("cfg", default=1.0, min=0.0, max=30.0),
    ]  # fmt: skip


class TestEuler(io.ComfyNode):
    """The stock Euler sampler as a loop of ours: the same noise, the same formula, in the same order."""

    @classmethod
    def define_schema(cls):
        inputs = [*run_inputs(), seed(), io.Boolean.Input("gradients", default=False)]
        inputs.append(io.Float.Input("pause", default=0.0, min=0.0, max=10.0))
        return schema("TestEuler", inputs, [io.Latent.Output()])

    @classmethod
    def execute(cls, model, positive, negative, latent, sigmas, cfg, seed, gradients, pause):
        samples = latent["samples"]
        noise = comfy.sample.prepare_noise(samples, seed)

        def body(session: Session):
            levels, sampling = session.sigmas, session.model.model_sampling
            x = sampling.noise_scaling(levels[0], plain(noise).to(session.device), session.latent, pause < 0)
            for i in range(len(levels) - 1):
                x0 = session.guided(x.requires_grad_(gradients), levels[i])
                x = (x + (x - x0) / levels[i] * (levels[i + 1] - levels[i])).detach()
                session.report(i, len(levels) - 1, x0, x)
                time.sleep(pause)
            return session.to_raw(sampling.inverse_noise_scaling(levels[-1], x))

        conds = {"positive": positive, "negative": negative}
        result = with_denoiser(
            model,
            conds,
            samples,
            sigmas,
            body,
            cfg=cfg,
            gradients=gradients,
            seed=seed,
            noise_mask=latent.get("noise_mask"),
        )
        return io.NodeOutput({**latent, "samples": result})


def both_gradients(model, conds: dict, samples: torch.Tensor, sigmas: torch.Tensor, cfg: float) -> dict:
    """Finite difference and gradient of |x0 - target|^2 along the gradient's own direction, at the first level."""
    generator = torch.Generator().manual_seed(5)
    x, target = (torch.randn(samples.shape, generator=generator) for _ in range(2))

    def by_gradient(session: Session):
        leaf = plain(x).clone().requires_grad_(True)
        loss = ((session.guided(leaf, session.sigmas[0]) - plain(target)) ** 2).sum()
        return torch.autograd.grad(loss, leaf)[0]

    def change(session: Session, size: float):
        step = size * gradient / gradient.norm() * x.norm()
        above, below = (session.guided(x + sign * step, session.sigmas[0]).double() for sign in (1, -1))
        return ((above - below) * (above + below - 2 * target)).sum() / (2 * step.norm())

    by_difference = lambda session: extrapolated(lambda size: change(session, size), 5e-3)
    gradient = with_denoiser(model, conds, samples, sigmas, by_gradient, cfg=cfg, gradients=True)
    difference = with_denoiser(model, conds, samples, sigmas, by_difference, cfg=cfg)
    return {"gradient": float(gradient.norm()), "difference": float(difference), "sum": float(gradient.double().sum())}


class TestGradient(io.ComfyNode):
    """Shows, as JSON, the gradient through the model and its finite difference."""

    @classmethod
    def define_schema(cls):
        return schema("TestGradient", run_inputs(), [], is_output_node=True, not_idempotent=True)

    @classmethod
    def execute(cls, model, positive, negative, latent, sigmas, cfg):
        found = both_gradients(model, {"positive": positive, "negative": negative}, latent["samples"], sigmas, cfg)
        found["inference"] = sum(weight.is_inference() for weight in model.model.parameters())
        return io.NodeOutput(ui=ui.PreviewText(json.dumps(found)))


class TestDecodeGradient(io.ComfyNode):
    """Shows, as JSON, the gradient through the VAE's decoder and its finite difference."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Vae.Input("vae"), io.Model.Input("model"), io.Latent.Input("latent")]
        return schema("TestDecodeGradient", inputs, [], is_output_node=True)

    @classmethod
    def execute(cls, vae, model, latent):
        samples = latent["samples"]
        fresh = all(weight.is_inference() for weight in vae.first_stage_model.parameters())
        comfy.model_management.load_models_gpu([vae.patcher])
        network = DifferentiableVAE(vae, model.get_model_object("latent_format"))
        with gradients_through([vae.patcher]):
            leaf = plain(samples).clone().requires_grad_(True)
            picture = network.decode(leaf)
            gradient = torch.autograd.grad((picture**2).sum(), leaf)[0]
            asked = any(weight.requires_grad for weight in vae.first_stage_model.parameters())

        def change(size: float):
            step = size * gradient / gradient.norm() * samples.norm()
            above, below = (network.decode(samples + sign * step).double() for sign in (1, -1))
            return ((above - below) * (above + below)).sum() / (2 * step.norm())

        with gradients_through([vae.patcher]), torch.no_grad():
            difference = extrapolated(change, 5e-3)
        found = {"gradient": float(gradient.norm()), "difference": float(difference), "asked": asked, "fresh": fresh}
        return io.NodeOutput(ui=ui.PreviewText(json.dumps(found)))


BROKEN = {
    "nan": lambda good: torch.where(torch.arange(good.shape[-1]) == 2, float("nan"), good),
    "infinite": lambda good: good / torch.zeros(1),
    "channels": lambda good: good[:, :3],
    "video": lambda good: good[:, :, None],
    "no rows": lambda good: good[:0],
}


class TestBroken(io.ComfyNode):
    """A LATENT with a fault, and a CONDITIONING without entries."""

    @classmethod
    def define_schema(cls):
        fault = io.Combo.Input("fault", options=list(BROKEN))
        return schema("TestBroken", [family(), fault], [io.Latent.Output(), io.Conditioning.Output()])

    @classmethod
    def execute(cls, family, fault):
        return io.NodeOutput({"samples": BROKEN[fault](tiny.tiny_latent(family, 2))}, [])


class TestChecks(io.ComfyNode):
    """The checks of pictures and batches, as nodes make them before any work."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Image.Input("image"), io.Image.Input("other"), io.Model.Input("model", optional=True)]
        inputs.append(io.Vae.Input("vae", optional=True))
        return schema("TestChecks", inputs, [], is_output_node=True)

    @classmethod
    def execute(cls, image, other, model=None, vae=None):
        require_picture(image, "The picture")
        require_same_batch(image, other, "The picture", "The other picture")
        require_same_size(image, other, "The picture", "The other picture")
        if model is not None:
            require_vae_of(model, vae)
        return io.NodeOutput(ui=ui.PreviewText("good"))


class TestFingerprint(io.ComfyNode):
    """Shows the MODEL's fingerprint."""

    @classmethod
    def define_schema(cls):
        return schema("TestFingerprint", [io.Model.Input("model")], [], is_output_node=True, not_idempotent=True)

    @classmethod
    def execute(cls, model):
        return io.NodeOutput(ui=ui.PreviewText(fingerprint(model)))


class TestExtension(ComfyExtension):
    async def on_load(self) -> None:
        narrow_models.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            TestTinyModel, TestTinyConditioning, TestTinyLatent, TestEuler, TestGradient, TestDecodeGradient,
            TestBroken, TestChecks, TestFingerprint,
        ]  # fmt: skip


async def comfy_entrypoint():
    return TestExtension()
