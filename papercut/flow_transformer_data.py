"""What Papercut-DiT learns from: latents, captions and signed distances of the training scenes, cached in a folder."""

from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from .configs import TransformerConfig
from .data import DEVICE, autocast, pictures, training_scene
from .flow_transformer_export import autoencoder_file, load_autoencoder
from .reference import load_reference
from .scenes import Scene, pixel_grid
from .shapes import distance
from .text import encode
from .train_text import LENGTH

CELL = 4  # pixels of a 256-pixel picture to one cell of the map of distances
REACH = 12.0  # pixels at which a distance is as good as infinite
LARGE = 50.0  # pixels
PICTURES = 8000  # as many as `data.py` renders for the other networks


def cached(path: Path, make: Callable[[], object]) -> object:
    """What lies at `path`, made first where there is nothing; a file half written never bears the name."""
    if not path.exists():
        part = path.with_suffix(".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(make(), part)
        part.replace(path)
    return torch.load(path, weights_only=True)


def shrunk(images: Tensor, side: int) -> Tensor:
    """Pictures (B, 3, 256, 256) at another side, by the mean of each area."""
    return images if side == images.shape[-1] else nn.functional.adaptive_avg_pool2d(images, side)


@torch.no_grad()
def latents(vae: nn.Module, rows: list[int], side: int) -> Tensor:
    """(len(rows), 16, side/8, side/8) float16: what the autoencoder makes of these training pictures."""
    store, vae, out = pictures(PICTURES), vae.to(DEVICE), []
    for first in range(0, len(rows), 16):
        images = torch.from_numpy(store[rows[first : first + 16]]).to(DEVICE).float() / 255
        with autocast():
            out.append(vae.encode(shrunk(images, side) * 2 - 1).latents.half().cpu())
    return torch.cat(out)


@torch.no_grad()
def embed(encoder: nn.Module, captions: list[str], tokens: int) -> tuple[Tensor, Tensor]:
    """Hidden states (B, tokens, 192) and pooled texts (B, 192): of the first <|endoftext|>, as in the host."""
    ids = encode(captions)[:, :LENGTH]
    states = encoder(input_ids=ids).last_hidden_state
    ends = (ids == ids[0, -1]).int().argmax(1)
    return states[:, :tokens], states[torch.arange(len(ids)), ends]


def text(captions: list[str], tokens: int) -> tuple[Tensor, Tensor]:
    """As `embed`, float16, by the shipped text encoder."""
    encoder = load_reference().text_encoder
    parts = [embed(encoder, captions[i : i + 64], tokens) for i in range(0, len(captions), 64)]
    states, pooled = (torch.cat(part).half() for part in zip(*parts))
    return states, pooled


def distances(scene: Scene) -> Tensor:
    """(64, 64) in -1..1: tanh of the signed distance to the nearest cut-out over 12 pixels; 1 far from all of them."""
    points = pixel_grid()[CELL // 2 :: CELL, CELL // 2 :: CELL] - 0.5
    found = [CELL * distance(item.field(points)) for item in scene.objects]
    nearest = torch.stack(found).amin(0) if found else torch.full(points.shape[:2], torch.inf)
    return torch.tanh(nearest / REACH)


def per_token(maps: Tensor, tokens: int) -> Tensor:
    """Maps of distances (B, 64, 64) -> (B, tokens * tokens, 16): four by four cells of each picture token."""
    maps = nn.functional.adaptive_avg_pool2d(maps[:, None], 4 * tokens)[:, 0]
    return rearrange(maps, "b (h p) (w q) -> b (h w) (p q)", p=4, q=4)


def wanted(scene: Scene, kind: str) -> bool:
    """Whether a scene belongs to a stage of the curriculum: "large", "single" or "all".

    Raises ValueError for another name.
    """
    if kind not in ("large", "single", "all"):
        raise ValueError(f"'{kind}' is no kind of scenes: choose large, single or all.")
    one = len(scene.objects) == 1
    return kind == "all" or (one and (kind == "single" or scene.objects[0].size >= LARGE))


class Examples:
    """Batches of (latents, text, pooled, distances) for `Trainer.update`: the scenes of one stage of the curriculum."""

    def __init__(self, folder: Path, recipe, config: TransformerConfig):
        rows = [i for i in range(PICTURES) if wanted(training_scene(i), recipe.scenes)]
        self.count, self.tokens = len(rows), recipe.side // 16
        self.latents = cached(
            folder / f"latents-{recipe.scenes}-{recipe.side}.pt",
            lambda: latents(load_autoencoder(autoencoder_file(folder)), rows, recipe.side),
        )
        captions = [training_scene(i).caption for i in rows] + [""]
        self.text, self.pooled = cached(
            folder / f"text-{recipe.scenes}-{config.text_tokens}.pt", lambda: text(captions, config.text_tokens)
        )
        self.distances = cached(
            folder / f"distances-{recipe.scenes}.pt",
            lambda: torch.stack([distances(training_scene(i)).half() for i in rows]),
        )

    def batch(self, size: int, drop: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`size` random examples, the caption of a fraction `drop` of them left out."""
        pick = torch.randint(self.count, (size,))
        words = torch.where(torch.rand(size) < drop, self.count, pick)
        maps = per_token(self.distances[pick].float(), self.tokens)
        parts = (self.latents[pick], self.text[words], self.pooled[words], maps)
        return tuple(part.to(DEVICE).float() for part in parts)
