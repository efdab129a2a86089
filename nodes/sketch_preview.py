"""Edge Predictor Preview: which edges a predictor sees at which noise levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from comfy_api.latest import io, ui

from ..host.prompts import connected_or_encoded
from ..host.sketch.examples import single_pictures
from ..host.sketch.layers import require_predictor_of
from ..host.sketch.preview import predicted_edges
from ..host.validation import require_vae_of
from ._panel import panel
from .sketch import CATEGORY, PREDICTOR_TIP
from .sockets import EdgePredictor as EdgePredictorSocket, advanced


class EdgePredictorPreview(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestEdgePredictorPreview",
            display_name="Edge Predictor Preview",
            category=CATEGORY,
            description="Shows which edges a predictor sees in a picture at several noise levels, beside the real "
            "ones.",
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that the predictor was trained for."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                EdgePredictorSocket.Input("edge_predictor", tooltip=PREDICTOR_TIP),
                io.Image.Input("image", tooltip="A picture, best one that the predictor has not learned from."),
                io.String.Input(
                    "percents",
                    default="0.1, 0.3, 0.5, 0.7",
                    tooltip="Fractions of a run at which edges are read: 0 = pure noise, 1 = the picture.",
                ),
                io.Conditioning.Input(
                    "conditioning", optional=True, tooltip="What the picture shows; open = the empty prompt."
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Encodes the empty prompt where no conditioning is connected."
                ),
                io.Image.Input("edges", optional=True, tooltip="The real edges, to compare with."),
                advanced(
                    io.Int,
                    "seed",
                    "Of the noise.",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                ),
            ],
            outputs=[
                io.Image.Output(
                    "panel", tooltip="Picture, real edges and predicted edges side by side, a row a picture."
                ),
                io.Image.Output("predicted", tooltip="The predicted edges alone, one picture for each level and row."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        vae,
        edge_predictor,
        image,
        percents="0.1, 0.3, 0.5, 0.7",
        conditioning=None,
        clip=None,
        edges=None,
        seed=0,
    ) -> io.NodeOutput:
        require_predictor_of(model, edge_predictor.spec, "Edge Predictor Preview")
        require_vae_of(model, vae)
        fractions = parse_percents(percents)
        prompt = connected_or_encoded(model, conditioning, clip, "conditioning")
        pictures = single_pictures([image], "The pictures")
        seen = [predicted_edges(model, vae, edge_predictor, one_, prompt, fractions, seed) for one_ in pictures]
        real = [None] * len(pictures) if edges is None else single_pictures([edges], "The edge pictures")
        if len(real) not in (1, len(pictures)):
            raise ValueError(f"There are {len(pictures)} pictures and {len(real)} edge pictures: give each its own.")
        rows = [_row(p, real[i % len(real)], s, fractions) for i, (p, s) in enumerate(zip(pictures, seen))]
        made = torch.cat(rows, 1) if len({row.shape for row in rows}) == 1 else rows[0]
        return io.NodeOutput(made, _stacked(seen), ui=ui.PreviewImage(made, cls=cls))


def _row(
    picture: torch.Tensor, real: torch.Tensor | None, seen: torch.Tensor, fractions: Sequence[float]
) -> torch.Tensor:
    tiles = [("picture", picture[0])]
    if real is not None and real.shape[1:3] == picture.shape[1:3]:
        tiles.append(("real edges", real[0]))
    return panel([*tiles, *((f"at {fraction:g}", edges) for fraction, edges in zip(fractions, seen))], [])


def _stacked(seen: list[torch.Tensor]) -> torch.Tensor:
    """All predicted edges as one batch, as many as are of the first picture's size."""
    return torch.cat([edges for edges in seen if edges.shape[1:] == seen[0].shape[1:]])


def parse_percents(text: str) -> list[float]:
    """The text "0.1, 0.5" -> [0.1, 0.5]. Raises ValueError for anything but numbers from 0 to 1."""
    try:
        fractions = [float(part) for part in text.replace(";", ",").split(",") if part.strip()]
    except ValueError:
        fractions = []
    if not fractions or not all(0 <= fraction <= 1 for fraction in fractions):
        raise ValueError(f"percents is '{text}', and should be numbers from 0 to 1, such as 0.1, 0.3, 0.5.")
    return fractions


NODES = (EdgePredictorPreview,)
