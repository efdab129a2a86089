"""LoRA files: found where the host keeps and writes them, and nowhere else."""

import folder_paths
import pytest
import torch
from palimpsest.host.morphing.lora_files import load_lora, lora_names
from safetensors.torch import save_file


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    inside = tmp_path / "output" / "loras" / "deeper"
    inside.mkdir(parents=True)
    save_file({"a": torch.ones(2)}, inside / "one.safetensors")
    save_file({"secret": torch.ones(2)}, tmp_path / "outside.safetensors")
    return inside.parent


def test_files_that_the_host_wrote_are_listed_and_read(folder):
    assert "deeper/one.safetensors [output]" in lora_names()
    assert torch.equal(load_lora("deeper/one.safetensors [output]")["a"], torch.ones(2))


@pytest.mark.parametrize("name", ["../../outside.safetensors [output]", "/etc/passwd", "", None, "none.safetensors"])
def test_nothing_else_is_read(folder, name):
    (folder / "link.safetensors").symlink_to(folder.parent.parent / "outside.safetensors")
    assert "link.safetensors [output]" not in lora_names()
    with pytest.raises(ValueError, match="There is no LoRA"):
        load_lora(name)


def test_a_damaged_file_is_said(folder):
    (folder / "bad.safetensors").write_bytes(b"\x05\x00\x00\x00\x00\x00\x00\x00{}abc")
    with pytest.raises(ValueError, match="cannot be read"):
        load_lora("bad.safetensors [output]")
