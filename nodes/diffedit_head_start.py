"""DiffEdit Head Start: an edit that begins some way along the change that was found."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.diffedit.heat_map import DRAFTS, HEAD_START
from ..host.diffedit.head_start import with_head_start
from ..host.validation import require_latent
from ._diffedit_inputs import shape_input


class DiffEditHeadStart(io.ComfyNode):
    """Let an edit begin some way along the change that DiffEdit Mask has found."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestDiffEditHeadStart",
            display_name="DiffEdit Head Start",
            category="Palimpsest/editing",
            description=(
                "Lets an edit begin some way along the change that DiffEdit Mask has found: old colours and patterns "
                "go more surely, above all in shallow edits, and small objects keep their place in deep ones. A new "
                "shape is drafted first, which costs one step; everything else is free."
            ),
            search_aliases=["diffedit", "edit direction", "delta"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model to sample with, after Trajectory Anchor where there is one; it is not "
                    "changed, the output is a copy.",
                ),
                io.Latent.Input("change", tooltip="From DiffEdit Mask, for the same picture."),
                io.Float.Input(
                    "head_start",
                    default=HEAD_START,
                    min=0.0,
                    max=20.0,
                    step=0.1,
                    tooltip="How far along the change: 0 is the paper's edit, 3 to 5 help at every depth, at 10 "
                    "colours overshoot.",
                ),
                io.Int.Input(
                    "drafts",
                    default=DRAFTS,
                    min=0,
                    max=4,
                    optional=True,
                    tooltip="Only for edits that change a shape: how often the model drafts the new picture before the "
                    "run. Each draft costs a step, and the run starts from the draft instead of the old shape. 1 is "
                    "enough; 0 stays nearer to the old shape.",
                ),
                shape_input("drafts"),
            ],
            outputs=[io.Model.Output(tooltip="The model, for any sampler and guider that samples this picture.")],
        )

    @classmethod
    def execute(cls, model, change, head_start, drafts=DRAFTS, shape_changes="detect") -> io.NodeOutput:
        found = require_latent(change, "The change", model)
        return io.NodeOutput(with_head_start(model, found, head_start, drafts=drafts, shape=shape_changes))


NODES = (DiffEditHeadStart,)
