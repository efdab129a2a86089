"""`make demo`: posts every example workflow to a real ComfyUI and writes what came out to `demo/index.html`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from PIL import Image

from .client import Client, HostError, Result
from .examples import EXAMPLES, examples, facts_of, for_demo, slug
from .gallery import Exhibit, Item, write_gallery
from .own_model import in_order, lend, with_checkpoint
from .places import ROOT
from .server import Host
from .setup import read_record
from .steps import Problem, Status
from .workflow import WorkflowError, read, to_prompt

WORKFLOWS = EXAMPLES
DEMO = ROOT / "demo"
FIGURES = ROOT / "benchmarks" / "figures"
TIMEOUT = 1800.0


class ProgressLine:
    """The host's messages as one live line: which node, which step, how many per cent of it."""

    def __init__(self, label: str, prompt: dict):
        self.status = Status(label)
        self.titles = {node: entry["_meta"]["title"] for node, entry in prompt.items()}

    def __call__(self, event: str, data: dict) -> None:
        if event == "executing" and data.get("node"):
            self.status.say(self._title(data.get("display_node") or data["node"]))
        if event == "progress_state":
            running = [one for one in data.get("nodes", {}).values() if one.get("state") == "running"]
            for one in running[-1:]:
                self.status.say(progress_text(self._title(one.get("display_node_id")), one["value"], one["max"]))

    def _title(self, node: str | None) -> str:
        return self.titles.get(str(node), str(node))


def progress_text(title: str, value: float, total: float) -> str:
    if total <= 1:
        return title
    return f"{title}, step {value:.0f} of {total:.0f} ({100 * value / total:.0f} %)"


def show(client: Client, path: Path, label: str, folder: Path, prepare: Callable = for_demo) -> Exhibit:
    """Runs one workflow and keeps what it made under `folder`; a failure becomes part of the exhibit.

    prepare: (workflow, info) -> the workflow that runs; by default with Papercut's model, pictures and texts.
    """
    facts: dict = {}
    start = time.monotonic()
    try:
        info = client.object_info()
        workflow = prepare(read(path), info)
        facts = facts_of(workflow)
        prompt = to_prompt(workflow, info)
        line = ProgressLine(label, prompt)
        result = client.run(prompt, TIMEOUT, line)
        error = "" if result.status == "success" else failure(result, prompt)
        line.status.done("failed" if error else "done")
    except (WorkflowError, HostError) as problem:
        prompt, result, error = {}, Result("", "error"), str(problem)
    folder.mkdir(parents=True, exist_ok=True)
    if prompt:
        (folder / f"{folder.name}.json").write_text(json.dumps(workflow), encoding="utf-8")
    else:
        shutil.copyfile(path, folder / f"{folder.name}.json")
    items = without_repeats(collect(client, workflow, prompt, result, folder), folder.parent) if prompt else ()
    return Exhibit(
        name=folder.name,
        title=facts.get("title") or path.stem,
        story=facts.get("story", ""),
        workflow=f"{folder.name}/{folder.name}.json",
        source=str(path),
        model=model_of(prompt),
        seconds=time.monotonic() - start,
        error=error,
        before=picture_of(client, facts.get("before"), prompt, items, folder),
        after=picture_of(client, facts.get("after"), prompt, items, folder),
        items=items,
    )


def model_of(prompt: dict) -> str:
    """The checkpoint that a prompt loads, without its ending."""
    names = (entry["inputs"].get("ckpt_name") for entry in prompt.values())
    return next((str(name).rpartition(".")[0] for name in names if name), "")


def failure(result: Result, prompt: dict) -> str:
    title = prompt.get(result.error_node, {}).get("_meta", {}).get("title", "a node")
    return f"{title}: {result.error or result.status}"


