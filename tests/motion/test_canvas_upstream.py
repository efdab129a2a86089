"""Flow Canvas shows its picture before the first run, past nodes that only resize it. Needs a browser."""

from pathlib import Path

from palimpsest.tools.blueprint_graph import Graph, workflow

from ..browser import both_renderers, browse, needs_browser

REROUTE = {"input": {"required": {"": ["*", {}]}}, "output": ["*"], "output_name": [""]}
# Which nodes stand between, and whether the picture is shown.
BETWEEN = {
    "nothing": ((), True),
    "a resize": ((("ImageScaleToTotalPixels", "image", {"megapixels": 0.03}),), True),
    "a reroute and two": (
        (("Reroute", "", {}), ("ImageScaleBy", "image", {}), ("ImageScale", "image", {"crop": "disabled"})),
        True,
    ),
    "a crop": ((("ImageScale", "image", {"crop": "center"}),), False),
    "a flip": ((("ImageFlip", "image", {}),), False),
}


def canvas(info: dict, between) -> dict:
    g = Graph({**info, "Reroute": REROUTE})
    picture = g.add("LoadImage", image="papercut_source.png")[0]
    for kind, name, values in between:
        picture = g.add(kind, **{name: picture}, **values)[0]
    g.add("PalimpsestFlowCanvas", image=picture)
    return workflow("upstream", g)


@needs_browser
@both_renderers
def test_the_canvas_shows_its_picture_past_nodes_that_only_resize(front_end, vue):
    info = front_end.client.object_info()
    found = browse(
        Path(__file__).with_name("upstream_browser.mjs"),
        front_end,
        vue,
        workflows={name: canvas(info, between) for name, (between, _) in BETWEEN.items()},
        expected={name: shown for name, (_, shown) in BETWEEN.items()},
    )
    assert found["shown"] == {name: shown for name, (_, shown) in BETWEEN.items()}
