"""Prompt List: many prompts, a line each, for pictures that the model paints to teach an edge predictor by."""

from __future__ import annotations

from itertools import cycle, islice

from comfy_api.latest import io

from ..host.prompt_to_prompt.tokens import as_rows, encode_tokens
from .sketch import CATEGORY
from .sockets import optional

# 24 things and 5 manners have no common divisor, so stepping through both gives 120 prompts that all differ.
THINGS = (
    "a cat", "a city street", "a bowl of fruit", "a woman's face", "a sailing ship", "an old house", "a mountain lake",
    "a bicycle", "a dog running", "a teapot", "a bridge", "a man with a hat", "a forest path", "a parked car",
    "a bird on a branch", "a kitchen", "a castle", "a horse", "a vase with flowers", "two children", "a chair",
    "a lighthouse", "a hand holding a cup", "a market hall",
)  # fmt: skip
MANNERS = ("a photograph of {}", "an oil painting of {}", "a photograph of {}, close-up", "a watercolour of {}",
           "a 3D render of {}")  # fmt: skip
BUILT_IN = tuple(MANNERS[i % len(MANNERS)].format(THINGS[i % len(THINGS)]) for i in range(len(MANNERS) * len(THINGS)))


class PromptList(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestPromptList",
            display_name="Prompt List",
            category=CATEGORY,
            description="Gives prompts and seeds as lists: the nodes behind it run once for each. For pictures that "
            "your model paints to teach an edge predictor by, and for any other series.",
            search_aliases=["prompts from lines", "text list", "batch prompts", "prompt iterator"],
            inputs=[
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="One prompt a line. Empty = a built-in list of 120 things in five manners.",
                ),
                io.Int.Input(
                    "count",
                    default=100,
                    min=1,
                    max=10000,
                    tooltip="How many pictures. With fewer lines they are repeated, each time with another seed.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="The first picture's seed; it grows by one from picture to picture.",
                ),
                optional(io.Clip, "clip", "Encodes the prompts for `rows`; not needed for the lists."),
            ],
            outputs=[
                io.String.Output("prompts", is_output_list=True, tooltip="For CLIP Text Encode: a prompt a picture."),
                io.Int.Output("seeds", is_output_list=True, tooltip="For KSampler's seed: one a picture."),
                io.Conditioning.Output(
                    "rows",
                    tooltip="With CLIP: all prompts in one conditioning, a row a picture of one batch, for "
                    "samplers, LoRA Fit and Morph Conditioning.",
                ),
            ],
        )

    @classmethod
    def execute(cls, prompts="", count=100, seed=0, clip=None) -> io.NodeOutput:
        lines = [line.strip() for line in prompts.splitlines() if line.strip()] or BUILT_IN
        repeated = lambda each: list(islice(cycle(each), count))
        seeds = list(range(seed, seed + count))
        if clip is None:
            return io.NodeOutput(repeated(lines), seeds, None)
        encoded = [encode_tokens(clip, clip.tokenize(one)) for one in lines[:count]]
        return io.NodeOutput(repeated(lines), seeds, as_rows(repeated(encoded)))


NODES = (PromptList,)
