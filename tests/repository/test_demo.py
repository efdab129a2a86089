"""The demo: workflows through the real host into a page that shows them, failures included."""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from palimpsest.tools import demo, thumbnails
from palimpsest.tools.demo import ProgressLine, progress_text, show, without_repeats
from palimpsest.tools.examples import examples
from palimpsest.tools.gallery import Exhibit, Item, page_html, rows_html, write_gallery
from palimpsest.tools.steps import Status
from palimpsest.tools.workflow import node_types, read
from PIL import Image

from ..browser import CHROMIUM, PLAYWRIGHT, needs_browser

ROW = {
    "technique": "inversion",
    "measure": "PSNR",
    "mode": "fast",
    "value": 24.4321,
    "unit": "dB",
    "target": ">= 24",
    "met": True,
    "machine": "two cores",
    "date": "2026-01-01",
}


def node(identifier, kind, values, inputs=(), outputs=(), x=0, **more):
    slots = [{"name": name, "type": kind_, "link": link} for name, kind_, link in inputs]
    made = [{"name": kind_, "type": kind_, "links": []} for kind_ in outputs]
    return {
        "id": identifier,
        "type": kind,
        "widgets_values": values,
        "inputs": slots,
        "outputs": made,
        "pos": [x, 0],
        **more,
    }


def workflow(**facts):
    """A picture, its inverse, an animation and a number: everything that a gallery shows."""
    nodes = [
        node(4, "SaveImage", ["edit"], [("images", "IMAGE", 2)], x=400, title="The edit"),
        node(1, "EmptyImage", [64, 48, 3, 0xA04030], outputs=["IMAGE"]),
        node(2, "ImageInvert", [], [("image", "IMAGE", 1)], ["IMAGE"], x=200),
        node(3, "PreviewImage", [], [("images", "IMAGE", 1)], x=300, title="The <source>"),
        node(5, "SaveAnimatedWEBP", ["anim", 6, True, 80, "default"], [("images", "IMAGE", 2)], x=500),
        node(6, "GetImageSize", [], [("image", "IMAGE", 1)], ["INT"], x=250),
        node(7, "PreviewAny", [], [("source", "*", 3)], x=450, title="Width"),
    ]
    links = [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 4, 0, "IMAGE"], [3, 6, 0, 7, 0, "INT"]]
    return {"nodes": nodes, "links": links, "extra": {"palimpsest": facts} if facts else {}}


@pytest.fixture
def run(host_client, tmp_path):
    """Shows a workflow into a gallery folder of its own."""

    def call(graph: dict, name: str = "turn_the_light") -> Exhibit:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(graph))
        return show(host_client, path, f"[1/1] {name}", tmp_path / "demo" / name)

    return call


