"""How well a picture fits a caption: the CLIP score (arXiv 2104.08718) of Papercut.

Features of the classifier and of the model's own text encoder, projected to one space and compared by their angle. The
text encoder is the one in `papercut.safetensors`, frozen; only the two projections were trained, with the classifier.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .classifier import Classifier


def text_features(model: Classifier, pooled: Tensor) -> Tensor:
    """pooled: (B, 192), the text encoder's pooled output. Returns (B, 192) of unit length."""
    return F.normalize(model.text_projection(pooled), dim=-1)


def picture_features(model: Classifier, pictures: Tensor) -> Tensor:
    """pictures: (B, 3, H, W) in 0..1. Returns (B, 192) of unit length."""
    return F.normalize(model.picture_projection(model.features(pictures)), dim=-1)


@torch.no_grad()
def pooled_text(text_encoder, captions: list[str]) -> Tensor:
    """Captions -> (B, 192), the hidden state at the first <|endoftext|>, from transformers' `CLIPTextModel`."""
    from .text import encode

    return text_encoder(input_ids=encode(captions).to(text_encoder.device)).pooler_output.float()


@torch.no_grad()
def clip_score(model: Classifier, text_encoder, pictures: Tensor, captions: list[str]) -> Tensor:
    """The cosine (-1..1) between each picture (B, 3, H, W) and its caption -> (B,). Higher fits better."""
    if len(pictures) != len(captions):
        raise ValueError(f"{len(pictures)} pictures came with {len(captions)} captions; give one caption a picture.")
    return (picture_features(model, pictures) * text_features(model, pooled_text(text_encoder, captions))).sum(-1)


def contrastive_loss(model: Classifier, seen: Tensor, pooled: Tensor) -> Tensor:
    """CLIP's loss: in a batch, each picture must find its caption and each caption its picture.

    seen: (B, 224) features of the pictures; pooled: (B, 192) of their captions.
    """
    a = F.normalize(model.picture_projection(seen), dim=-1)
    scores = a @ text_features(model, pooled).T * model.sharpness.clamp(max=4.6).exp()
    own = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
