"""Fitted LoRAs from files, so that a morph can be taken up again another day."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.morphing.lora_files import load_lora, lora_names, lora_path
from .morphing import CATEGORY

LORA_MODEL = io.Custom("LORA_MODEL")


class LoadLoRAWeights(io.ComfyNode):
    """Brings back a LoRA that Save LoRA Weights has written, or any other LoRA file, for LoRA Interpolator."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestLoadLoRAWeights",
            display_name="Load LoRA Weights",
            category=CATEGORY,
            description=cls.__doc__,
            search_aliases=["load lora model", "lora file", "lora loader"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=lora_names(),
                    tooltip="A LoRA of models/loras, or with [output] behind its name one that Save LoRA Weights has "
                    "written to output/loras. Press R to see new ones.",
                ),
            ],
            outputs=[LORA_MODEL.Output("lora", tooltip="For LoRA Interpolator, or the host's Load LoRA Model.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file=None, **kwargs):
        """Another file under the same name is another input."""
        try:
            state = lora_path(file).stat()
        except ValueError:
            return ""
        return f"{state.st_mtime_ns} {state.st_size}"

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        return io.NodeOutput(load_lora(file))


NODES = (LoadLoRAWeights,)
