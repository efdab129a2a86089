"""`make serve`: ComfyUI with the pack and Papercut, for a person at a browser on http://127.0.0.1:8188 (PORT=)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from .client import HostError
from .examples import examples, for_demo
from .places import HOST
from .server import Host
from .setup import read_record
from .steps import Problem, Status
from .workflow import read


def wanted_port(text: str) -> int:
    if not text.isdigit() or not 1024 <= int(text) <= 65535:
        raise HostError(f"PORT={text} is not a port: choose a number from 1024 to 65535, for example PORT=8188.")
    return int(text)


def keep_demo(host: Host) -> Path:
    """Puts the examples with Papercut's models and pictures among the host's own workflows; their folder."""
    folder = host.base / "user" / "default" / "workflows" / "Papercut"
    folder.mkdir(parents=True, exist_ok=True)
    info = host.client.object_info()
    for path in examples():
        workflow = for_demo(read(path), info)
        (folder / path.name).write_text(json.dumps(workflow), encoding="utf-8")
    return folder


def main() -> int:
    try:
        port = wanted_port(os.environ.get("PORT") or "8188")
        starting = Status("Starting ComfyUI")
        previews, threads = ("--preview-method", "auto"), os.cpu_count() or 1
        with Host.start(read_record(), port=port, extra=previews, threads=threads) as host:
            # Without this a first visit opens the template browser over the canvas.
            host.client.json("/settings/Comfy.TutorialCompleted", True)
            keep_demo(host)
            starting.done()
            print(
                f"ComfyUI with Palimpsest is open at {host.url}; the examples on Papercut are among its Workflows, "
                f"those for models of yours in its Templates under palimpsest, "
                f"its log in {HOST / f'host-{port}.log'}. Stop it with Ctrl-C.",
                flush=True,
            )
            host.process.wait()
            host.check_alive()
    except (HostError, Problem) as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    except KeyboardInterrupt:
        print("\nStopped.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
