"""Best Seed: the noise whose beginning suits a sketch or a flow best."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise

from ..guidance.best_seed import ranking
from ..host.best_seed import drafts, flow_scores, sketch_score
from ..host.prompts import conditionings
from ..host.sketch.layers import require_predictor_of
from ..host.sketch.patch import Sketch
from ..host.validation import require_latent_of
from .sketch import CATEGORY, PREDICTOR_TIP, SKETCH_TIP, encoder, require_vae, strokes_of
from .sockets import EdgePredictor as EdgePredictorSocket, Flow as FlowSocket, advanced


class BestSeed(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestBestSeed",
            display_name="Best Seed",
            category=CATEGORY,
            description=(
                "Tries several seeds for a few wide steps and returns the one whose beginning suits the sketch (or the "
                "flow) best. Seed and sketch may want different pictures; this finds a seed that agrees."
            ),
            search_aliases=["seed search", "noise selection", "seed picker", "candidate seeds"],
            has_intermediate_output=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model of the run, best with Edge Predictor Guidance already on "
                    "it: the candidates are then guided too.",
                ),
                io.Conditioning.Input("positive", tooltip="The prompt of the run."),
                io.Latent.Input("latent_image", tooltip="The latent of the run, such as Empty Latent Image."),
                io.Sigmas.Input("sigmas", tooltip="The schedule of the run; a few of its levels are used."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFF00,
                    control_after_generate=True,
                    tooltip="The first candidate; the others are the seeds that follow it.",
                ),
                io.Int.Input(
                    "candidates",
                    default=8,
                    min=1,
                    max=64,
                    tooltip="How many seeds are tried. 8 seeds of 3 steps, with their comparison, "
                    "cost about as much as 36 steps of one picture.",
                ),
                io.Int.Input(
                    "steps",
                    default=3,
                    min=1,
                    max=20,
                    tooltip="Wide steps for each candidate. 2 to 4 show the composition.",
                ),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="The CFG of the run."),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="The negative prompt of the run; not needed at CFG 1."
                ),
                EdgePredictorSocket.Input("edge_predictor", optional=True, tooltip=PREDICTOR_TIP),
                io.Image.Input("sketch", optional=True, tooltip=SKETCH_TIP),
                FlowSocket.Input(
                    "flow",
                    optional=True,
                    tooltip="In place of a sketch: where the parts of the source "
                    "picture are to go. Needs source and vae.",
                ),
                io.Image.Input("source", optional=True, tooltip="The picture that the flow moves."),
                io.Vae.Input("vae", optional=True, tooltip="For a flow, or a predictor of encoded edges."),
                advanced(
                    io.Float,
                    "unfinished",
                    "As in Edge Predictor Guidance: 1 = only the strokes count.",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                ),
                advanced(
                    io.Float,
                    "judge_at",
                    "Fraction of the run after which the candidates are compared: 0.4 to 0.6.",
                    default=0.5,
                    min=0.05,
                    max=0.95,
                    step=0.05,
                ),
            ],
            outputs=[
                io.Noise.Output("noise", tooltip="The best seed's noise, for Sampler Custom Advanced."),
                io.Int.Output("best_seed", tooltip="The best seed itself, for any other sampler node."),
                io.Latent.Output(
                    "drafts",
                    tooltip="What each candidate was about to become, the best first; decode them with VAE Decode.",
                ),
                io.String.Output("scores", tooltip="Seeds and their distances from what is wanted, the best first."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        latent_image,
        sigmas,
        seed=0,
        candidates=8,
        steps=3,
        cfg=7.0,
        negative=None,
        edge_predictor=None,
        sketch=None,
        flow=None,
        source=None,
        vae=None,
        unfinished=0.0,
        judge_at=0.5,
    ):
        samples = latent_image["samples"]
        require_latent_of(model, samples)
        conds = conditionings(model, positive, negative, None, cfg, "Best Seed")
        seeds, score = [seed + i for i in range(candidates)], None
        if flow is None:
            score = _score(model, positive, edge_predictor, sketch, vae, samples, unfinished)
        else:
            _require_flow(samples, flow, source, vae)
        made, scores = drafts(
            model, conds, latent_image, sigmas, seeds, cfg=cfg, steps=steps, end=judge_at, score=score
        )
        scores = flow_scores(vae, made, source, flow) if scores is None else scores
        order = ranking(scores)
        best, sorted_drafts = seeds[order[0]], {"samples": made[order].flatten(0, 1)}
        report = "\n".join(f"seed {seeds[i]}: {float(scores[i]):.4f}" for i in order)
        return io.NodeOutput(Noise_RandomNoise(best), best, sorted_drafts, report, ui=ui.PreviewText(report))


def _score(model, positive, predictor, sketch, vae, samples: torch.Tensor, unfinished: float):
    if predictor is None or sketch is None:
        raise ValueError(
            "Best Seed has nothing to compare with: connect edge_predictor and sketch, or flow, source and vae."
        )
    network = require_predictor_of(model, predictor.spec, "Best Seed")
    if predictor.spec.target == "latent":
        require_vae(model, vae)
    if sketch.shape[0] not in (1, samples.shape[0]):
        raise ValueError(
            f"There are {sketch.shape[0]} sketches and {samples.shape[0]} pictures to come: connect one sketch, or one "
            "for each picture."
        )
    drawn, size = Sketch(strokes_of(sketch), None, encoder(vae)), tuple(samples.shape[-2:])
    return sketch_score(model, network, predictor, drawn, positive, size=size, one_sided=unfinished)


def _require_flow(samples: torch.Tensor, flow: torch.Tensor, source, vae) -> None:
    if source is None or vae is None:
        raise ValueError("To judge seeds by a flow, connect the source picture that it moves and the vae as well.")
    height, width = source.shape[1:3]
    if tuple(flow.shape[1:3]) != (height, width) or (samples.shape[-2] * 8, samples.shape[-1] * 8) != (height, width):
        raise ValueError(
            f"The source is {width} x {height}, the flow {flow.shape[2]} x {flow.shape[1]} and the picture to come "
            f"{samples.shape[-1] * 8} x {samples.shape[-2] * 8}: bring them to one size."
        )


NODES = (BestSeed,)
