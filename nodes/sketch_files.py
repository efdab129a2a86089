"""Save Edge Predictor and Load Edge Predictor."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy_api.latest import io, ui

from ..guidance.sketch.files import read_predictor, write_predictor
from ..guidance.sketch.predictor import EdgePredictor
from ..host import folders
from ..host.sketch.layers import require_predictor_of
from .sketch import CATEGORY
from .sketch_train import KIND, SUFFIX
from .sockets import EdgePredictor as EdgePredictorSocket, advanced

TRAIN = (
    "Choose another file, or open the template 'Train an edge predictor', run it, and press R: it teaches one from "
    "pictures, or from what your model paints, and saves it."
)


NEWEST = "the newest"


class SaveEdgePredictor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestSaveEdgePredictor",
            display_name="Save Edge Predictor",
            category=CATEGORY,
            description="Keeps a trained edge predictor in output/edge_predictors, with all facts about its training.",
            is_output_node=True,
            inputs=[
                EdgePredictorSocket.Input("edge_predictor", tooltip="From Edge Predictor Train."),
                io.String.Input(
                    "filename_prefix",
                    default="edges",
                    tooltip="The file's name; a counter is added. May hold subfolders and %date% words.",
                ),
                advanced(
                    io.Combo,
                    "precision",
                    "fp16 halves the file and changes predictions by about a thousandth.",
                    options=["fp32", "fp16"],
                    default="fp32",
                ),
            ],
            outputs=[io.String.Output("file", tooltip="The name as Load Edge Predictor lists it.")],
        )

    @classmethod
    def execute(cls, edge_predictor, filename_prefix="edges", precision="fp32") -> io.NodeOutput:
        path = folders.new_file(KIND, filename_prefix, SUFFIX)
        with folders.written_whole(path) as partial:
            write_predictor(edge_predictor, partial, dtype=torch.float16 if precision == "fp16" else torch.float32)
        name = path.relative_to(folders.output_folder(KIND)).as_posix()
        return io.NodeOutput(name, ui=ui.PreviewText(f"Saved output/edge_predictors/{name}"))


class LoadEdgePredictor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestLoadEdgePredictor",
            display_name="Load Edge Predictor",
            category=CATEGORY,
            description="Brings back an edge predictor from output/edge_predictors or models/edge_predictors.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=[NEWEST, *folders.file_names(KIND)],
                    tooltip="A file that Save Edge Predictor has written; press R to see new ones. 'the newest': of "
                    "those that fit the model.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model it is meant for; a predictor of another family is refused at once.",
                ),
            ],
            outputs=[
                EdgePredictorSocket.Output(
                    "edge_predictor", tooltip="For Edge Predictor Guidance, Preview and Best Seed."
                ),
                io.String.Output("facts", tooltip="What it was trained on, and how well."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file="") -> bool | str:
        if file is None:  # it comes through a link, and is checked in the run
            return True
        files = folders.file_names(KIND)
        if file in files or (file == NEWEST and files):
            return True
        named = "" if file == NEWEST else f" '{file}'"
        return f"There is no edge predictor{named}. {TRAIN}"

    @classmethod
    def fingerprint_inputs(cls, file=None, **kwargs):
        """Another file under the same name is another input."""
        try:
            path = newest_files()[0] if file == NEWEST else folders.existing_file(KIND, file)
            state = path.stat()
        except (ValueError, IndexError):
            return ""
        return f"{path.name} {state.st_mtime_ns} {state.st_size}"

    @classmethod
    def execute(cls, file, model=None) -> io.NodeOutput:
        if file == NEWEST:
            predictor = newest(model)
        else:
            predictor = read_predictor(folders.existing_file(KIND, file))
            if model is not None:
                require_predictor_of(model, predictor.spec, f"'{file}'")
        return io.NodeOutput(predictor, facts_of(predictor))


def newest_files() -> list[Path]:
    paths = [folders.existing_file(KIND, name) for name in folders.file_names(KIND)]
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def newest(model) -> EdgePredictor:
    """The newest finished predictor that fits the model. Raises ValueError where there is none."""
    for path in newest_files():
        predictor = read_predictor(path)
        if predictor.state is None and (model is None or serves(model, predictor)):
            return predictor
    raise ValueError(f"There is no edge predictor for this model. {TRAIN}")


def serves(model, predictor: EdgePredictor) -> bool:
    try:
        require_predictor_of(model, predictor.spec, "Load Edge Predictor")
    except ValueError:
        return False
    return True


def facts_of(predictor: EdgePredictor) -> str:
    """What a predictor is, in lines for people."""
    spec = predictor.spec
    lines = [
        f"family: {spec.family}, target: {spec.target}" + (f", detail {spec.detail}" if spec.target == "edges" else ""),
        f"noise levels: {spec.sigma_low:.3g} to {spec.sigma_high:.3g}",
        f"reads: {', '.join(spec.taps)} ({sum(spec.channels)} channels)",
    ]
    lines += [f"{name.replace('_', ' ')}: {value}" for name, value in spec.facts.items() if value is not None]
    return "\n".join(lines + ["unfinished training"] * (predictor.state is not None))


NODES = (SaveEdgePredictor, LoadEdgePredictor)
