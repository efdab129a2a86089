"""Source Guidance: an inverted picture is guided from the prompt that shows it to the prompt of what it is to
become."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.source_guidance import SourceGuidance
from ..host.diffedit.heat_map import same_content
from ..host.source_guidance import source_guider, with_source_guidance
from ..host.validation import require_conditioning
from .sockets import optional


class SourceGuidanceNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestSourceGuidance",
            display_name="Source Guidance",
            category="Palimpsest/editing",
            description="Edits an inverted picture in few steps: guides from the prompt of what it shows to that of "
            "what it is to become, most where the two differ. No negative prompt, no attention maps, any model.",
            search_aliases=[
                "uni-edit",
                "uniedit",
                "uniedit-flow",
                "fast edit",
                "edit by words",
                "source prompt",
                "few steps",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model of the inversion, LoRAs and patches included; any family."),
                io.Conditioning.Input(
                    "positive", tooltip="What the picture is to become: the source prompt with the words changed."
                ),
                io.Conditioning.Input("negative", tooltip="The source prompt: what the picture shows."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    round=0.001,
                    tooltip="How far the picture is moved. 1 as published; 0 paints what the source prompt says. Sane: "
                    "0.3 to 1.5.",
                ),
                optional(
                    io.Mask,
                    "mask",
                    "White (1) = edit, black (0) = paint as the source prompt says, in place of the weight that is "
                    "found from the two prompts. One mask, or one for each picture.",
                ),
            ],
            outputs=[
                io.Guider.Output("guider", tooltip="For Sampler Custom Advanced, with the noise of DDIM Invert."),
                io.Model.Output(
                    "model",
                    tooltip="For KSampler and other samplers that make their own guider: give them the same two "
                    "prompts; their CFG counts for nothing.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model, positive, negative, strength=1.0, mask=None) -> io.NodeOutput:
        require_conditioning(positive, "The positive prompt")
        require_conditioning(negative, "The negative prompt")
        if same_content(positive, negative):
            raise ValueError(
                "The positive and the negative prompt of Source Guidance are the same, so nothing would change: write "
                "what the picture shows into 'negative', and what it is to become into 'positive'."
            )
        made = with_source_guidance(model, SourceGuidance(strength=strength), mask)
        return io.NodeOutput(source_guider(made, positive, negative), made)


NODES = (SourceGuidanceNode,)
