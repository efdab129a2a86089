"""Inversion-Free Edit: a SAMPLER that moves a picture from one prompt to another without inverting it."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.inversion_free import MODES
from ..host.inversion_free import InversionFreeSampler

BY_THE_MODEL = "by the model"


class InversionFreeEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestInversionFreeEdit",
            display_name="Inversion-Free Edit",
            category="Palimpsest/editing",
            description="Edits a picture without inverting it: a SAMPLER that moves it by what two prompts predict "
            "under the same noise. The guider's positive says what it is to become, its negative what it shows.",
            search_aliases=["flowedit", "flowalign", "infedit", "ddcm", "inversion free", "edit by words", "fast edit"],
            inputs=[
                io.Combo.Input(
                    "mode",
                    options=[BY_THE_MODEL, *MODES],
                    default=BY_THE_MODEL,
                    tooltip="by the model: FlowEdit for flow models (SD3, Flux), DDCM, which is InfEdit's, for the "
                    "others. FlowAlign (flow models): nearer to the source; CFG Guider at 7.5, the whole schedule.",
                ),
            ],
            outputs=[
                io.Sampler.Output(
                    "sampler",
                    tooltip="For Sampler Custom Advanced: the picture as the latent image, the low part of a schedule, "
                    "and a guider with both prompts.",
                )
            ],
        )

    @classmethod
    def execute(cls, mode=BY_THE_MODEL) -> io.NodeOutput:
        if mode not in (BY_THE_MODEL, *MODES):
            raise ValueError(f"There is no mode '{mode}': choose one of {', '.join([BY_THE_MODEL, *MODES])}.")
        return io.NodeOutput(InversionFreeSampler(None if mode == BY_THE_MODEL else mode))


NODES = (InversionFreeEdit,)