class Links(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href")]


def test_a_workflow_becomes_an_exhibit_with_all_that_it_made(run, tmp_path):
    exhibit = run(workflow(title="Turn the light", story="A story.", before=3, after=4))
    assert (exhibit.title, exhibit.story, exhibit.error) == ("Turn the light", "A story.", "")
    assert [item.title for item in exhibit.items] == ["The <source>", "The edit", "Width", "Save Animated WEBP"]
    assert [len(item.files) for item in exhibit.items] == [3, 3, 0, 1] and exhibit.items[2].texts == ("64",)
    assert exhibit.before == exhibit.items[0].files[0] and exhibit.after == exhibit.items[1].files[0]
    page = write_gallery(tmp_path / "demo", [exhibit], [ROW])
    links = Links(page.read_text()).found
    assert len(links) >= 10
    for link in links:
        assert link.startswith("#") or (tmp_path / "demo" / link).is_file(), link


def test_the_picture_that_a_loader_loaded_can_be_the_one_before(run, host_client, host, tmp_path):
    picture = tmp_path / "source.png"
    files = host_client.run(
        {
            "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 9}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        }
    ).files()
    picture.write_bytes(host_client.view(files[0]))
    host_client.upload(picture)
    nodes = [
        node(1, "LoadImage", ["source.png", "image"], outputs=["IMAGE", "MASK"]),
        node(2, "PreviewImage", [], [("images", "IMAGE", 1)]),
    ]
    facts = {"extra": {"palimpsest": {"before": 1, "after": "2"}}}
    exhibit = run({"nodes": nodes, "links": [[1, 1, 0, 2, 0, "IMAGE"]], **facts})
    assert (tmp_path / "demo" / exhibit.before).read_bytes() == picture.read_bytes()


def test_without_facts_the_file_s_name_is_the_title_and_everything_is_shown(run):
    exhibit = run(workflow())
    assert exhibit.title == "turn_the_light" and (exhibit.before, exhibit.after) == ("", "")
    assert len(exhibit.items) == 4


def test_an_unknown_node_a_refusal_and_an_error_are_exhibits_too(run):
    unknown, refused, failing = workflow(), workflow(), workflow()
    unknown["nodes"][2]["type"] = "Nobody"
    refused["nodes"][1]["widgets_values"][0] = -5
    failing["nodes"][0]["widgets_values"] = ["../../outside"]
    errors = [run(graph).error for graph in (unknown, refused, failing)]
    assert "'Nobody'" in errors[0] and "EmptyImage" in errors[1] and errors[2].startswith("The edit: ")
    page = page_html([Exhibit("a", "A", "", "a/a.json", 1.0, error=errors[0])], [])
    assert "This workflow failed." in page


def test_the_command_fails_when_a_workflow_does(monkeypatch, host, tmp_path, capsys):
    (tmp_path / "w").mkdir()
    broken = workflow()
    broken["nodes"][2]["type"] = "Nobody"
    for name, graph in (("good", workflow()), ("bad", broken)):
        (tmp_path / "w" / f"{name}.json").write_text(json.dumps(graph))

    class Running:
        client = host.client

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(demo, "WORKFLOWS", tmp_path / "w")
    monkeypatch.setattr(demo, "DEMO", tmp_path / "demo")
    monkeypatch.setattr(demo.Host, "start", lambda *_, **__: Running())
    assert demo.main() == 1
    printed = capsys.readouterr()
    assert f"The gallery of 2 workflows (1 failed) is in {tmp_path / 'demo' / 'index.html'}." in printed.out
    assert "bad failed: Node 2 is a 'Nobody'" in printed.err
    (tmp_path / "w" / "bad.json").unlink()
    assert demo.main() == 0


def test_the_page_is_one_file_in_light_and_dark_and_escapes_what_it_shows():
    item = Item("3", "<b>bold</b>", "PreviewAny", ("a/x.png",), ("1 < 2",))
    exhibit = Exhibit("a", "<i>", "<s>", "a/a.json", 1.0, before="a/x.png", after="a/y.png", items=(item,))
    page = page_html([exhibit], [ROW])
    assert "prefers-color-scheme: dark" in page and "<link" not in page and "@import" not in page
    assert "<b>bold" not in page and "1 &lt; 2" in page and "&lt;i&gt;" in page
    assert 'type="range"' in page and "24.43 dB" in page
    assert not re.search(r"https?://", page)


def test_a_missed_target_and_a_missing_value_are_shown_as_such():
    rows = [{**ROW, "met": False}, {**ROW, "mode": "gpu", "value": None, "met": None}]
    table = rows_html(rows)
    assert "missed" in table and '<td class="number">- dB</td>' in table
    assert rows_html([]) == ""


def test_a_video_is_played_and_a_picture_is_shown():
    item = Item("1", "T", "K", ("a/v.mp4", "a/p.webp"))
    page = page_html([Exhibit("a", "A", "", "a/a.json", 1.0, items=(item,))], [])
    assert '<video src="a/v.mp4"' in page and '<img src="a/p.webp"' in page


def test_the_benchmarks_plots_stand_beside_their_numbers(tmp_path):
    (tmp_path / "curves.svg").write_text("<svg/>")
    page = write_gallery(tmp_path / "demo", [], [ROW], [tmp_path / "curves.svg"]).read_text()
    assert '<img src="figures/curves.svg"' in page and (tmp_path / "demo" / "figures" / "curves.svg").is_file()


def test_progress_names_the_node_and_its_step(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(Status, "say", lambda self, text: said.append(text))
    line = ProgressLine("x", {"4": {"_meta": {"title": "Optimize"}}})
    line("executing", {"node": "4", "display_node": "4"})
    running = {"state": "running", "value": 7, "max": 20, "display_node_id": "4"}
    line("progress_state", {"nodes": {"3": {"state": "finished", "value": 1, "max": 1}, "4": running}})
    assert said[1:] == ["Optimize", "Optimize, step 7 of 20 (35 %)"]
    assert progress_text("Load", 0, 1) == "Load"


def test_a_picture_under_the_slider_is_not_shown_twice_but_a_batch_is_whole():
    items = (Item("1", "one", "K", ("a/1.png",)), Item("2", "batch", "K", ("a/2.png", "a/3.png")))
    page = page_html([Exhibit("a", "A", "", "a/a.json", 1.0, before="a/1.png", after="a/2.png", items=items)], [])
    # The result stands on its card, under the slider and in its batch.
    assert page.count('src="a/1.png"') == 1 and page.count('src="a/2.png"') == 3 and "batch (2)" in page


def test_a_thumbnail_is_the_cut_of_before_and_after(tmp_path):
    from PIL import Image

    for name, colour in (("1", (200, 0, 0)), ("2", (0, 0, 200))):
        Image.new("RGB", (96, 64), colour).save(tmp_path / f"{name}.png")

    def exhibit(name: str, **more) -> Exhibit:
        return Exhibit(name, "A", "", "a.json", 1.0, source=str(tmp_path / f"{name}.json"), **more)

    pair = exhibit("pair", before="1.png", after="2.png")
    single = exhibit("single", items=(Item("1", "t", "K", ("2.png",)),))
    failed = exhibit("failed", error="no")
    write_gallery(tmp_path, [pair, single, failed], [])
    assert thumbnails.main(tmp_path / "exhibits.json", tmp_path / "sheet.jpg") == 0
    together = Image.open(tmp_path / "sheet.jpg")
    assert together.width == together.height and together.getpixel((5, 5))[0] > 180  # the pair alone
    picture = Image.open(tmp_path / "pair.jpg")
    red, blue = picture.getpixel((10, 10)), picture.getpixel((picture.width - 10, 10))
    assert red[0] > 180 > 20 > red[2] and blue[2] > 180 > 20 > blue[0]
    assert Image.open(tmp_path / "single.jpg").getpixel((10, 10))[2] > 180
    assert not (tmp_path / "failed.jpg").exists()
    assert thumbnails.main(tmp_path / "none.json") == 1


def test_the_committed_results_can_be_shown():
    rows = demo.read_rows()
    assert rows_html(rows).count("<tr>") >= len(rows)
    assert demo.read_rows(Path("/nowhere")) == []


@needs_browser
def test_the_page_begins_with_cards_and_never_scrolls_sideways(tmp_path):
    from PIL import Image

    Image.new("RGB", (900, 300), (90, 120, 160)).save(tmp_path / "wide.png")
    items = (Item("1", "A title", "K", ("wide.png",) * 9, ("x" * 300,)),)
    exhibits = [
        Exhibit(f"e{n}", "A rather long title of an edit", "A story.", "a.json", 1.0, after="wide.png", items=items)
        for n in range(5)
    ]
    page = write_gallery(tmp_path, exhibits, [{**ROW, "measure": "a long measure, " * 12, "mode": "m" * 60}])
    given = {"playwright": str(PLAYWRIGHT), "chromium": CHROMIUM, "page": str(page), "widths": [390, 1400]}
    script = Path(__file__).with_name("gallery_browser.mjs")
    run = subprocess.run(["node", str(script)], input=json.dumps(given), capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert {one["overflow"] for one in found.values()} == {0}
    assert (found["390"]["cards"], found["1400"]["cards"]) == (2, 5)
    assert all(one["first"] and one["open"] == 0 for one in found.values())


def test_no_failed_reconstruction_is_the_first_picture():
    assert "PalimpsestInversionCheck" not in node_types(read(examples()[0]))


def test_pictures_that_a_blueprint_repeats_are_shown_once(tmp_path):
    for name, colour, level in (("in.png", "red", 1), ("out.png", "red", 9), ("other.png", "blue", 9)):
        Image.new("RGB", (9, 7), colour).save(tmp_path / name, compress_level=level)
    items = [Item("3:1", "inside", "K", ("in.png",)), Item("3:2", "said", "K", ("in.png",), ("a text",)),
             Item("4", "another", "K", ("other.png",)), Item("5", "outside", "K", ("out.png",))]  # fmt: skip
    assert [item.title for item in without_repeats(items, tmp_path)] == ["said", "another", "outside"]
