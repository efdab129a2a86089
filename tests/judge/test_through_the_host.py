"""The judge in a real ComfyUI: our own benchmark's numbers, a small random model, resuming, and what it says."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext

import pytest
import torch
from palimpsest.benchmarks.judge import run
from palimpsest.benchmarks.judge.papercut import SPLIT, export_pie_bench
from palimpsest.benchmarks.judge.records import Records
from palimpsest.benchmarks.judge.techniques import TECHNIQUES
from palimpsest.benchmarks.prompt_to_prompt import fixtures
from palimpsest.benchmarks.prompt_to_prompt.cases import word_edits
from palimpsest.inversion.quality import psnr
from palimpsest.papercut.scenes import Scene
from palimpsest.tools.client import Client, HostError
from palimpsest.tools.inprocess import own_installation
from palimpsest.tools.setup import make_base
from palimpsest.tools.steps import Problem

from .. import narrow_models
from .ten_cases import write_set
from .test_dragbench import write_sample
from .test_tedbench import PAIRS, write as write_tedbench

STEPS = 12
PAPERCUT = {"CHECKPOINT": "papercut.safetensors", "STEPS": str(STEPS), "CFG": "4", "MEGAPIXELS": "0.0625"}
EDITORS = {
    "prompt-to-prompt": lambda *known: fixtures.edits_of(known[0], fixtures.by_prompt_to_prompt(*known))[0],
    "ddim": lambda *known: fixtures.by_prompt(*known)[0],
}


def in_eight_bits(picture, rounding):
    return rounding(picture.clamp(0, 1) * 255) / 255


def ours(edits, monkeypatch) -> dict[str, list[float]]:
    """The background of each editor of our own benchmark outside of the same masks, whose border counts as edited.

    In eight bits, as files are: a scene is rounded when it is written, and an edit is cut off by the host.
    """
    drawn = Scene.render
    monkeypatch.setattr(Scene, "render", lambda scene: in_eight_bits(drawn(scene), torch.round))
    monkeypatch.setattr(fixtures, "autocast", nullcontext)
    found = {name: [] for name in EDITORS}
    with torch.inference_mode():
        known = fixtures.load_fixtures()
        for case in fixtures.cases(known, edits):
            keep = torch.zeros_like(case.picture[..., 0])
            keep[1:-1, 1:-1] = (~case.edit.mask).float()[1:-1, 1:-1]
            for name, editor in EDITORS.items():
                made = in_eight_bits(editor(known, case), torch.floor)
                found[name].append(float(psnr(made[None], case.picture[None], mask=keep[None])))
    return found


def test_papercut_in_this_layout_gives_the_numbers_of_our_own_benchmark(host, tmp_path, monkeypatch):
    edits = word_edits(2, SPLIT)
    given = {**PAPERCUT, "URL": host.url, "SET": str(export_pie_bench(tmp_path / "set", edits))}
    text = run.judge({**given, "TECHNIQUES": ",".join(EDITORS)}, tmp_path / "out")
    records, expected = Records(tmp_path / "out" / "pie-bench" / "papercut"), ours(edits, monkeypatch)
    for name, values in expected.items():
        measured = [record.measures["psnr_own"] for record in records.of(name).values()]
        assert measured == pytest.approx(values, abs=2e-3), name
    assert "published: null text" in text and "Left out: LPIPS needs" in text


@pytest.fixture(scope="module")
def random_model(host):
    """A narrow random network under the name of Stable Diffusion 1's file."""
    folder = narrow_models.write_models(host.base / "models")
    yield "v1-5-pruned-emaonly-fp16.safetensors"
    for name in (*narrow_models.FILES, narrow_models.FLOW):
        (folder / name).unlink()


def judged(host, tmp_path, checkpoint, **more) -> str:
    """A run on two of the ten flat cases, at the smallest size and in two steps."""
    if not (tmp_path / "set").exists():
        write_set(tmp_path / "set")
    smallest = {"STEPS": "2", "MEGAPIXELS": "0.0156", "CASES": "2"}
    given = {"URL": host.url, "SET": str(tmp_path / "set"), "CHECKPOINT": checkpoint, **smallest, **more}
    return run.judge(given, tmp_path / "out")


def test_every_technique_runs_on_a_small_random_model(host, tmp_path, random_model):
    text = judged(host, tmp_path, random_model, TECHNIQUES=",".join(TECHNIQUES), CASES="1")
    folder = tmp_path / "out" / "pie-bench" / "v1-5-pruned-emaonly-fp16"
    records = Records(folder)
    editors = [one for one in TECHNIQUES.values() if not one.drags]
    for technique in editors:
        (record,) = records.of(technique.name).values()
        assert record.error == "" and record.measures["psnr"] > 0, technique.name
        assert technique.title in text
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert page.count('alt="Edit"') == len(editors)
    assert all((folder / place).is_file() for place in re.findall(r'src="([^"]+)"', page))


