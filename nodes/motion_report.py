"""Flow Guidance Report: the losses of a guided run over its steps, and what it cost."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..host.motion.sampler import FlowGuidanceSampler
from ._loss_plot import plot
from .flow import CATEGORY


class FlowGuidanceReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestFlowGuidanceReport",
            display_name="Flow Guidance Report",
            category=CATEGORY,
            description="Plots the losses of a guided run over its steps, and counts what it cost.",
            is_output_node=True,
            inputs=[
                io.Sampler.Input("sampler", tooltip="The Flow Guidance Sampler of the run."),
                io.Latent.Input(
                    "latent", tooltip="The latent that the run made, so that the report waits for the run."
                ),
            ],
            outputs=[
                io.Image.Output("plot", tooltip="The losses and the pull over the steps of the run."),
                io.String.Output("report", tooltip="What the run did and cost, in words."),
            ],
        )

    @classmethod
    def execute(cls, sampler, latent) -> io.NodeOutput:
        record = getattr(sampler, "record", None)
        if not isinstance(sampler, FlowGuidanceSampler) or record is None:
            raise ValueError(
                "There is no guided run to report: connect a Flow Guidance Sampler, and to 'latent' the "
                "output of the Sampler Custom Advanced that it drives."
            )
        curves = [
            ("colour loss (mean L1, 0..1)", [step.colour for step in record.steps]),
            ("flow loss (mean L1, pixels)", [step.flow for step in record.steps]),
            ("pull (RMS change of the clean latent)", [step.pull for step in record.steps]),
        ]
        picture = plot(curves)
        return io.NodeOutput(picture, report(sampler), ui=ui.PreviewImage(picture, cls=cls))


def report(sampler: FlowGuidanceSampler) -> str:
    """What a run did and cost, in words."""
    record = sampler.record
    lines = [
        f"{record.model_calls} evaluations of the model, {record.model_gradients} of them differentiated.",
        f"{record.decodes} calls of the decoder, {record.decoder_gradients} of them differentiated.",
        f"{record.flow_calls} calls of the flow network, {record.flow_gradients} of them differentiated.",
        f"{sampler.seconds:.1f} seconds.",
    ]
    if len(sampler.parts) > 1:
        lines.append(f"The batch went in {len(sampler.parts)} parts, as many pictures at once as fit into memory.")
    seen = [step.colour for step in record.steps if step.colour is not None]
    if seen:
        first = f"{seen[0]:.4f} when it was first looked at, " if len(seen) > 1 else ""
        lines.insert(0, f"Colour loss {first}{seen[-1]:.4f} at last.")
    if record.damped:
        lines.append(
            f"{record.damped} pulls were damped because the loss grew within a noise level: lower the strength, take "
            "more steps, or switch the damping off."
        )
    if record.not_finite:
        lines.append(
            f"{record.not_finite} pulls were left out because their gradient was not finite, as happens in half "
            "precision: start ComfyUI with --fp32-vae or --fp32-unet, or connect another gradient_vae."
        )
    return "\n".join(lines)


NODES = (FlowGuidanceReport,)
