"""Trajectories on disk: exact, verified, and never outside their folders."""

import dataclasses
import json
import os
from pathlib import Path

import folder_paths
import pytest
import torch
from palimpsest.host import folders
from palimpsest.inversion.ddim import PAIRINGS
from palimpsest.inversion.trajectory import Trajectory
from palimpsest.inversion.trajectory_file import (
    FIELDS_OF,
    FORMAT,
    NotATrajectory,
    _checksum,
    read_trajectory,
    write_trajectory,
)
from safetensors import safe_open
from safetensors.torch import save_file

KIND = "trajectories"


@pytest.fixture
def trajectory() -> Trajectory:
    latents = torch.randn(4, 2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    return Trajectory(torch.tensor([0.0, 0.5, 2.0, 14.6]), latents, 'a "red" kite, \u00e9', 1.5, "abc", "v", "SD15")


@pytest.fixture
def saved(trajectory, tmp_path) -> Path:
    write_trajectory(trajectory, tmp_path / "one.safetensors")
    return tmp_path / "one.safetensors"


@pytest.fixture
def base(tmp_path, monkeypatch) -> Path:
    """Folders of the host's own kind, empty, for one test."""
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", dict(folder_paths.folder_names_and_paths))
    for kind in folders.EXTENSIONS:
        folder_paths.folder_names_and_paths.pop(kind, None)
    folder_paths.filename_list_cache.pop(KIND, None)
    folders.register()
    return tmp_path


def header_of(path: Path) -> dict:
    with safe_open(str(path), framework="pt") as file:
        return json.loads(file.metadata()[FORMAT])


def rewrite(path: Path, header: dict) -> None:
    with safe_open(str(path), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    save_file(tensors, str(path), metadata={FORMAT: json.dumps(header)})


def test_what_is_saved_comes_back_to_the_bit(trajectory, saved):
    loaded = read_trajectory(saved)
    assert torch.equal(loaded.sigmas, trajectory.sigmas) and torch.equal(loaded.latents, trajectory.latents)
    for field in ("prompt", "cfg", "fingerprint", "prediction", "latent_format", "prompt_is_all", "noise_mask"):
        assert getattr(loaded, field) == getattr(trajectory, field)


@pytest.mark.parametrize("prompt", ["a red kite", ""])
def test_a_file_of_the_first_version_is_read(trajectory, tmp_path, prompt):
    """It wrote an unknown prompt as an empty one, and knew no masks."""
    facts = {"prompt": prompt, "cfg": 1.5, "fingerprint": "abc", "prediction": "v", "latent_format": "SD15"}
    tensors = {"sigmas": trajectory.sigmas, "latents": trajectory.latents}
    header = {"format": FORMAT, "version": 1, "checksum": _checksum(facts, tensors), **facts}
    save_file(tensors, str(tmp_path / "old.safetensors"), metadata={FORMAT: json.dumps(header)})
    read = read_trajectory(tmp_path / "old.safetensors")
    assert torch.equal(read.latents, trajectory.latents) and read.noise_mask is None
    assert (read.prompt, read.prompt_is_all) == ((prompt, True) if prompt else (None, False))


def test_a_file_of_the_second_version_is_read(trajectory, tmp_path):
    """It did not know where the inversion had asked the network."""
    facts = {field: getattr(trajectory, field) for field in FIELDS_OF[2]}
    tensors = {"sigmas": trajectory.sigmas, "latents": trajectory.latents}
    header = {"format": FORMAT, "version": 2, "checksum": _checksum(facts, tensors), **facts}
    save_file(tensors, str(tmp_path / "old.safetensors"), metadata={FORMAT: json.dumps(header)})
    read = read_trajectory(tmp_path / "old.safetensors")
    assert torch.equal(read.latents, trajectory.latents) and (read.pairing, read.evaluated) == (None, None)


@pytest.mark.parametrize("pairing", [*PAIRINGS, None])
def test_where_the_inversion_asked_is_saved(trajectory, tmp_path, pairing):
    path = tmp_path / "one.safetensors"
    write_trajectory(dataclasses.replace(trajectory, pairing=pairing, evaluated=trajectory.latents[1:] + 1), path)
    read = read_trajectory(path)
    assert read.pairing == pairing and torch.equal(read.evaluated, trajectory.latents[1:] + 1)


def test_every_damaged_byte_is_noticed(saved):
    data = saved.read_bytes()
    length = int.from_bytes(data[:8], "little")
    for place in (4, 8 + length // 2, 8 + length + 3, len(data) - 1):
        broken = bytearray(data)
        broken[place] ^= 0x40
        saved.write_bytes(bytes(broken))
        with pytest.raises(NotATrajectory):
            read_trajectory(saved)


def test_a_file_cut_short_is_refused(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(NotATrajectory, match="damaged"):
        read_trajectory(saved)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x80\x04\x95" + bytes(40), b"PK\x03\x04" + bytes(40)])
def test_other_files_are_refused(tmp_path, data):
    path = tmp_path / "other.safetensors"
    path.write_bytes(data)
    with pytest.raises(NotATrajectory, match=r"'other.safetensors'"):
        read_trajectory(path)


def test_a_lora_is_no_trajectory(tmp_path):
    save_file({"lora_up.weight": torch.zeros(2, 2)}, str(tmp_path / "lora.safetensors"), metadata={"format": "pt"})
    with pytest.raises(NotATrajectory, match="no trajectory"):
        read_trajectory(tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 4}, "newer"),
        ({"version": "x"}, "damaged"),
        ({"prompt": "another"}, "damaged"),
        ({"cfg": None}, "damaged"),
        ({"checksum": "0"}, "damaged"),
        ({"prediction": "x0"}, "damaged"),
    ],
)
def test_a_changed_description_is_refused(saved, change, message):
    rewrite(saved, {**header_of(saved), **change})
    with pytest.raises(NotATrajectory, match=message):
        read_trajectory(saved)


def test_a_missing_description_is_refused(saved):
    header = header_of(saved)
    del header["checksum"]
    rewrite(saved, header)
    with pytest.raises(NotATrajectory, match="damaged"):
        read_trajectory(saved)


def test_new_files_count_on(base):
    first = folders.new_file(KIND, "kite", ".safetensors")
    assert first == base / "output" / KIND / "kite_00001_.safetensors"
    with folders.written_whole(first) as partial:
        partial.write_bytes(b"x")
    assert folders.new_file(KIND, "kite.safetensors", ".safetensors").name == "kite_00002_.safetensors"
    assert folders.new_file(KIND, "toys/kite", ".safetensors").parent == base / "output" / KIND / "toys"


def test_a_saved_file_is_listed_and_found(base):
    path = folders.new_file(KIND, "toys/kite", ".safetensors")
    with folders.written_whole(path) as partial:
        partial.write_bytes(b"x")
    (base / "output" / KIND / "notes.txt").write_text("no trajectory")
    assert folders.file_names(KIND) == [os.path.join("toys", "kite_00001_.safetensors")]
    assert folders.existing_file(KIND, "toys/kite_00001_.safetensors") == path


def test_a_write_that_fails_leaves_nothing(base):
    path = folders.new_file(KIND, "kite", ".safetensors")
    with pytest.raises(KeyboardInterrupt), folders.written_whole(path) as partial:
        partial.write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(path.parent.iterdir()) == []


BAD_NAMES = ["../kite", "toys/../../kite", "/tmp/kite", "..\\kite", "C:\\kite", "\\\\server\\kite", "a\0b"]


@pytest.mark.parametrize("name", [*BAD_NAMES, "", "  ", "."])
def test_no_name_leads_out_of_the_folder(base, name):
    with pytest.raises(ValueError, match="name"):
        folders.new_file(KIND, name, ".safetensors")
    with pytest.raises(ValueError):
        folders.existing_file(KIND, name)
    assert not (base / "kite.safetensors").exists()


def test_a_link_that_leads_out_is_neither_listed_nor_read(base):
    outside = base / "secret.safetensors"
    outside.write_bytes(b"x")
    folder = base / "models" / KIND
    folder.mkdir(parents=True)
    (folder / "link.safetensors").symlink_to(outside)
    assert folders.file_names(KIND) == []
    with pytest.raises(ValueError, match=r"There is no 'link.safetensors'"):
        folders.existing_file(KIND, "link.safetensors")


def test_a_linked_folder_leads_nothing_out(base):
    (base / "elsewhere").mkdir()
    (base / "output" / KIND).mkdir(parents=True)
    (base / "output" / KIND / "out").symlink_to(base / "elsewhere")
    with pytest.raises(ValueError, match="no file name inside"):
        folders.new_file(KIND, "out/kite", ".safetensors")


def test_a_folder_that_is_itself_a_link_is_followed(base):
    (base / "disk").mkdir()
    (base / "disk" / "kite.safetensors").write_bytes(b"x")
    (base / "models").mkdir()
    (base / "models" / KIND).symlink_to(base / "disk")
    assert folders.file_names(KIND) == ["kite.safetensors"]
    assert folders.existing_file(KIND, "kite.safetensors").is_file()


def test_registering_twice_keeps_what_is_there(base):
    folder_paths.add_model_folder_path(KIND, str(base / "extra"))
    folders.register()
    assert folder_paths.get_folder_paths(KIND).count(str(base / "output" / KIND)) == 1
    assert str(base / "extra") in folder_paths.get_folder_paths(KIND)
    assert folder_paths.folder_names_and_paths[KIND][1] == {".safetensors"}
