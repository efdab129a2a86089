"""Edge Predictor Train: teach a small network to read edges from the model's own features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from comfy_api.latest import io

from ..guidance.sketch.examples import Examples, TrainingRecipe
from ..guidance.sketch.files import write_predictor
from ..guidance.sketch.predictor import WIDTHS, EdgePredictor, PredictorSpec
from ..host import folders
from ..host.content_cache import content_key
from ..host.notify import notify
from ..host.prompts import connected_or_encoded, encode
from ..host.sketch.examples import make_examples, require_plain_prompt, single_pictures
from ..host.sketch.layers import require_edges, require_predictor_of
from ..host.sketch.training import EdgeTraining, LevelRange, new_spec
from ._loss_plot import plot
from .sketch import CATEGORY
from .sockets import EdgePredictor as EdgePredictorSocket, advanced

SUFFIX = ".safetensors"
KIND = "edge_predictors"
KINDS = {"edges": {"target": "edges"}, "encoded edges (paper)": {"target": "latent", "detail": 1}}


def one(values: Sequence | None, name: str, default=None):
    """The single value of an input that arrives as a list. Raises ValueError for several."""
    if not values:
        return default
    if len(values) > 1:
        raise ValueError(f"Edge Predictor Train takes one {name}, and {len(values)} are connected: connect only one.")
    return values[0]


def _advanced_inputs() -> list[io.Input]:
    """What is right as it is for most pictures."""
    return [
        advanced(io.Combo, "detail", "Cells a side for each pixel of the latent ('edges' only): 2 places an "
                 "edge within 4 pixels, 4 within 2.", options=["1", "2", "4"], default="2"),
        advanced(io.Float, "learning_rate", "Step of the optimiser: 0.0003 to "
                                            "0.003.", default=0.001, min=1e-6, max=0.1,
                 step=1e-5, round=1e-7),
        advanced(io.Float, "end_percent", "Noise levels to learn, from pure noise to this fraction of a run. At "
                 "least as far as you will guide; 0.8 leaves room.", default=0.8, min=0.1, max=1.0, step=0.05),
        advanced(io.Float, "held_out", "Fraction of the pictures kept aside to judge by; the weights that do best "
                 "on them are "
                 "returned. 0 learns from all and never stops early.",
                 default=0.1, min=0.0, max=0.5, step=0.05),
        advanced(io.Boolean, "flips", "Learn from the mirrored pictures too. Off for lettering.", default=True),
        advanced(io.Int, "seed", "Of everything random in the training.", default=0, min=0, max=2**31 - 1,
                 control_after_generate=io.ControlAfterGenerate.fixed),
        advanced(io.String, "autosave", "The unfinished training is kept under this name and a counter in "
                 "output/edge_predictors, to go on after an interruption; removed when the training ends. "
                 "Empty: not kept.",
                 default="unfinished_training"),
        advanced(io.Int, "width", "Channels of the predictor's first layer; each of the three behind it has "
                 "half as many. 512 is the paper's; 256 guides faster with small models.",
                 default=512, min=64, max=2048, step=64),
    ]  # fmt: skip


class EdgePredictorTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestEdgePredictorTrain",
            display_name="Edge Predictor Train",
            category=CATEGORY,
            description=(
                "Teaches a small network to read edges from what the diffusion model has in mind while it paints. 50 "
                "to 200 pictures with their edges are enough; the model itself is not changed. Minutes on a graphics "
                "card."
            ),
            search_aliases=["lgp", "latent edge predictor", "train sketch", "sketch guidance training"],
            is_input_list=True,
            not_idempotent=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to guide later: Stable Diffusion 1, 2 or SDXL."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Image.Input(
                    "images",
                    tooltip="Pictures to learn from: a batch, or a list from the host's dataset "
                    "nodes. Sizes may differ; each is cropped to a multiple of 8.",
                ),
                io.Image.Input(
                    "edges",
                    tooltip="The edges of each picture in the same order: the host's Canny, or "
                    "drawings of yours for a style of your own. Thin lines, light on dark or dark on "
                    "light.",
                ),
                io.Int.Input(
                    "steps",
                    default=1500,
                    min=10,
                    max=100000,
                    tooltip="At most this many steps; the training stops earlier where it no longer helps. "
                    "1000 to 3000.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=8,
                    min=1,
                    max=64,
                    tooltip="Pictures a step. 8 to 16; less where memory is short.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="What the pictures show: one prompt for "
                    "all, or a list with one for each. Left open, all are learned with the empty "
                    "prompt.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Encodes the empty prompt, with which half of the steps "
                    "learn, so that the predictor does not depend on the words.",
                ),
                EdgePredictorSocket.Input(
                    "continue_from",
                    optional=True,
                    tooltip="A predictor to go on from: one "
                    "whose training was interrupted (with the same settings it ends as if it had "
                    "not been), or a finished one to adapt.",
                ),
                io.Boolean.Input(
                    "adapt_style",
                    default=False,
                    optional=True,
                    tooltip="With continue_from and 5 to 20 "
                    "drawings: learn how *you* draw edges. The first layer stays, the rest follows your "
                    "lines. 100 to 400 steps.",
                ),
                io.Combo.Input(
                    "target",
                    options=list(KINDS),
                    default="edges",
                    optional=True,
                    tooltip="edges: a map of "
                    "closeness to an edge, for stroke weights and unfinished sketches. encoded edges: the "
                    "edge picture through the VAE, as in the paper; the guidance then needs the VAE too.",
                ),
                *_advanced_inputs(),
            ],
            outputs=[
                EdgePredictorSocket.Output(
                    "edge_predictor", tooltip="For Edge Predictor Guidance; keep it with Save Edge Predictor."
                ),
                io.Image.Output("loss_plot", tooltip="The loss of the steps, and that of the pictures kept aside."),
                io.Float.Output(
                    "held_out_loss",
                    tooltip="Of the returned weights, on the pictures kept aside; -1 where there are none.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        vae,
        images,
        edges,
        steps=(1500,),
        batch_size=(8,),
        conditioning=None,
        clip=None,
        continue_from=None,
        adapt_style=(False,),
        target=("edges",),
        detail=("2",),
        learning_rate=(0.001,),
        end_percent=(0.8,),
        held_out=(0.1,),
        flips=(True,),
        seed=(0,),
        autosave=("",),
        width=(512,),
    ) -> io.NodeOutput:
        model, vae, clip = one(model, "model"), one(vae, "VAE"), one(clip, "CLIP")
        require_edges(model, "Edge Predictor Train")
        keeper = _Autosave(autosave[0])
        start = _start(model, one(continue_from, "predictor"), adapt_style[0])
        levels = LevelRange(model.get_model_object("model_sampling"), 0.0, end_percent[0])
        choices = {"detail": int(detail[0]), "widths": widths(width[0])} | KINDS[target[0]]
        spec = new_spec(model, levels, **choices)
        spec = spec if start is None else continued(start.spec, spec)
        prompts, empty = _prompts(model, conditioning, clip)
        pictures, drawn = single_pictures(images, "The pictures"), single_pictures(edges, "The edge pictures")
        recipe = TrainingRecipe(
            steps=steps[0],
            batch=batch_size[0],
            rate=learning_rate[0],
            seed=seed[0],
            held_out=held_out[0],
            drop=0.5 if empty is not None and conditioning else 0.0,
            adapt=adapt_style[0],
        )
        about = f"{content_key([prompts, empty])} {levels.bounds}"
        found = make_examples(model, vae, spec, pictures, drawn, len(prompts), flips=flips[0], about=about)
        training = EdgeTraining(model, spec, Examples(found, recipe), levels, prompts, empty)
        trainer = training.run(start, on_check=keeper.keep)
        keeper.remove()
        made = trainer.predictor()
        curves = [("loss", trainer.losses), ("loss on pictures kept aside", [loss for _, loss in trainer.judged])]
        loss = made.spec.facts["held_out_loss"]
        return io.NodeOutput(made, plot(curves), -1.0 if loss is None else loss)


def continued(start: PredictorSpec, asked: PredictorSpec) -> PredictorSpec:
    """What a training that goes on from `start` makes: its layers and target, over the levels of both."""
    if (start.target, start.detail, start.widths) != (asked.target, asked.detail, asked.widths):
        notify("The predictor at continue_from keeps its own target, detail and width; those of this node have no say.")
    return replace(
        start, sigma_low=min(start.sigma_low, asked.sigma_low), sigma_high=max(start.sigma_high, asked.sigma_high)
    )


def widths(first: int) -> tuple[int, ...]:
    """Channels of the layers: the first, and half as many from layer to layer (arXiv 2211.13752: 512 to 64)."""
    return tuple(first // 2**i for i in range(len(WIDTHS)))


def _start(model, start: EdgePredictor | None, adapt: bool) -> EdgePredictor | None:
    if start is not None:
        require_predictor_of(model, start.spec, "Edge Predictor Train")
    elif adapt:
        raise ValueError("To adapt to your style, connect a trained predictor to continue_from (Load Edge Predictor).")
    return start


def _prompts(model, conditioning: Sequence | None, clip) -> tuple[list, list | None]:
    """(the prompts by number, the empty prompt or None)."""
    empty = None if clip is None else require_plain_prompt(encode(model, clip), "The empty prompt")
    given = conditioning or [connected_or_encoded(model, None, clip, "conditioning")]
    return [require_plain_prompt(prompt, f"Conditioning {i}") for i, prompt in enumerate(given, 1)], empty


class _Autosave:
    """The unfinished training on disk, renewed about twenty times; always a new file, so that no other one is lost."""

    def __init__(self, name: str):
        self.path = folders.new_file(KIND, name, SUFFIX) if name.strip() else None

    def keep(self, trainer) -> None:
        if self.path is None:
            return
        with folders.written_whole(self.path) as partial:
            write_predictor(trainer.predictor(unfinished=True), partial)

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)


NODES = (EdgePredictorTrain,)
