"""Save Flow and Load Flow: motions on disk, in the formats that other programs read and write."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ..guidance.flow.fields import check_flow, resize_layers
from ..guidance.flow.files import WRITABLE, load_flow, save_flow
from ..host import folders
from .flow import CATEGORY, FLOW_TIP, LAYERS_TIP
from .sockets import Flow as FlowSocket


class SaveFlow(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestSaveFlow",
            display_name="Save Flow",
            category=CATEGORY,
            description="Keeps a motion in output/flows.",
            is_output_node=True,
            inputs=[
                FlowSocket.Input("flow", tooltip=FLOW_TIP),
                io.String.Input(
                    "filename_prefix",
                    default="motion",
                    tooltip="The file's name; a counter is added. May hold subfolders and %date% words.",
                ),
                io.Combo.Input(
                    "format",
                    options=[suffix[1:] for suffix in WRITABLE],
                    tooltip="safetensors and npz keep batches and layers; flo is read by most other "
                    "programs, one file a flow.",
                ),
                io.Mask.Input("layers", optional=True, tooltip=LAYERS_TIP),
            ],
            outputs=[io.String.Output("file", tooltip="The name as Load Flow lists it.")],
        )

    @classmethod
    def execute(cls, flow, filename_prefix="motion", format="safetensors", layers=None) -> io.NodeOutput:
        flow, suffix, names = check_flow(flow), f".{format}", []
        if layers is not None:
            layers = resize_layers(layers.float(), *flow.shape[1:3]).expand(len(flow), -1, -1)
        for part in flow.split(1) if suffix == ".flo" else [flow]:
            path = folders.new_file("flows", filename_prefix, suffix)
            with folders.written_whole(path) as partial:
                save_flow(partial, part, layers, suffix=suffix)
            names.append(path.relative_to(folders.output_folder("flows")).as_posix())
        return io.NodeOutput(names[0], ui=ui.PreviewText("\n".join(f"Saved output/flows/{name}" for name in names)))


class LoadFlow(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestLoadFlow",
            display_name="Load Flow",
            category=CATEGORY,
            description="Reads a motion from output/flows or models/flows: .flo, .npz, .safetensors, or the tensor "
            "files of the published examples.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=folders.file_names("flows"),
                    tooltip="A flow file. It may be of another size than your picture: it is resized with "
                    "its vectors where it is used. Press R to see new ones.",
                ),
            ],
            outputs=[
                FlowSocket.Output("flow", tooltip="The motion."),
                io.Mask.Output("layers", tooltip="Who lies in front, where the file says so; else what moves."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file=None, **kwargs):
        """Another file under the same name is another input."""
        try:
            state = folders.existing_file("flows", file).stat()
        except ValueError:
            return ""
        return f"{state.st_mtime_ns} {state.st_size}"

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        flow, layers = load_flow(folders.existing_file("flows", file))
        if layers is None:
            layers = (flow != 0).any(dim=-1).to(torch.float32)
        return io.NodeOutput(flow, layers)


NODES = (SaveFlow, LoadFlow)
