"""A host that is too old gets one sentence, when it loads the pack."""

from pathlib import Path

import pytest
from palimpsest.host import version
from palimpsest.tools.client import HostError
from palimpsest.tools.inprocess import own_installation
from palimpsest.tools.server import Host
from palimpsest.tools.setup import link, make_base


@pytest.mark.parametrize(
    "text, numbers",
    [("0.30.0", (0, 30, 0)), ("v0.3.75", (0, 3, 75)), ("1.2", (1, 2, 0)), ("0.31.0rc1", (0, 31, 0)), ("", (0, 0, 0))],
)
def test_versions_are_read(text, numbers):
    assert version.parse(text) == numbers


@pytest.mark.parametrize("found, old", [("0.29.9", True), ("0.3.75", True), ("0.30.0", False), ("1.0", False)])
def test_the_oldest_host(found, old):
    sentence = version.too_old(found)
    assert bool(sentence) == old
    assert not old or (found in sentence and "0.30.0 or newer" in sentence and "update ComfyUI" in sentence)


def test_a_host_without_a_version_is_given_its_chance():
    assert version.too_old("") == ""


def test_this_host_has_what_the_pack_builds_on():
    assert version.missing_parts() == []
    version.require_host()


def test_missing_parts_are_named():
    needed = (("comfy.samplers", "CFGGuider"), ("comfy.samplers", "NotYet"), ("comfy.not_yet", "Anything"))
    assert version.missing_parts(needed) == ["comfy.samplers.NotYet", "comfy.not_yet.Anything"]


def test_a_missing_package_is_named_with_its_command():
    version.require_packages()
    with pytest.raises(RuntimeError, match=r"needs not_yet, which.*-m pip install not_yet' and start"):
        version.require_packages(("torch", "not_yet"))


def test_an_old_host_says_so_in_its_log(tmp_path):
    base = make_base(tmp_path)
    link(Path(__file__).parent / "old_host", base / "custom_nodes" / "an_older_host")
    log = base / "host.log"
    try:
        with Host.start(own_installation(base), log=log) as host:
            assert "PalimpsestDDIMInvert" not in host.client.object_info()
    except HostError as error:
        assert "Palimpsest needs ComfyUI 0.30.0" in str(error)
    assert "Palimpsest needs ComfyUI 0.30.0 or newer and found 0.29.3: update ComfyUI" in log.read_text()
