"""One node for each wish, through the real host on Papercut: what it gives, and what it says where there is nothing to
do."""

import io

import numpy as np
import pytest
import torch
from palimpsest.papercut.make_pictures import SCENES
from palimpsest.tools.blueprint_graph import Graph, face_of, workflow
from palimpsest.tools.blueprints import FOLDER, files, wishes
from palimpsest.tools.places import ROOT
from palimpsest.tools.workflow import to_prompt
from PIL import Image

PHOTO = ROOT / "papercut" / "pictures" / "papercut_source.png"
CAPTION, NEW = "a red striped heart on a cream checked ground", "a blue striped heart on a cream checked ground"
BRIEF = {"megapixels": 0.0625, "steps": 2}
# What each is asked, and how the same is asked for nothing.
ASKED = {
    "Edit by Words": ({"caption": CAPTION, "edits": f"{NEW}\n{NEW.replace('blue', 'green')}"}, {"edits": " \n"}),
    "Change Only That": ({"what_it_shows": CAPTION, "what_it_becomes": NEW}, {"what_it_becomes": CAPTION}),
    "Remove": ({"what_goes": "a red striped heart"}, {"what_goes": ""}),
    "Move It": ({"caption": CAPTION}, {"denoise": 0.0}),
}
STRENGTH = {"Edit by Words": "strength", "Change Only That": "depth", "Remove": "depth", "Move It": "denoise"}
each_edit = pytest.mark.parametrize("name", ASKED)


def wish_named(client, name: str):
    return next(wish for wish in wishes(client.object_info()) if wish.name == name)


def canvas(client, wish, sources, **values) -> tuple[dict, dict]:
    """The wish's prompt, and the numbers of the nodes that show its outputs. sources(graph): its further inputs."""
    definition = wish.definition()
    g = Graph({**client.object_info(), definition["id"]: face_of(definition, wish.graph)})
    loaded = g.add("CheckpointLoaderSimple", ckpt_name="papercut.safetensors")
    models = {name: loaded[name.upper()] for name in ("model", "clip", "vae")}
    node = g.add(definition["id"], **models, **sources(g), **values)
    shown = {}
    for one in node.outputs:
        kind, socket = {"IMAGE": ("PreviewImage", "images"), "MASK": ("MaskPreview", "mask")}.get(
            one["type"], ("PreviewAny", "source")
        )
        shown[one["name"]] = str(g.add(kind, **{socket: node[one["name"]]}).number)
    return to_prompt(wish.on(workflow("test", g, [definition])), client.object_info()), shown


def photo(g: Graph) -> dict:
    return {"picture": g.add("LoadImage", image=PHOTO.name)["IMAGE"]}


def moved(g: Graph) -> dict:
    mask = g.add("LoadImageMask", image="papercut_source_mask.png", channel="red")[0]
    return {**photo(g), "flow": g.add("PalimpsestFlowFromTransform", mask=mask, move_x=32.0)[0]}


def run(client, name: str, sources=None, **values):
    """(pictures by output, texts by output) of a run."""
    sources = sources or (moved if name == "Move It" else photo)
    prompt, shown = canvas(client, wish_named(client, name), sources, **values)
    result = client.run(prompt)
    assert result.status == "success", f"{result.error_node}: {result.error}"
    pixels = lambda file: np.asarray(Image.open(io.BytesIO(client.view(file))))
    pictures = {output: [pixels(file) for file in result.files(node)] for output, node in shown.items()}
    return pictures, {output: "\n".join(result.texts(node)) for output, node in shown.items()}


def test_what_ships_is_what_is_made(host_client):
    for path, text in files(host_client.object_info()).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run 'make blueprints'"
    assert {path.stem for path in FOLDER.glob("*.json")} == {wish.name for wish in wishes(host_client.object_info())}


@each_edit
def test_an_edit_changes_the_picture_inside_its_mask_alone(host_client, name):
    pictures, texts = run(host_client, name, **ASKED[name][0], **BRIEF)
    before = np.asarray(Image.open(PHOTO).convert("RGB"))
    made = pictures.get("pictures") or pictures["picture"]
    assert len(made) == len(pictures["mask"]) == (2 if name == "Edit by Words" else 1)
    for after, mask in zip(made, pictures["mask"], strict=True):
        assert after.shape == before.shape and (after != before).any()
        assert 0 < (mask[..., 0] > 0).mean() < 0.8
    assert texts["report"].count("pixels changed outside the mask: 0") == len(made)
    assert "% of the picture" in texts["report"] and "?" in texts["report"]