def collect(client: Client, workflow: dict, prompt: dict, result: Result, folder: Path) -> Iterable[Item]:
    """What each node showed or saved, from the left of the canvas to the right."""
    places = {str(node["id"]): tuple(_position(node)) for node in workflow["nodes"]}
    order = sorted(result.outputs, key=lambda node: places.get(node.split(":")[0], (0, 0)))
    for node in order:
        entry = prompt.get(node, {})
        files = tuple(keep(client, folder, node, index, file) for index, file in enumerate(result.files(node)))
        texts = tuple(result.texts(node))
        if files or texts:
            title = entry.get("_meta", {}).get("title", node)
            yield Item(node, title, entry.get("class_type", ""), files, texts)


def without_repeats(items: Iterable[Item], gallery: Path) -> tuple[Item, ...]:
    """Of items that show the same pictures the last one alone: a blueprint's outputs repeat what is shown inside it."""
    kept: list[Item] = []
    seen: set[tuple[str, ...]] = set()
    for item in reversed(list(items)):
        pictures = tuple(_pixels(gallery / file) for file in item.files)
        if item.texts or pictures not in seen:
            kept.append(item)
        seen.add(pictures)
    return tuple(reversed(kept))


def _pixels(path: Path) -> str:
    """A digest of what a file shows, whatever the host has written beside it; of its bytes where it is no still."""
    data = path.read_bytes()
    if path.suffix == ".png":
        with Image.open(path) as picture:
            data = repr(picture.size).encode() + picture.convert("RGBA").tobytes()
    return hashlib.sha256(data).hexdigest()


def _position(node: dict) -> list[float]:
    place = node.get("pos") or (0, 0)
    return [float(place["0"]), float(place["1"])] if isinstance(place, dict) else [float(place[0]), float(place[1])]


def keep(client: Client, folder: Path, node: str, index: int, file: dict) -> str:
    """Copies one file of the host into the gallery; returns its path seen from `demo/`."""
    name = f"{node.replace(':', '.')}-{index}{PurePosixPath(file['filename']).suffix}"
    (folder / name).write_bytes(client.view(file))
    return f"{folder.name}/{name}"


def picture_of(client: Client, node: object, prompt: dict, items: Iterable[Item], folder: Path) -> str:
    """The picture of a node that the workflow names: what it showed or, for a loader, what it loaded."""
    if node is None:
        return ""
    shown = next((item.files[0] for item in items if item.node == str(node) and item.files), "")
    name = prompt.get(str(node), {}).get("inputs", {}).get("image")
    if shown or not isinstance(name, str):
        return shown
    subfolder, _, filename = name.rpartition("/")
    return keep(client, folder, str(node), 0, {"filename": filename, "subfolder": subfolder, "type": "input"})


def read_rows(path: Path = ROOT / "benchmarks" / "results.json") -> list[dict]:
    """The committed measurements; none where they have not been made."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def run_all(paths: list[Path], checkpoint: str, megapixels: float | None) -> list[Exhibit]:
    """Every workflow in one host, on Papercut or, where a checkpoint is named, as it ships on that."""
    prepare, starting, installation = for_demo, Status("Starting ComfyUI"), read_record()
    if checkpoint:
        prepare = partial(with_checkpoint, name=checkpoint, megapixels=megapixels)
    with Host.start(installation, extra=lend(installation) if checkpoint else ()) as host:
        starting.done()
        made = {}
        for number, path in enumerate(in_order(paths) if checkpoint else paths, 1):
            label = f"[{number}/{len(paths)}] {path.stem}"
            made[path] = show(host.client, path, label, DEMO / slug(path.stem), prepare)
        return [made[path] for path in paths]


def main(settings: Mapping[str, str] = os.environ) -> int:
    paths = examples(WORKFLOWS)
    if DEMO.exists():
        shutil.rmtree(DEMO)
    try:
        megapixels = float(settings.get("MEGAPIXELS") or 0) or None
        exhibits = run_all(paths, settings.get("CHECKPOINT") or "", megapixels)
    except (HostError, Problem) as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped.\n")
        return 130
    page = write_gallery(DEMO, exhibits, read_rows(), sorted(FIGURES.glob("*.svg")))
    failed = [one for one in exhibits if one.error]
    for one in failed:
        sys.stderr.write(f"{one.name} failed: {one.error}\n")
    print(f"The gallery of {len(exhibits)} workflows ({len(failed)} failed) is in {page}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
