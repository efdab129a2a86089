"""What the registry gets: the archive as it is built there, unpacked into a bare host that has nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.parse
import zipfile

import pytest
from palimpsest.tools import archive
from palimpsest.tools.comfyui import COMFYUI_VERSION
from palimpsest.tools.examples import EXAMPLES, examples
from palimpsest.tools.inprocess import own_installation
from palimpsest.tools.places import HOST, ROOT
from palimpsest.tools.server import Host

from ..browser import NEWEST

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
# What the registry's scanners take for a call that runs code, in whatever it stands.
SUSPECT = re.compile(r"\b(?:eval|exec|compile|__import__|os\.system|os\.popen)\(|pickle\.load|marshal\.load")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A base folder whose only pack is the unpacked archive."""
    assert archive.main() == 0
    (built,) = sorted(HOST.glob("palimpsest-*.zip"))[-1:]
    base = tmp_path_factory.mktemp("bare")
    for name in ("models", "input", "output", "temp", "user"):
        (base / name).mkdir()
    with zipfile.ZipFile(built) as packed:
        packed.extractall(base / "custom_nodes" / "palimpsest")
    return base


def test_the_archive_is_at_most_three_megabytes(unpacked):
    files = [path for path in (unpacked / "custom_nodes").rglob("*") if path.is_file()]
    assert 1e5 < sum(path.stat().st_size for path in files) <= 3e6


def test_a_bare_host_opens_the_archive(unpacked):
    with Host.start(own_installation(unpacked), log=unpacked / "host.log") as host:
        ours = [name for name in host.client.object_info() if name.startswith("Palimpsest")]
        assert len(ours) > 40
        listed = host.client.json("/workflow_templates")["palimpsest"]
        assert sorted(listed) == sorted(path.stem for path in examples() if path.parent == EXAMPLES)
        for name in listed:
            place = f"/api/workflow_templates/palimpsest/{urllib.parse.quote(name)}"
            assert host.client.json(f"{place}.json")["nodes"], name
            assert host.client.request(f"{place}.jpg")[:2] == b"\xff\xd8", name
        assert {path.stem for path in (ROOT / "subgraphs").glob("*.json")} <= {
            entry["name"] for entry in host.client.json("/global_subgraphs").values()
        }
        for name in ours:
            assert host.client.request(f"/extensions/palimpsest/docs/{name}.md"), name


def test_nothing_that_ships_is_spelt_like_a_call_that_runs_code():
    for name in archive.shipped():
        if name.endswith(".py"):
            found = SUSPECT.search((ROOT / name).read_text(encoding="utf-8"))
            assert found is None, f"{name}: {found[0]}"


def test_the_ranges_are_those_that_are_tested():
    assert f'requires-comfyui = ">={".".join(map(str, COMFYUI_VERSION))}"' in PROJECT
    pinned = re.search(r"comfyui-frontend-package==(\S+)", (HOST / "ComfyUI" / "requirements.txt").read_text())[1]
    newest = tuple(map(int, NEWEST.split(".")))
    assert f'"comfyui-frontend-package>={pinned},<{newest[0]}.{newest[1] + 1}.0"' in PROJECT


def test_the_owner_stands_in_three_files_that_agree():
    owner = re.search(r'^PublisherId = "(.+)"', PROJECT, re.MULTILINE)[1]
    listed = subprocess.run(["git", "grep", "-lIF", owner], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    mentioned = {"CONTRIBUTING.md", "README.md", "pyproject.toml", ".github/workflows/publish.yml"}
    assert set(listed.stdout.split()) == mentioned
    for name in mentioned:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert {one for one in re.findall(r"github(?:usercontent)?\.com/([\w-]+)/palimpsest", text)} <= {owner}, name


def test_where_kornia_is_missing_one_sentence_says_so(unpacked):
    """In a process of its own, where the package cannot be found."""
    hide = "import sys; sys.modules['kornia'] = None; "
    code = "from palimpsest.host.version import require_packages\nrequire_packages()"
    environment = {"PYTHONPATH": str(unpacked / "custom_nodes"), "PATH": "/usr/bin:/bin"}
    run = subprocess.run([sys.executable, "-c", hide + code], env=environment, capture_output=True, text=True)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: Palimpsest needs kornia") and "-m pip install kornia" in last