@pytest.mark.parametrize("count", [1, 9])
def test_one_edit_or_nine_give_as_many_pictures(host_client, count):
    colours = ("blue", "green", "yellow", "purple", "orange", "pink", "grey", "black", "white")
    edits = "\n".join(NEW.replace("blue", colour) for colour in colours[:count])
    asked = {"caption": CAPTION, "edits": edits, "megapixels": 0.02, "steps": 2}
    pictures, texts = run(host_client, "Edit by Words", **asked)
    assert len(pictures["pictures"]) == len(pictures["mask"]) == count
    assert texts["report"].count("pixels changed outside the mask: 0") == count


@each_edit
def test_nothing_to_do_gives_the_photo_itself_and_says_so(host_client, name):
    asked, idle = ASKED[name]
    before = np.asarray(Image.open(PHOTO).convert("RGB"))
    for change in (idle, {STRENGTH[name]: 0.0}):
        pictures, texts = run(host_client, name, **{**asked, **BRIEF, **change})
        (after,) = pictures.get("pictures") or pictures["picture"]
        assert (after == before).all() and texts["report"].startswith("Nothing was")


def test_a_painted_mask_comes_first_and_an_unpainted_one_counts_as_none(host_client):
    def painted(g: Graph) -> dict:
        return {**photo(g), "mask": g.add("LoadImageMask", image="papercut_source_mask.png", channel="red")[0]}

    def unpainted(g: Graph) -> dict:
        load = g.add("LoadImage", image=PHOTO.name)
        return {"picture": load["IMAGE"], "mask": load["MASK"]}

    asked = {**ASKED["Edit by Words"][0], "edits": NEW, **BRIEF}
    assert "Mask painted by hand: 17 %" in run(host_client, "Edit by Words", painted, **asked)[1]["report"]
    assert "Mask found" in run(host_client, "Edit by Words", unpainted, **asked)[1]["report"]
    assert "painted by hand" in run(host_client, "Remove", painted, **BRIEF)[1]["report"]


@pytest.fixture(scope="module")
def large(host, tmp_path_factory):
    """The sources of a photo of four times the pixels, in whose middle the heart is small; painted: with its mask."""
    side = torch.arange(512.0) - 128
    points = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)
    scene, folder = SCENES["source"], tmp_path_factory.mktemp("large")
    drawn = {"large.png": scene.render(points).movedim(0, -1), "large_mask.png": (scene.labels(points) >= 0).float()}
    for file, picture in drawn.items():
        Image.fromarray((picture * 255).byte().numpy()).save(folder / file)
        host.client.upload(folder / file)
    mask = lambda g: g.add("LoadImageMask", image="large_mask.png", channel="red")[0]
    photo = lambda g: {"picture": g.add("LoadImage", image="large.png")["IMAGE"]}
    moved = lambda g: {**photo(g), "flow": g.add("PalimpsestFlowFromTransform", mask=mask(g), move_x=40.0)[0]}
    painted = lambda g: {**photo(g), "mask": mask(g)}
    return {"photo": photo, "moved": moved, "painted": painted, "before": np.asarray(Image.open(folder / "large.png"))}


ALONE, WHOLE = "The place was edited by itself, at the model's full size.", "The picture was edited as a whole."


@each_edit
def test_a_small_find_in_a_large_photo_is_edited_by_itself(host_client, large, name):
    asked = {**ASKED[name][0], **BRIEF}
    sources = large["moved" if name == "Move It" else "photo"]
    made = []
    for closer, said in ((True, ALONE), (False, WHOLE)):
        pictures, texts = run(host_client, name, sources, **asked, closer=closer)
        after = (pictures.get("pictures") or pictures["picture"])[0]
        mask = pictures["mask"][0][..., 0] > 0
        small = 0 < mask.mean() < 0.25
        assert after.shape == large["before"].shape and (after == large["before"])[~mask].all()
        assert (said if small else WHOLE) in texts["report"]
        made.append(after)
    assert not small or (made[0] != made[1]).any()


@pytest.mark.parametrize("name", [name for name in ASKED if name != "Move It"])
def test_a_painted_place_is_edited_by_itself(host_client, large, name):
    pictures, texts = run(host_client, name, large["painted"], **ASKED[name][0], **BRIEF, closer=False)
    after = (pictures.get("pictures") or pictures["picture"])[0]
    mask = pictures["mask"][0][..., 0] > 0
    assert ALONE in texts["report"] and 0 < mask.mean() < 0.1
    assert (after == large["before"])[~mask].all() and (after != large["before"])[mask].any()


