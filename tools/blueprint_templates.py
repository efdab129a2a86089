"""The templates of the six wishes: a blueprint with what it needs, on the model and the picture that people have. One
that edits a folder of pictures, and the prompts for programs that are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .blueprint_graph import FACE, Graph, Node, Ref, face_of, workflow
from .blueprint_parts import Wish
from .examples import EXAMPLES
from .stamp import pack
from .workflow import read, to_prompt

SD15 = {
    "name": "v1-5-pruned-emaonly-fp16.safetensors",
    "url": "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
    "v1-5-pruned-emaonly-fp16.safetensors?download=true",
    "directory": "checkpoints",
}
GIRL, HEART = "a drawing of a girl in a {} dress on a green hill", "a {} striped heart on a cream checked ground"
CHECKPOINT, PICTURE = 1, 2
PAINTED = "\n".join((
    HEART.format("red"), "a yellow dotted moon on a lilac gradient ground",
    "a blue dotted cross on a mint plain ground", "a green triangle on a lilac gradient ground",
    "a purple star on a mint plain ground", "a green circle and an orange striped square on a grey waves ground",
))  # fmt: skip
"""What the demo lets Papercut learn from."""
DRAG = read(EXAMPLES / "Drag a thing.json")["extra"]["palimpsest"]["demo"]["7"]["canvas"]
"""What the demo draws on Flow Canvas: the heart goes up and to the right."""


@dataclass(frozen=True)
class Template:
    """A wish's place in the Templates dialog. values: of its face; demo: what the demo sets there; choose: how the
    first line of the note goes on; story: what the gallery says; app: the widgets of the face that the app shows;
    photo: the demo's picture, "" where there is none."""

    name: str
    number: int
    choose: str
    story: str
    values: Mapping[str, Any]
    demo: Mapping[str, Any]
    app: tuple[str, ...] = ()
    photo: str = "papercut_source.png"
    more: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


TEMPLATES = {
    "Edit by Words": Template(
        "Edit by words", 1,
        "your picture in **Load Image**, write what it shows and, a line each, what it is to show; press **Run**.",
        "The caption is changed, and the picture follows; what its words do not name stays to the pixel.",
        {"caption": GIRL.format("pink"), "edits": GIRL.format("red"), "steps": 50},
        {"caption": HEART.format("red"), "edits": HEART.format("blue"), "steps": 20}, ("caption", "edits"),
    ),
    "Change Only That": Template(
        "Change only that", 2,
        "your picture in **Load Image**, say what is there and what it becomes; press **Run**.",
        "From two texts the place that has to change is found, and only that is painted again.",
        {"what_it_shows": GIRL.format("pink"), "what_it_becomes": GIRL.format("red"), "steps": 32},
        {"what_it_shows": "a purple star on a mint plain ground",
         "what_it_becomes": "a red star on a mint plain ground", "steps": 13, "cfg": 5.0},
        ("what_it_shows", "what_it_becomes"), "papercut_star.png",
    ),
    "Remove": Template(
        "Remove", 3,
        "your picture in **Load Image**, say what goes, or paint over it (right click, *Open in MaskEditor*); press "
        "**Run**.",
        "A thing is named, found and taken away, and its place is filled from around it.",
        {"what_goes": "a girl in a pink dress", "steps": 30}, {"what_goes": "a red striped heart", "steps": 20},
        ("what_goes",),
    ),
    "Move It": Template(
        "Move it", 4,
        "your picture in **Load Image**, outline a thing on **Flow Canvas** and drag it; press **Run**. Say what the "
        "picture shows where its old place is filled too plainly.",
        "A thing is outlined and dragged; it is painted at its new place, and the old one is filled.",
        {"steps": 40},
        {"caption": HEART.format("red"), "steps": 8}, more={"3": {"canvas": DRAG}},
    ),
    "Draw It": Template(
        "Draw it", 5,
        "a drawing in **Load Image** (with Nodes 2.0 the host's *Painter* may take its place), say what is drawn; "
        "press **Run**. It needs an edge predictor: *Train an edge predictor* makes one for your model.",
        "Lines become a picture: a small predictor reads the coming edges, and sampling is moved until they meet the "
        "strokes.",
        {"caption": "a girl in a pink dress on a green hill", "steps": 30},
        {"caption": "a purple star on a mint plain ground", "width": 256, "height": 256, "steps": 20, "cfg": 5.0},
        photo="papercut_star_sketch.png", more={"3": {"file": "papercut-edges.safetensors"}},
    ),
    "Train an Edge Predictor": Template(
        "Train an edge predictor", 11,
        "press **Run**: your model paints pictures, learns their edges, and saves what *Draw it* needs. No picture of "
        "yours is needed.",
        "The model paints pictures, and a small network learns from them what counts as an edge: here what it sees in "
        "one of them halfway through a run.",
        {"steps": 20},
        {"prompts": PAINTED, "pictures": 12, "width": 256, "height": 256, "cfg": 5.0, "learning": 300,
         "file": "demo_edges"}, photo="",
    ),
    "Morph": Template(
        "Morph", 6,
        "a picture of your own in each **Load Image** (as it stands both load the same); press **Run**. Write what "
        "each shows, a line a picture, where things fade rather than turn into each other.",
        "Each picture is learned for a moment, and the frames between them are painted in one batch.",
        {},
        {"captions": "a pink heart on a mint plain ground\na purple star on a mint plain ground", "frames": 9,
         "steps": 12, "lora_steps": 60},
        photo="papercut_key_2.png",
        more={"3": {"image": "papercut_key_3.png"}, "4": {"width": 0, "height": 0}},
    ),
}  # fmt: skip
NOTE = "{number} of 12. Choose a checkpoint in **Load Checkpoint** and {choose}\n\n## {name}\n\n{done} {size}"
COMPARED = (
    "What was found and done stands in *What was done*, with the mask over the picture and the one control to turn "
    "where it is not what you meant."
)
REPORTED = "Its *report* says what was done, and what to change where it is not what you meant."
MEGAPIXELS = "*megapixels* is the size that the model paints: 0.25 for Stable Diffusion 1, 1 for XL."
PIXELS = "*width* and *height* are the size that the model paints: 512 for Stable Diffusion 1, 1024 for XL."
FOLDER_NUMBER = 33
FOLDER_NOTE = (
    "A technique. Choose a checkpoint in **Load Checkpoint** and a folder in **Load Image (from Folder)**, say what "
    "all of its pictures show and what they are to show, and press **Run**.\n\n"
    "## Edit a folder of pictures\n\nThe folder lies inside the *input* "
    "folder; press R to see a new one. Each picture is edited at its own size, one after the other."
)


