"""What all blueprints are made of: the photo at the model's size, what there is to do, and how an edit ends.

Nothing connected, painted or typed is an answer and no error: a switch of the host's then gives the photo itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from .blueprint_graph import Graph, Node, Ref, as_subgraph, face_of, subgraph, uid, workflow
from .stamp import pack

MODELS = {"model": "MODEL", "clip": "CLIP", "vae": "VAE"}
PHOTO = {"picture": "IMAGE", **MODELS}
CATEGORY = "Palimpsest"
# Of "old=>new": the new text is there and differs; so is the old one.
NEW = r"^(?!.*=>\s*$)(?!\s*(.*?)\s*=>\s*\1\s*$)"
BOTH = NEW + r"\s*(?!=>)\S"


@dataclass(frozen=True)
class Wish:
    """A blueprint: its graph, the node inside whose picture it shows, and what the search finds it by."""

    name: str
    graph: Graph
    shown: int
    description: str
    aliases: tuple[str, ...]
    identity: str = ""

    def definition(self) -> dict:
        return subgraph(
            self.name,
            self.graph,
            identity=self.identity or uid(self.name),
            description=self.description,
            category=CATEGORY,
            own=pack(),
        )

    def file(self) -> dict:
        """A workflow with nothing but the subgraph's node."""
        definition, alone = self.definition(), Graph({})
        alone.info = {definition["id"]: face_of(definition, self.graph)}
        alone.add(definition["id"])
        extra = {"BlueprintDescription": self.description, "BlueprintSearchAliases": list(self.aliases)}
        return self.on(workflow(self.name, alone, [definition], extra))

    def on(self, canvas: dict) -> dict:
        """The canvas with this wish's nodes as the canvas knows them."""
        (definition,) = canvas["definitions"]["subgraphs"]
        ours = lambda node: as_subgraph(node, definition, self.graph, self.shown)
        canvas["nodes"] = [ours(one) if one["type"] == definition["id"] else one for one in canvas["nodes"]]
        return canvas


def or_none(g: Graph, name: str) -> Ref:
    """Whether pictures are connected to a socket of the face; where none are, a grey pixel takes their place."""
    given = g.add("PalimpsestPaintedMask", "What is connected, or none", picture=getattr(g, name))
    g.replace(name, given["picture"])
    return given["given"]


def scaled(g: Graph) -> Node:
    """The photo at the size that the model paints, in whole latent cells."""
    return g.add("ImageScaleToTotalPixels", "To the model's size", image=g.picture, upscale_method="lanczos",
                 megapixels=g.megapixels, resolution_steps=8)  # fmt: skip


CLOSER = {"closer": ("small finds by themselves, at full size", True)}
"""The control of the second pass."""
ALONE = "a or (b and 0 < c < 0.25 and d * e > 2 * 1048576 * f)"
"""a: whether the mask was painted; b: the control; c: how much of the photo the mask covers; d, e: the photo's sides;
f: the megapixels that the model paints. Where the photo has no more of them, a crop of it shows nothing new."""


def by_itself(g: Graph, painted: Node) -> Ref:
    """Whether the place of a mask is edited by itself, in a crop of the photo: one that was painted always is; one that
    was found, where it is small. painted: a Painted Mask."""
    size = g.add("GetImageSize", "The photo's size", image=g.picture)
    closer = g.add("PrimitiveBoolean", "Small finds by themselves?", value=g.closer)[0]
    megapixels = g.add("PrimitiveFloat", "Megapixels", value=g.megapixels)[0]
    return g.add("ComfyMathExpression", "The place by itself?", expression=ALONE, values__a=painted["painted"],
                 values__b=closer, values__c=painted["covered"], values__d=size["width"], values__e=size["height"],
                 values__f=megapixels)["BOOL"]  # fmt: skip


def cropped(g: Graph, mask: Ref, title: str, picture: Ref | None = None) -> Node:
    """What the mask marks, with room around it, at the model's size; of a mask of everything the whole photo."""
    return g.add("PalimpsestCropToMask", title, picture=picture or g.picture, mask=mask, megapixels=g.megapixels,
                 multiple=8)  # fmt: skip


