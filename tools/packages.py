"""Installs the pinned packages with pip, and turns its failures into sentences. Python 3.6 syntax."""

import hashlib
import os
import re
import shutil
import subprocess
import sys

from .places import HOST, ROOT, VENV
from .steps import GIGABYTE, Problem, Status, check_space, free_space, set_stamp, stamped

TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
REQUIREMENTS = ROOT / "tools" / "requirements-dev.txt"
STAMP = VENV / "palimpsest-packages"
CONSTRAINTS = ROOT / "tools" / "constraints.txt"
SPACE_PACKAGES, SPACE_CACHE = 9 * GIGABYTE, 3 * GIGABYTE

FAILURES = (
    (
        r"No space left on device|\[Errno 28\]",
        "The disk is full: free about 9 GB and run the same command again; it goes on where it stopped.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError",
        "The package registry's certificate was not accepted: set PIP_CERT to your network's certificate file and run "
        "the same command again.",
    ),
    (
        r"name resolution|NameResolutionError|NewConnectionError|Network is unreachable|Max retries exceeded|ProxyError"
        r"|timed out|ConnectTimeout|ConnectionReset|Connection (refused|reset|aborted|broken)|RemoteDisconnected"
        r"|IncompleteRead|ProtocolError",
        "The package registry cannot be reached: check the network (or the proxy and PIP_INDEX_URL) and run the same "
        "command again; it goes on where it stopped.",
    ),
    (
        r"No matching distribution found|Could not find a version",
        "The package registry does not offer {}: set PIP_INDEX_URL to PyPI or a full mirror of it and run the same "
        "command again.",
    ),
    (
        r"[Pp]ermission denied|\[Errno 13\]",
        "A folder cannot be written to: give this user the right to write in the project's folder and run the same "
        "command again.",
    ),
)


def explain(output, log):
    """The sentence for a failed run of pip. output: its text; log: where all of it stands."""
    for pattern, sentence in FAILURES:
        if re.search(pattern, output):
            wanted = re.search(r"No matching distribution found for (\S+)", output)
            return sentence.format(wanted.group(1) if wanted else "a pinned package for this system")
    errors = [line.strip() for line in output.splitlines() if line.startswith("ERROR:")]
    reason = errors[0][len("ERROR:") :].strip().rstrip(".") if errors else "no reason given"
    return "Installing the packages failed ({}): see {} and run the same command again.".format(reason, log)


def run_pip(python, arguments, label):
    """One run of pip with a live line; all of its words go to `.host/setup.log`."""
    log = HOST / "setup.log"
    scratch = HOST / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    # pip unpacks under TMPDIR; /tmp is often a small memory disk, and only this disk's free space was checked.
    settings = dict(os.environ, TMPDIR=str(scratch), PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
    command = [str(python), "-m", "pip", *arguments, "--progress-bar", "off", "--no-input"]
    status, words = Status(label), []
    with log.open("a", encoding="utf-8") as file:
        file.write("\n$ {}\n".format(" ".join(command)))
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=settings)
        try:
            for raw in process.stdout:
                line = raw.decode("utf-8", "replace").rstrip()
                words.append(line)
                file.write(line + "\n")
                if re.match(r"\s*(Collecting|Downloading|Using cached|Installing|Building|Preparing)", line):
                    status.say(line.strip())
            failed = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
            shutil.rmtree(str(scratch), ignore_errors=True)
    if failed:
        if status.live:
            sys.stdout.write("\n")
        raise Problem(explain("\n".join(words), log))
    status.done()


UNSATISFIED = """
import sys
from importlib.metadata import PackageNotFoundError, version
from pip._vendor.packaging.requirements import InvalidRequirement, Requirement
for line in sys.stdin.read().splitlines():
    line = line.split("#")[0].strip()
    if not line or line.startswith("-"):
        continue
    wanted = Requirement(line)
    if wanted.marker is not None and not wanted.marker.evaluate():
        continue
    try:
        here = version(wanted.name)
    except PackageNotFoundError:
        here = None
    if here is None or not wanted.specifier.contains(here.split("+")[0], prereleases=True):
        print(line)
"""


def wanted_packages(comfyui):
    return "\n".join(TORCH) + "\n" + (comfyui / "requirements.txt").read_text() + "\n" + REQUIREMENTS.read_text()


def unsatisfied(python, wanted):
    """The requirement lines that the environment does not meet (all, where it cannot even be asked)."""
    done = subprocess.run(
        [str(python), "-c", UNSATISFIED],
        input=wanted.encode("utf-8"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return done.stdout.decode("utf-8").split("\n")[:-1] if done.returncode == 0 else wanted.splitlines()


def install_packages(python, comfyui):
    """The pinned torch trio first (the largest part), then the host's and the developer's requirements."""
    wanted = wanted_packages(comfyui)
    config = (VENV / "pyvenv.cfg").read_text()
    key = hashlib.sha256((wanted + CONSTRAINTS.read_text() + config).encode("utf-8")).hexdigest()
    if stamped(STAMP, key):
        return
    if unsatisfied(python, wanted):
        check_space(SPACE_PACKAGES, "Installing the packages")
        # Without pip's cache an interrupted download starts again, but 3 GB less are needed.
        cache = [] if free_space(ROOT) >= SPACE_PACKAGES + SPACE_CACHE else ["--no-cache-dir"]
        base = ["install", *cache, "--constraint", str(CONSTRAINTS)]
        run_pip(python, base + list(TORCH), "Installing torch (5 GB, some minutes)")
        rest = ["-r", str(comfyui / "requirements.txt"), "-r", str(REQUIREMENTS)]
        run_pip(python, base + rest, "Installing ComfyUI's and the tests' packages")
        missing = unsatisfied(python, wanted)
        if missing:
            raise Problem(
                "After the installation {} is still missing: remove {} and run the command again.".format(
                    missing[0], VENV
                )
            )
    set_stamp(STAMP, key)
