"""`make archive`: what the registry would get, as a zip in `.host`, and how big it is. Needs Python and git alone."""

import fnmatch
import os
import re
import subprocess
import sys
import zipfile

from .places import HOST, ROOT
from .steps import Problem

CEILING = 3e6


def shipped():
    """The names of the files that git tracks, minus `.comfyignore`. Raises `Problem` outside a git checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=str(ROOT), stdout=subprocess.PIPE)
    if listed.returncode:
        raise Problem("This is no git checkout, so what ships is not known: clone the repository and try again.")
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    ignored = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    names = [name for name in listed.stdout.decode("utf-8").split("\0") if name and (ROOT / name).is_file()]
    return tuple(name for name in names if not any(matches(name, pattern) for pattern in ignored))


def matches(name, pattern):
    """The part of gitignore's rules that `.comfyignore` uses: folders with a closing slash, and file patterns."""
    if pattern.endswith("/"):
        return name.startswith(pattern) or "/" + pattern in name
    return fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(os.path.basename(name), pattern)


def main():
    try:
        names = shipped()
    except Problem as problem:
        sys.stderr.write("{}\n".format(problem))
        return 1
    version = re.search(
        r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    ).group(1)
    HOST.mkdir(exist_ok=True)
    path = HOST / "palimpsest-{}.zip".format(version)
    with zipfile.ZipFile(str(path), "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.write(str(ROOT / name), name)
    size = sum((ROOT / name).stat().st_size for name in names)
    print("{}: {} files, {:.1f} MB, {:.1f} MB packed.".format(path, len(names), size / 1e6, path.stat().st_size / 1e6))
    if size >= CEILING:
        sys.stderr.write("That is too big: {:.0f} MB are the most.\n".format(CEILING / 1e6))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
