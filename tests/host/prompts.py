"""Prompts for the tests' host: a tiny model of a family, what is attached to it, and what runs it."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import load

SIGMAS = "14.6, 8.0, 4.0, 2.0, 1.0, 0.5, 0.0"
FLOW_SIGMAS = "1.0, 0.8, 0.6, 0.4, 0.2, 0.0"


class Graph:
    """A prompt under construction: `graph.add("KSampler", model=[...], ...)` returns the new node's id."""

    def __init__(self):
        self.nodes: dict[str, dict] = {}

    def add(self, kind: str, **inputs: Any) -> str:
        key = str(len(self.nodes) + 1)
        self.nodes[key] = {"class_type": kind, "inputs": inputs}
        return key


class Scene(Graph):
    """A tiny model with two prompts, a latent and a schedule; `model`, `positive`, ... are links to be replaced."""

    def __init__(self, family: str, *, batch: int = 2, file: str | None = None, seed: int = 0, state: str = "whole"):
        super().__init__()
        made = self.add("TestTinyModel", family=family, seed=seed, state=state)
        self.model, self.vae = [made, 0], [made, 1]
        if file:
            self.model = [self.add("UNETLoader", unet_name=file, weight_dtype="default"), 0]
        self.positive = [self.add("TestTinyConditioning", family=family, seed=0, batch=1), 0]
        self.negative = [self.add("TestTinyConditioning", family=family, seed=1, batch=1), 0]
        self.latent = [self.add("TestTinyLatent", family=family, seed=0, batch=batch, size=8), 0]
        levels = FLOW_SIGMAS if family in ("sd3", "flux") else SIGMAS
        self.sigmas = [self.add("ManualSigmas", sigmas=levels), 0]

    def euler(self, cfg: float = 3.0, *, gradients: bool = False, pause: float = 0.0) -> str:
        """Our loop; returns the id of the node that saves its latent."""
        node = self.add(
            "TestEuler",
            model=self.model,
            positive=self.positive,
            negative=self.negative,
            latent=self.latent,
            sigmas=self.sigmas,
            cfg=cfg,
            seed=3,
            gradients=gradients,
            pause=pause,
        )
        return self.save([node, 0])

    def stock(self, cfg: float = 3.0) -> str:
        """The host's own Euler; returns the id of the node that saves its latent."""
        sampler = self.add("KSamplerSelect", sampler_name="euler")
        node = self.add(
            "SamplerCustom",
            model=self.model,
            add_noise=True,
            noise_seed=3,
            cfg=cfg,
            positive=self.positive,
            negative=self.negative,
            sampler=[sampler, 0],
            sigmas=self.sigmas,
            latent_image=self.latent,
        )
        return self.save([node, 0])

    def gradient(self, cfg: float = 3.0) -> str:
        levels = [self.add("ManualSigmas", sigmas="0.7, 0.0"), 0]
        return self.add(
            "TestGradient",
            model=self.model,
            positive=self.positive,
            negative=self.negative,
            latent=self.latent,
            sigmas=levels,
            cfg=cfg,
        )

    def save(self, link: list) -> str:
        return self.add("SaveLatent", samples=link, filename_prefix="host-room")


def run(client, graph: Graph, **options: Any):
    """The result of a prompt that must succeed."""
    result = client.run(graph.nodes, **options)
    assert result.status == "success", result.error
    return result


def latent(client, result, node: str) -> torch.Tensor:
    (file,) = result.files(node)
    return load(client.view(file))["latent_tensor"]


def reported(result, node: str) -> dict:
    (text,) = result.texts(node)
    return json.loads(text)
