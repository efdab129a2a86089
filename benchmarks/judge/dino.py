"""The structure distance of PIE-Bench: DINO's ViT-B/8 (arXiv 2104.14294), keys of its last layer.

Reads the authors' file (dino_vitbase8_pretrain.pth) and the one of the transformers library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ...guidance.edit_measures import structure_distance
from ...tools.steps import Problem

SIDE, HEAD = 224, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Names of the transformers library -> the authors' own.
RENAMED = (
    (r"^(vit|dino|module|backbone)\.", ""), (r"^embeddings\.cls_token", "cls_token"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"), (r"^(encoder\.layer|layers)\.", "blocks."),
    ("layernorm_before", "norm1"), ("layernorm_after", "norm2"), (r"attention\.output\.dense", "attn.proj"),
    (r"attention\.attention\.(query|key|value)", r"attn.\1"),
    (r"attention\.o_proj", "attn.proj"), (r"attention\.q_proj", "attn.query"), (r"attention\.k_proj", "attn.key"),
    (r"attention\.v_proj", "attn.value"), (r"intermediate\.dense", "mlp.fc1"),
    (r"\.output\.dense", ".mlp.fc2"),
)  # fmt: skip
NEEDED = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")


class Dino:
    """The network as far as the last layer's keys."""

    def __init__(self, weights: Mapping[str, Tensor]):
        """weights: by the authors' names, see `read_weights`."""
        self.weights = weights
        self.patch = weights["patch_embed.proj.weight"].shape[-1]
        self.layers = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))

    def keys(self, pictures: Tensor) -> Tensor:
        """(B, 3, 224, 224), normalised -> (B, N, D), the whole picture's token first."""
        w = self.weights
        x = F.conv2d(pictures, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=self.patch)
        x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1) + w["pos_embed"]
        for layer in range(self.layers - 1):
            x = self._block(x, layer)
        return self._qkv(x, self.layers - 1)[1]

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _normed(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], 1e-6)

    def _qkv(self, x: Tensor, layer: int) -> tuple[Tensor, ...]:
        return self._linear(self._normed(x, f"blocks.{layer}.norm1"), f"blocks.{layer}.attn.qkv").chunk(3, -1)

    def _block(self, x: Tensor, layer: int) -> Tensor:
        split = lambda part: part.unflatten(-1, (-1, HEAD)).transpose(1, 2)
        seen = F.scaled_dot_product_attention(*map(split, self._qkv(x, layer)))
        x = x + self._linear(seen.transpose(1, 2).flatten(2), f"blocks.{layer}.attn.proj")
        hidden = F.gelu(self._linear(self._normed(x, f"blocks.{layer}.norm2"), f"blocks.{layer}.mlp.fc1"))
        return x + self._linear(hidden, f"blocks.{layer}.mlp.fc2")

    def distances(self, source: Tensor, edit: Tensor) -> dict[str, float]:
        """Pictures (H, W, 3) in 0..1. "structure" is the published number, whose code gives the network values of
        0..255 where it was taught those of 0..1; "structure_unit" is of the latter."""
        both = torch.stack([source, edit]).movedim(-1, 1)
        return {name: self._distance(both * scale) for name, scale in (("structure", 255.0), ("structure_unit", 1.0))}

    @torch.inference_mode()
    def _distance(self, both: Tensor) -> float:
        # Without antialiasing, as torchvision resized tensors when the published numbers were made.
        small = F.interpolate(both, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
        keys = self.keys((small - mean) / std)
        return float(structure_distance(keys[:1], keys[1:]))


def read_weights(path: Path) -> dict[str, Tensor]:
    """By the authors' names, in float32. Raises Problem for a file that is not DINO's ViT."""
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        raise Problem(f"DINO={path} cannot be read ({error}): download it again.") from None
    weights = {}
    for key, value in found.items():
        for old, new in RENAMED:
            key = re.sub(old, new, key)
        weights[key] = value.float()
    for key in [key for key in weights if ".attn.query." in key]:
        parts = [weights.pop(key.replace("query", part)) for part in ("query", "key", "value")]
        weights[key.replace("query", "qkv")] = torch.cat(parts)
    if any(key not in weights for key in NEEDED):
        raise Problem(f"DINO={path} is no vision transformer of DINO: give dino_vitbase8_pretrain.pth.")
    if weights["pos_embed"].shape[1] != 1 + (SIDE // weights["patch_embed.proj.weight"].shape[-1]) ** 2:
        raise Problem(f"DINO={path} is for pictures of another size than {SIDE}: give dino_vitbase8_pretrain.pth.")
    return weights