def template(wish: Wish, info: Mapping[str, dict]) -> dict:
    """The file of the wish's template."""
    one, definition = TEMPLATES[wish.name], wish.definition()
    g = Graph({**info, definition["id"]: face_of(definition, wish.graph)})
    loaded = g.add("CheckpointLoaderSimple", ckpt_name=SD15["name"])
    models = {name: loaded[name.upper()] for name in ("model", "clip", "vae")}
    node = g.add(definition["id"], **models, **_sources(wish, g, loaded), **one.values)
    before, after = _shown(wish, g, node)
    scaled, compared = "megapixels" in wish.graph.controls, "comparison" in wish.graph.results
    done, size = COMPARED if compared else REPORTED, MEGAPIXELS if scaled else PIXELS
    _note(g, NOTE.format(name=one.name, number=one.number, choose=one.choose, done=done, size=size))
    demo = {str(CHECKPOINT): {"ckpt_name": "papercut.safetensors"}, **one.more}
    demo |= {str(PICTURE): {"image": one.photo}} if one.photo else {}
    demo[str(node.number)] = {**one.demo, **({"megapixels": 0.0625} if scaled else {})}
    facts = {"number": one.number, "title": wish.name, "story": one.story, "before": str(before),
             "after": str(after), "demo": demo}  # fmt: skip
    extra: dict[str, Any] = {"palimpsest": facts}
    if one.app:
        inputs = [[str(PICTURE), "image"], *([str(node.number), name] for name in one.app)]
        extra |= {"linearMode": True, "linearData": {"inputs": inputs, "outputs": [str(after)]}}
    made = wish.on(workflow(one.name, g, [definition], extra, pack()))
    made["nodes"][0]["properties"]["models"] = [SD15]
    return made


def _sources(wish: Wish, g: Graph, loaded: Node) -> dict[str, Ref]:
    """What the blueprint gets beside the model."""
    name = wish.name
    if not TEMPLATES[name].photo:
        return {}
    picture = g.add("LoadImage", "Your picture", image="example.png")
    if name == "Move It":
        canvas = g.add("PalimpsestFlowCanvas", "Drag here", image=picture["IMAGE"])
        return {"picture": picture["IMAGE"], "flow": canvas["flow"], "layers": canvas["layers"]}
    if name == "Draw It":
        predictor = g.add("PalimpsestLoadEdgePredictor", file="the newest", model=loaded["MODEL"])
        return {"drawing": picture["IMAGE"], "edge_predictor": predictor["edge_predictor"]}
    if name == "Morph":
        second = g.add("LoadImage", "Your second picture", image="example.png")
        keys = g.add("PalimpsestKeyPictures", pictures__picture0=picture["IMAGE"], pictures__picture1=second["IMAGE"],
                     width=512, height=512)  # fmt: skip
        return {"pictures": keys["pictures"]}
    return {"picture": picture["IMAGE"], "mask": picture["MASK"]}