def place_or_all(g: Graph, alone: Ref, mask: Ref) -> tuple[Node, Ref]:
    """The crop that is edited, of the mask's place or of the whole photo; and the mask on it."""
    everything = g.add("PalimpsestPaintedMask", "The whole photo", picture=g.picture)["mask"]
    crop = cropped(g, either(g, alone, everything, mask, "The place, or all"), "To the model's size")
    return crop, either(g, alone, mask, crop["crop_mask"], "The mask there")


def said_of_size(g: Graph, alone: Ref) -> Ref:
    """A line of the report."""
    near = text(g, "The place was edited by itself, at the model's full size.")
    return either(g, alone, text(g, "The picture was edited as a whole."), near, "How large?")


def to_be_done(g: Graph, there: Ref, strength: Ref, typed: Ref) -> Ref:
    """Whether a picture is there, all is typed that the edit needs, and its strength is above 0."""
    return g.add("ComfyMathExpression", "Is there anything to do?", expression="a * b * c > 0", values__a=typed,
                 values__b=strength, values__c=there)["BOOL"]  # fmt: skip


def both_typed(g: Graph, old: Ref, new: Ref, pattern: str = BOTH) -> Ref:
    both = g.add("StringConcatenate", string_a=old, string_b=new, delimiter="=>")[0]
    return g.add("RegexMatch", "Is all typed?", string=both, regex_pattern=pattern, dotall=True)[0]


def either(g: Graph, switch: Ref, otherwise: Ref, then: Ref, title: str = "") -> Ref:
    return g.add("ComfySwitchNode", title, switch=switch, on_false=otherwise, on_true=then)[0]


def text(g: Graph, words: str, title: str = "") -> Ref:
    return g.add("PrimitiveStringMultiline", title, value=words)[0]


def joined(g: Graph, *texts: Ref) -> Ref:
    """Texts on lines of their own."""
    whole = texts[0]
    for one in texts[1:]:
        whole = g.add("StringConcatenate", string_a=whole, string_b=one, delimiter="\n")[0]
    return whole


def sampled(g: Graph, model: Ref, positive: Ref, negative: Ref, noise: Ref, sigmas: Ref, latent: Ref,
            sampler: Ref | None = None) -> Ref:  # fmt: skip
    """What the host's sampler makes of it, decoded."""
    guider = g.add("CFGGuider", model=model, positive=positive, negative=negative, cfg=g.cfg)[0]
    sampler = sampler or g.add("KSamplerSelect", sampler_name="euler")[0]
    made = g.add("SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas,
                 latent_image=latent)[0]  # fmt: skip
    return g.add("VAEDecode", samples=made, vae=g.vae)[0]


def pixel_true(g: Graph, source: Ref, edited: Ref, mask: Ref, place: Ref, title: str, seam: int = 1) -> Node:
    """An edit of our own in its source: nothing has moved, and colours are the model's own. seam: pixels by which the
    mask grows, and over which the edit passes into the source."""
    return g.add("PalimpsestPixelTrueFinish", title, source=source, edited=edited, registration="off", colour="off",
                 grow=seam, feather=seam, mask=mask, place=place)  # fmt: skip


def finished(g: Graph, edited: Ref, mask: Ref, place: Ref, notes: Ref, to_do: Ref, results: str = "picture") -> Node:
    """The edit inside the mask, the photo's own pixels outside of it, and the report. place: what was edited."""
    made = pixel_true(g, g.picture, edited, mask, place, "The photo's own pixels outside")
    return reported(g, made["picture"], made["mask"], notes, to_do, results)


def reported(g: Graph, picture: Ref, mask: Ref, notes: Ref, to_do: Ref, results: str = "picture") -> Node:
    """What the blueprint hands out; the photo where there is nothing to do. notes: what stands above the numbers."""
    picture = either(g, to_do, g.picture, picture, "The edit, or the photo")
    nothing = g.add("SolidMask", "No mask", value=0.0, width=64, height=64)[0]
    where = either(g, to_do, nothing, mask, "The mask, or none")
    report = g.add("PalimpsestEditReport", source=g.picture, edit=picture, mask=where, notes=notes)
    g.give(**{results: picture}, mask=where, comparison=report["panel"], report=report["report"])
    # The front end hands a subgraph's face the pictures of nodes that it knows.
    return g.add("PreviewImage", images=report["panel"])
