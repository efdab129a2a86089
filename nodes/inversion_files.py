"""Save Trajectory and Load Trajectory: invert once, edit for ever."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..host import folders
from ..host.compatibility import require_same_kind, require_same_model
from ..host.family import latent_format
from ..host.inversion.inverted_noise import InvertedNoise
from ..inversion.trajectory_file import read_trajectory, write_trajectory
from .inversion import CATEGORY
from .sockets import Trajectory as TrajectorySocket

SUFFIX = ".safetensors"


class SaveTrajectory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestSaveTrajectory",
            display_name="Save Trajectory",
            category=CATEGORY,
            description="Keeps an inversion in output/trajectories, to edit the picture another day.",
            is_output_node=True,
            inputs=[
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Invert."),
                io.String.Input(
                    "filename_prefix",
                    default="picture",
                    tooltip="The file's name; a counter is added. May hold subfolders and %date% words.",
                ),
            ],
            outputs=[io.String.Output("file", tooltip="The name as Load Trajectory lists it.")],
        )

    @classmethod
    def execute(cls, trajectory, filename_prefix="picture") -> io.NodeOutput:
        path = folders.new_file("trajectories", filename_prefix, SUFFIX)
        with folders.written_whole(path) as partial:
            write_trajectory(trajectory, partial)
        name = path.relative_to(folders.output_folder("trajectories")).as_posix()
        return io.NodeOutput(name, ui=ui.PreviewText(f"Saved output/trajectories/{name}"))


class LoadTrajectory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestLoadTrajectory",
            display_name="Load Trajectory",
            category=CATEGORY,
            description="Brings back an inversion from output/trajectories or models/trajectories.",
            inputs=[
                io.Model.Input("model", tooltip="The model of the inversion; a file of another model is refused."),
                io.Combo.Input(
                    "file",
                    options=folders.file_names("trajectories"),
                    tooltip="A file that Save Trajectory has written. Press R to see new ones.",
                ),
                io.Boolean.Input(
                    "any_model",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Accept a file of other weights of the same family, for instance to edit with a LoRA that "
                    "was not there at the inversion. The picture will not come back exactly.",
                ),
            ],
            outputs=[
                TrajectorySocket.Output("trajectory", tooltip="The inversion, as DDIM Invert had made it."),
                io.Latent.Output("inverted", tooltip="The noise at the end of the way, as a latent."),
                io.Noise.Output("noise", tooltip="Makes Sampler Custom Advanced start at exactly the inverted latent."),
                io.Sigmas.Output("sigmas", tooltip="The schedule of the inversion, to sample with."),
                io.Latent.Output("source", tooltip="The picture that was inverted, as a latent."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file=None, **kwargs):
        """Another file under the same name is another input."""
        try:
            state = folders.existing_file("trajectories", file).stat()
        except ValueError:
            return ""
        return f"{state.st_mtime_ns} {state.st_size}"

    @classmethod
    def execute(cls, model, file, any_model=False) -> io.NodeOutput:
        trajectory = read_trajectory(folders.existing_file("trajectories", file))
        (require_same_kind if any_model else require_same_model)(trajectory, model, f"'{file}'")
        out = latent_format(model).process_out
        inverted, source = ({"samples": out(trajectory.latents[i])} for i in (-1, 0))
        sigmas = trajectory.sigmas.flip(0)
        return io.NodeOutput(trajectory, inverted, InvertedNoise(trajectory, model), sigmas, source)


NODES = (SaveTrajectory, LoadTrajectory)