def _shown(wish: Wish, g: Graph, node: Node) -> tuple[int, int]:
    """The numbers of the nodes with the picture before and after: that which saves comes last, behind one that shows
    the comparison, since not every front end shows it on the blueprint's face."""
    if not TEMPLATES[wish.name].photo:
        painted = g.add("PreviewImage", "What it has learned from", images=node["pictures"])
        g.add("PreviewImage", "How it learned", images=node["loss_plot"])
        return painted.number, g.add("PreviewImage", "Which edges it sees", images=node["edges_seen"]).number
    if "comparison" in wish.graph.results:
        g.add("PreviewImage", "What was done", images=node["comparison"])
    prefix = f"palimpsest/{TEMPLATES[wish.name].name.lower().replace(' ', '_')}"
    if wish.name == "Morph":
        return PICTURE, g.add("SaveAnimatedWEBP", images=node[0], filename_prefix=prefix, fps=8.0).number
    return PICTURE, g.add("SaveImage", images=node[0], filename_prefix=prefix).number


def for_programs(wish: Wish, info: Mapping[str, dict]) -> dict:
    """The wish's template as a prompt. `_meta.controls` of a node says which of its inputs are which control."""
    made = template(wish, info)
    prompt = to_prompt(made, info)
    (number,) = (node["id"] for node in made["nodes"] if node["type"] == wish.definition()["id"])
    names = [*wish.graph.sockets, *wish.graph.controls]
    for _, start, target, slot in wish.graph.links:
        if start.node == FACE and names[start.slot] in wish.graph.controls and target in wish.graph.nodes:
            inner = wish.graph.nodes[target].inputs[slot]["name"]
            meta = prompt[f"{number}:{target}"]["_meta"]
            meta.setdefault("controls", {})[inner] = names[start.slot]
    pictures = [key for key, node in prompt.items() if node["class_type"] == "LoadImage"]
    for place, key in enumerate(pictures):
        prompt[key]["_meta"]["controls"] = {"image": "picture" if place == 0 else f"picture{place + 1}"}
    prompt[str(CHECKPOINT)]["_meta"]["controls"] = {"ckpt_name": "checkpoint"}
    for node in prompt.values():
        own = {"PalimpsestLoadEdgePredictor": {"file": "edge_predictor"}, "PalimpsestFlowCanvas": {"canvas": "canvas"}}
        node["_meta"].update({"controls": own[node["class_type"]]} if node["class_type"] in own else {})
    return prompt


def folder_template(wish: Wish, info: Mapping[str, dict]) -> dict:
    """Edit by Words on all pictures of a folder inside ComfyUI's input folder."""
    one, definition = TEMPLATES[wish.name], wish.definition()
    g = Graph({**info, definition["id"]: face_of(definition, wish.graph)})
    loaded = g.add("CheckpointLoaderSimple", ckpt_name=SD15["name"])
    models = {name: loaded[name.upper()] for name in ("model", "clip", "vae")}
    pictures = g.add("LoadImageDataSetFromFolder", "A folder of pictures", folder="my_pictures")
    node = g.add(definition["id"], **models, picture=pictures[0], **one.values)
    saved = g.add("SaveImage", images=node[0], filename_prefix="palimpsest/folder/edit")
    _note(g, FOLDER_NOTE)
    demo = {"1": {"ckpt_name": "papercut.safetensors"}, "2": {"type": "LoadImage", "image": one.photo},
            str(node.number): {**one.demo, "megapixels": 0.0625}}  # fmt: skip
    facts = {"number": FOLDER_NUMBER, "title": "Edit a folder of pictures", "before": "2", "after": str(saved.number),
             "story": "One caption and one edit for every picture of a folder.", "demo": demo}  # fmt: skip
    made = wish.on(workflow("Edit a folder", g, [definition], {"palimpsest": facts}, pack()))
    made["nodes"][0]["properties"]["models"] = [SD15]
    return made


def _note(g: Graph, words: str) -> None:
    """A note below the first nodes; it is of the canvas alone, and the host does not know it."""
    spec = {"input": {"required": {"text": ["STRING", {"multiline": True}]}}, "output": [], "output_name": []}
    g.info = {**g.info, "MarkdownNote": spec}
    g.add("MarkdownNote", "Read me", text=words)
