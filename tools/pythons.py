"""Finds a Python that can carry the project and makes `.venv` with it. Python 3.6 syntax."""

import os
import shutil
import subprocess
import sys

from .places import VENV
from .steps import Problem

PYTHONS = ((3, 11), (3, 12), (3, 13))


def python_text(versions=PYTHONS):
    return ", ".join("{}.{}".format(*one) for one in versions[:-1]) + " or {}.{}".format(*versions[-1])


def probe(command):
    """(version, has_venv) of a Python, or None where the command does not run (a version manager's dead shim)."""
    code = "import sys\nprint(*sys.version_info[:2])\nimport venv, ensurepip\nprint('venv')"
    try:
        done = subprocess.run([command, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    words = done.stdout.decode("utf-8", "replace").split()
    if len(words) < 2 or not (words[0].isdigit() and words[1].isdigit()):
        return None
    return (int(words[0]), int(words[1])), words[2:] == ["venv"]


def find_python(candidates=None, ask=probe):
    """The first Python of a supported version that can make virtual environments; a sentence where there is none."""
    if candidates is None:
        names = ["python{}.{}".format(*one) for one in reversed(PYTHONS)]
        candidates = [sys.executable] + [path for path in map(shutil.which, names) if path]
    bare, others = [], []
    for command in candidates:
        answer = ask(command)
        if answer is None:
            continue
        version, has_venv = answer
        if version in PYTHONS and has_venv:
            return command
        (bare if version in PYTHONS else others).append(version)
    sudo = "" if hasattr(os, "geteuid") and os.geteuid() == 0 else "sudo "
    if bare:
        name = "python{}.{}".format(*bare[0])
        raise Problem(
            "The {0} on this machine cannot make virtual environments: install its venv module "
            "(Debian and Ubuntu: {1}apt install {0}-venv) and run the command again.".format(name, sudo)
        )
    found = ", only {}.{}".format(*others[0]) if others else ""
    raise Problem(
        "Python {} is needed and was not found{}: install one with its venv module (Debian 12, Ubuntu: "
        "{}apt install python3.11 python3.11-venv, or 3.12 where that is the system's own) and run the "
        "command again.".format(python_text(), found, sudo)
    )


def make_venv():
    """`.venv` with a working Python and pip; a broken one is made anew, a half-made one is completed."""
    python = VENV / "bin" / "python"
    alive = os.access(str(python), os.X_OK)
    if alive and any(VENV.glob("lib/python3*/site-packages/pip")):
        return python
    maker = find_python()
    command = [maker, "-m", "venv"] + (["--clear"] if VENV.exists() and not alive else []) + [str(VENV)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        last = done.stdout.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
        raise Problem(
            "The virtual environment {} could not be made ({}): remove that folder and run the command again.".format(
                VENV, last[0].strip()
            )
        )
    return python
