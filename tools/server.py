"""A real ComfyUI without a screen, for the demo, the benchmarks, the tests and `make serve`.

with Host.start(installation) as host:
    result = host.client.run(prompt)
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from .client import Client, HostError
from .places import HOST, Installation

LAST_LINES = 25


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def require_port(port: int) -> int:
    """The port. Raises Problem where something else listens on it already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise HostError(
                f"Port {port} is taken by another program ({error.strerror}): stop that program, or choose another "
                f"port with PORT={port + 1}."
            ) from error
    return port


def host_command(installation: Installation, port: int, extra: tuple[str, ...] = ()) -> list[str]:
    """The command line of a host that touches nothing outside its base directory. DEVICE=gpu leaves out --cpu."""
    device = [] if os.environ.get("DEVICE", "cpu") == "gpu" else ["--cpu"]
    return [
        str(installation.python),
        str(Path(installation.comfyui) / "main.py"),
        *device,
        "--port",
        str(port),
        "--base-directory",
        str(installation.base),
        "--disable-api-nodes",
        "--disable-auto-launch",
        "--database-url",
        "sqlite:///:memory:",
        *extra,
    ]


def _die_with_parent() -> None:
    """Runs in the child: on Linux a host must not outlive a killed test run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def failed_imports(log: str) -> list[str]:
    """The packs that the host could not import, by the words of its log."""
    return re.findall(r"\(IMPORT FAILED\):\s*(\S+)", log)


class Host:
    """A running ComfyUI process; made by `Host.start`, ended by `stop` or by leaving the `with` block."""

    def __init__(self, process: subprocess.Popen, port: int, log: Path, base: Path):
        self.process, self.port, self.log, self.base = process, port, log, base
        self.url = f"http://127.0.0.1:{port}"
        self.client = Client(self.url, self.check_alive)

    @classmethod
    def start(
        cls,
        installation: Installation,
        *,
        port: int | None = None,
        extra: tuple[str, ...] = (),
        log: Path | None = None,
        timeout: float = 300.0,
        threads: int = 1,
    ) -> "Host":
        """Starts a host and waits until it answers. port: None takes a free one; timeout: seconds.

        threads: of OpenMP; on a few shared cores more than one makes small models slower, not faster.
        Raises `HostError` where the port is taken, the process ends, or a pack cannot be imported.
        """
        port = free_port() if port is None else require_port(port)
        log = log or HOST / f"host-{port}.log"
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), PYTHONUNBUFFERED="1")
        environment.pop("PYTHONPATH", None)
        environment.pop("PYTHONSAFEPATH", None)
        with log.open("wb") as file:
            process = subprocess.Popen(
                host_command(installation, port, extra),
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                stdin=subprocess.DEVNULL,
                cwd=installation.comfyui,
                preexec_fn=_die_with_parent,
            )
        host = cls(process, port, log, Path(installation.base))
        try:
            host._await_answer(timeout)
            host._require_imports()
        except BaseException:
            host.stop()
            raise
        return host

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def text(self) -> str:
        """All that the host has logged so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def tail(self, lines: int = LAST_LINES) -> str:
        return "\n".join(self.text().splitlines()[-lines:])

    def check_alive(self) -> None:
        """Raises `HostError` with the last words of the log where the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise HostError(f"ComfyUI ended with exit code {code}; the last lines of {self.log}:\n{self.tail()}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def _await_answer(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            self.check_alive()
            try:
                self.client.request("/system_stats")
                return
            except (OSError, HostError):
                time.sleep(0.1)
        raise HostError(f"ComfyUI gave no answer in {timeout:.0f} s; the last lines of {self.log}:\n{self.tail()}")

    def _require_imports(self) -> None:
        text = self.text()
        failed = failed_imports(text)
        if failed:
            raise HostError(f"ComfyUI could not import {', '.join(failed)}; its log {self.log}:\n{_reason(text)}")


def _reason(log: str) -> str:
    """The part of the log that says why an import failed: tracebacks and warnings."""
    lines = log.splitlines()
    words = ("Traceback", "Error while calling", "Cannot import")
    starts = [i for i, line in enumerate(lines) if any(word in line for word in words)]
    return "\n".join(lines[starts[0] : starts[0] + 40]) if starts else "\n".join(lines[-LAST_LINES:])