def test_what_has_moved_has_the_photo_s_own_pixels(host_client, large):
    """A move by whole pixels: the heart's inside is the photo's, to the bit."""
    pictures, _ = run(host_client, "Move It", large["moved"], caption=CAPTION, **BRIEF)
    (after,) = pictures["picture"]
    assert (after[236:276, 276:316] == large["before"][236:276, 236:276]).all()


def test_motion_is_in_pixels_of_the_photo_and_none_is_no_error(host_client):
    assert "moved 32 px to the right" in run(host_client, "Move It", caption=CAPTION, **BRIEF)[1]["report"]
    pictures, texts = run(host_client, "Move It", photo, caption=CAPTION, **BRIEF)
    assert "Nothing moves." in texts["report"]
    assert (pictures["picture"][0] == np.asarray(Image.open(PHOTO).convert("RGB"))).all()


def test_a_drawing_guides_and_blank_paper_leaves_the_caption_alone(host_client):
    def drawing(file: str):
        return lambda g: {
            "drawing": g.add("LoadImage", image=file)["IMAGE"],
            "edge_predictor": g.add("PalimpsestLoadEdgePredictor", file="papercut-edges.safetensors")[0],
        }

    def blank(g: Graph) -> dict:
        paper = g.add("EmptyImage", width=64, height=64, color=0xFFFFFF)[0]
        return {**drawing("papercut_star_sketch.png")(g), "drawing": paper}

    asked = {"caption": "a purple star on a mint plain ground", "width": 128, "height": 128, "steps": 3}
    drawn, texts = run(host_client, "Draw It", drawing("papercut_star_sketch.png"), **asked)
    plain, nothing = run(host_client, "Draw It", blank, **asked)
    idle, _ = run(host_client, "Draw It", drawing("papercut_star_sketch.png"), **{**asked, "strength": 0.0})
    assert "follows your strokes" in texts["report"] and "Nothing is drawn" in nothing["report"]
    assert drawn["edges_found"][0].any() and not plain["edges_found"][0].any()
    assert (drawn["picture"][0] != plain["picture"][0]).any() and (idle["picture"][0] == plain["picture"][0]).all()


def test_a_predictor_is_taught_without_pictures_and_guides(host_client):
    asked = {"prompts": "a purple star on a mint plain ground\na red heart on a cream plain ground", "pictures": 4,
             "width": 128, "height": 128, "steps": 3, "learning": 10, "file": "taught_here"}  # fmt: skip
    pictures, texts = run(host_client, "Train an Edge Predictor", lambda g: {}, **asked)
    assert len(pictures["pictures"]) == 4 and len(pictures["edges_seen"]) == 6
    assert texts["report"].startswith("4 pictures were painted") and "taught_here_00001_.safetensors" in texts["report"]

    def drawing(g: Graph) -> dict:
        predictor = g.add("PalimpsestLoadEdgePredictor", file="taught_here_00001_.safetensors")
        return {"drawing": g.add("LoadImage", image="papercut_star_sketch.png")[0], "edge_predictor": predictor[0]}

    brief = {"caption": "a purple star", "width": 128, "height": 128, "steps": 2}
    assert "follows your strokes" in run(host_client, "Draw It", drawing, **brief)[1]["report"]


@pytest.mark.parametrize("captions", ["a pink heart on a mint plain ground\na purple star on a mint plain ground", ""])
def test_a_morph_has_its_frames_with_captions_or_without(host_client, captions):
    def keys(g: Graph) -> dict:
        two = [g.add("LoadImage", image=f"papercut_key_{i}.png")["IMAGE"] for i in (2, 3)]
        small = [g.add("ImageScale", image=one, upscale_method="area", width=64, height=64, crop="disabled")[0]
                 for one in two]  # fmt: skip
        pictures = g.add("PalimpsestKeyPictures", pictures__picture0=small[0], pictures__picture1=small[1])
        return {"pictures": pictures["pictures"]}

    pictures, texts = run(host_client, "Morph", keys, captions=captions, frames=4, steps=2, lora_steps=2)
    assert len(pictures["frames"]) == 4 and texts["report"].startswith("4 frames through 2 pictures.")
