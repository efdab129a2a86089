"""Trajectory Anchor: a MODEL whose sampling keeps a region, or rows of the batch, on a picture's trajectory."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.anchor import Anchor, parse_rows
from ..host.inversion.anchor import anchored, require_fit
from ..host.inversion.exact_replay import replayed_exactly
from ..host.morphing.anchor import key_corrected
from ..morphing.schedule import as_alphas
from .sockets import Alphas, Trajectory, advanced


def _advanced_inputs() -> list[io.Input]:
    """What is right as it is for most edits."""
    return [
        advanced(
            io.Float, "strength", "How firmly it is kept: 1 = exactly, 0 = not at all (the plain model). Between, the "
            "source shines through; 0.3 to 0.9 give a loose likeness.", default=1.0, min=0.0, max=1.0, step=0.01,
        ),
        advanced(
            io.Boolean, "start_from_source", "On: sampling starts everywhere at the inverted picture's own latent of "
            "its first noise level, whatever noise is connected; then any sampler node and any part of a schedule will "
            "do. Off: it starts from the sampler's noise.", default=False,
        ),
    ]  # fmt: skip


class TrajectoryAnchor(io.ComfyNode):
    """Keep part of the picture exactly as it is while any sampler works on the rest."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestTrajectoryAnchor",
            display_name="Trajectory Anchor",
            category="Palimpsest/inversion",
            description=(
                "Keeps part of a picture exactly as it is while any sampler works on the rest. At every step the part "
                "to keep is put back onto the trajectory of the inverted picture, at the same noise level, and the "
                "result there equals the source to the last bit. Without a mask and rows everything is kept."
            ),
            search_aliases=["diffedit", "direct inversion", "keep background", "masked decode", "pnp inversion"],
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with; it is not changed, the output is a copy."),
                Trajectory.Input(
                    "trajectory",
                    tooltip="The inverted picture, from DDIM Invert or Load Trajectory. It must reach at least up to "
                    "the noise level that the sampler starts at.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White (1) = edit, black (0) = keep. Grey blends, as in the host's latent noise masks, and "
                    "Differential Diffusion shapes it over the steps. One mask, or one for each picture of the batch.",
                ),
                io.String.Input(
                    "rows",
                    default="",
                    optional=True,
                    tooltip="Pictures of the batch to keep whole, counted from 0, such as '0' or '0, 2-4'. Empty: the "
                    "mask alone decides, for all of them.",
                ),
                *_advanced_inputs(),
                Alphas.Input(
                    "alphas",
                    optional=True,
                    tooltip="For a morph, with `keys` of Morph Latents as the trajectory: the frames that are key "
                    "pictures are kept, wherever they are, and those between are corrected with them, so that no jump "
                    "is left. `rows` stays empty.",
                ),
                advanced(
                    io.Boolean,
                    "exact_replay",
                    "On: the model is asked exactly where the inversion asked it, for the "
                    "source and its edits alike, at no cost. For 'euler' and 'ddim' at the inversion's own SIGMAS.",
                    default=False,
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, anchored; for any stock sampler or guider.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        trajectory,
        mask=None,
        rows="",
        strength=1.0,
        start_from_source=False,
        alphas=None,
        exact_replay=False,
    ) -> io.NodeOutput:
        require_fit(trajectory, model)
        anchor = Anchor(trajectory, mask, parse_rows(rows), strength)
        if alphas is None:
            made = anchored(model, anchor, start_from_source=start_from_source)
            return io.NodeOutput(replayed_exactly(made, trajectory) if exact_replay else made)
        if anchor.rows is not None or start_from_source or exact_replay:
            raise ValueError(
                "With `alphas`, Trajectory Anchor finds the key pictures among the frames by itself, and they start "
                "where Morph Latents puts them: leave `rows` empty, `start_from_source` and `exact_replay` off."
            )
        return io.NodeOutput(key_corrected(model, anchor, as_alphas(alphas)))


NODES = (TrajectoryAnchor,)