def test_a_set_without_source_prompts_is_judged_by_what_needs_none(host, tmp_path, random_model):
    write_tedbench(tmp_path / "set", "list.json", json.dumps(PAIRS))
    text = judged(host, tmp_path, random_model, TECHNIQUES=",".join(TECHNIQUES), CASES="1")
    records = Records(tmp_path / "out" / "tedbench" / "v1-5-pruned-emaonly-fp16")
    for technique in (one for one in TECHNIQUES.values() if not one.drags):
        found = list(records.of(technique.name).values())
        assert technique.title in text and len(found) == (not technique.needs_source)
        assert all(record.error == "" for record in found), technique.name
    assert "Prompt-to-Prompt, null text" in re.search(r"have nothing to go by: (.*)\.", text)[1]


def test_drags_are_judged_by_what_moves_things(host, tmp_path, random_model):
    write_sample(tmp_path / "set")
    text = judged(host, tmp_path, random_model)
    (record,) = Records(tmp_path / "out" / "dragbench" / "v1-5-pruned-emaonly-fp16").of("move-it").values()
    assert record.error == "" and record.measures["psnr"] > 0 and re.search(r"Move It +1 ", text)
    assert "drags need move-it" in sentence(host, tmp_path, random_model, TECHNIQUES="sdedit")


def test_a_second_run_goes_on_where_the_first_was_stopped(host, tmp_path, random_model, monkeypatch):
    run_prompt, made = Client.run, []

    def stopped_after_one(client, prompt, *more):
        if len(made) == 1:
            raise KeyboardInterrupt
        if "KSampler" in {node["class_type"] for node in prompt.values()}:
            made.append(prompt)
        return run_prompt(client, prompt, *more)

    monkeypatch.setattr(Client, "run", stopped_after_one)
    with pytest.raises(KeyboardInterrupt):
        judged(host, tmp_path, random_model, TECHNIQUES="sdedit")
    records = tmp_path / "out" / "pie-bench" / "v1-5-pruned-emaonly-fp16" / "records.jsonl"
    first = records.read_text(encoding="utf-8").splitlines()
    monkeypatch.setattr(Client, "run", run_prompt)
    text = judged(host, tmp_path, random_model, TECHNIQUES="sdedit")
    both = records.read_text(encoding="utf-8").splitlines()
    assert len(first) == 1 and len(both) == 2 and both[0] == first[0]
    assert re.search(r"SDEdit, depth 0.7 +2 ", text)
    assert judged(host, tmp_path, random_model, TECHNIQUES="sdedit") == text
    assert records.read_text(encoding="utf-8").splitlines() == both
    judged(host, tmp_path, random_model, TECHNIQUES="sdedit", STEPS="3")
    assert len(records.read_text(encoding="utf-8").splitlines()) == 4, "another setting, another picture"


def sentence(host, tmp_path, checkpoint, **more) -> str:
    with pytest.raises((Problem, HostError)) as problem:
        judged(host, tmp_path, checkpoint, **more)
    assert re.fullmatch(r"[^\n]+", str(problem.value))
    return str(problem.value)


def test_a_checkpoint_that_cannot_be_loaded_is_a_sentence(host, tmp_path):
    file = host.base / "models" / "checkpoints" / "broken.safetensors"
    file.write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    assert sentence(host, tmp_path, "broken.safetensors").startswith("CHECKPOINT=broken.safetensors cannot be loaded: ")
    file.unlink()
    assert "papercut.safetensors" in sentence(host, tmp_path, "absent.safetensors")


def test_what_was_mistyped_is_a_sentence(host, tmp_path):
    assert "sdedit" in sentence(host, tmp_path, "papercut.safetensors", TECHNIQUES="sdedits")
    assert "CASES=some" in sentence(host, tmp_path, "papercut.safetensors", CASES="some")
    assert "holds no set" in sentence(host, tmp_path, "papercut.safetensors", SET=str(tmp_path / "nowhere"))
    assert "VISION=a" in sentence(host, tmp_path, "papercut.safetensors", VISION="a.safetensors", TEXT="b.safetensors")
    assert "CHECKPOINT=name is missing" in sentence(host, tmp_path, "")


def test_a_host_of_its_own_counts_calls_and_memory(tmp_path, monkeypatch):
    """Four steps with CFG, both prompts in one call."""
    base = make_base(tmp_path / "base")
    monkeypatch.setattr(run, "read_record", lambda: own_installation(base))
    given = {**PAPERCUT, "STEPS": "4", "SET": str(export_pie_bench(tmp_path / "set", word_edits(1, SPLIT)))}
    run.judge({**given, "TECHNIQUES": "ddim"}, tmp_path / "out")
    (record,) = Records(tmp_path / "out" / "pie-bench" / "papercut").of("ddim").values()
    assert (record.calls, record.rows) == (8, 12)
    assert 1e8 < record.peak < 1e11
