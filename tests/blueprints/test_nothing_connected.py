"""Where nothing is connected to a blueprint beside its model, it says what to connect, and is no error."""

import pytest

from .test_in_the_host import ASKED, BRIEF, run

ANSWERS = {
    "Edit by Words": "connect a picture", "Change Only That": "connect a picture", "Remove": "connect a picture",
    "Move It": "connect a picture", "Draw It": "Nothing is drawn", "Morph": "connect pictures",
}  # fmt: skip
PAINTED = {"caption": "a purple star", "width": 64, "height": 64, "steps": 2}


def nothing(g) -> dict:
    return {}


@pytest.mark.parametrize("name", ANSWERS)
def test_nothing_connected_is_an_answer(host_client, name):
    asked = {**ASKED[name][0], **BRIEF} if name in ASKED else PAINTED if name == "Draw It" else {"frames": 4}
    assert ANSWERS[name] in run(host_client, name, nothing, **asked)[1]["report"]


def test_a_drawing_without_a_predictor_is_painted_by_its_caption(host_client):
    """And the report says which template makes a predictor."""
    drawing = lambda g: {"drawing": g.add("LoadImage", image="papercut_star_sketch.png")["IMAGE"]}
    pictures, texts = run(host_client, "Draw It", drawing, **PAINTED)
    assert len(pictures["picture"]) == 1 and "Train an edge predictor" in texts["report"]


def test_one_picture_is_no_morph(host_client):
    one = lambda g: {"pictures": g.add("LoadImage", image="papercut_key_2.png")["IMAGE"]}
    pictures, texts = run(host_client, "Morph", one, frames=4)
    assert len(pictures["frames"]) == 1 and "connect pictures" in texts["report"]
