"""What marks a test as core or host, the list of tests by margin, and the rounding of another CPU."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from palimpsest.tests import needs
from palimpsest.tests.portability import Margins, Perturb, moved
from palimpsest.tools.places import HOST, ROOT


@pytest.fixture
def place(monkeypatch, tmp_path):
    """Writes a file of tests into a repository of its own and says whether one of them needs the host."""
    monkeypatch.setattr(needs, "ROOT", tmp_path)
    folder = tmp_path / "tests" / "technique"
    folder.mkdir(parents=True)
    (tmp_path / "core.py").write_text("def plain(): pass\ndef loaded():\n    import comfy.sd\n")
    (tmp_path / "tests" / "conftest.py").write_text("@fixture\ndef host():\n    import server\n")

    def asked(source: str, name: str | None = None) -> bool:
        path: Path = folder / f"test_{len(list(folder.iterdir()))}.py"
        path.write_text(source)
        return not needs.is_core(path, name)

    return asked


@pytest.mark.parametrize("source, name, expected", [
    ("import torch\ndef test_it(): pass", None, False),
    ("import comfy.sd\ndef test_it(): pass", None, True),
    ("import diffusers\ndef test_it(): pass", None, True),
    ("diffusers = pytest.importorskip('diffusers')", None, True),
    ("def test_it(): pytest.importorskip('diffusers')\ndef test_other(): pass", "test_it", True),
    ("def test_it(): pytest.importorskip('diffusers')\ndef test_other(): pass", "test_other", False),
    ("try:\n    import comfy\nexcept ImportError: pass", None, False),
    ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import comfy", None, False),
    ("def test_it():\n    import comfy", None, False),
    ("def test_it():\n    import comfy", "test_it", True),
    ("def helper():\n    import comfy\ndef test_it(): helper()\ndef test_other(): pass", "test_it", True),
    ("def helper():\n    import comfy\ndef test_it(): helper()\ndef test_other(): pass", "test_other", False),
    ("NEEDED = ['comfy.sd']\ndef test_it(): print(NEEDED)", "test_it", True),
    ("def test_it(): run('-m', 'palimpsest.tests.conftest')\ndef test_other(): pass", "test_other", False),
    ("def test_it(host): pass", "test_it", True),
    ("@fixture\ndef mine(host): pass\ndef test_it(mine): pass", "test_it", True),
    ("def test_it(request): request.getfixturevalue('host')", "test_it", True),
    ("@fixture(autouse=True)\ndef always(host): pass\ndef test_it(): pass", "test_it", True),
    ("from palimpsest.core import plain\ndef test_it(): plain()", "test_it", False),
    ("from ...core import loaded\ndef test_it(): loaded()", "test_it", True),
    ("from palimpsest.core import loaded\ndef test_it():\n    loaded = 1\n    print(loaded)", "test_it", False),
    ("from palimpsest import core\ndef test_it(): core.loaded()", "test_it", True),
    ("def loaded():\n    from palimpsest.core import loaded\n    loaded()\ndef test_it(): loaded()", "test_it", True),
    ("from palimpsest import core\nLOADED = core.loaded", None, False),
    ("def cases():\n    import comfy\n@parametrize('case', cases())\ndef test_it(case): pass", None, True),
])  # fmt: skip
def test_a_test_needs_the_host_by_what_it_reaches(place, source, name, expected):
    assert place(source, name) is expected


@pytest.mark.host
def test_every_module_of_comfyui_that_we_import_is_known_as_its_own():
    inside = {path.stem if path.suffix == ".py" else path.name for path in (HOST / "ComfyUI").iterdir()}
    files = [
        path
        for folder in ("host", "nodes", "tests", "benchmarks", "papercut", "tools")
        for path in (ROOT / folder).rglob("*.py")
    ]
    found = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    assert found & inside - {"tests"} <= needs.HOST_MODULES


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_numbers_move_by_one_unit_in_the_last_place_and_equal_ones_alike(dtype):
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    x[0, :6] = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), torch.finfo(dtype).max], dtype=dtype)
    x[1] = 0.5
    y = moved(x, 1)
    assert torch.equal(y[0, :4], x[0, :4]) and y[0, 4].isnan() and y[0, 5].isfinite()
    assert len(y[1].unique()) == 1 and torch.equal(moved(x.t(), 1)[6:], y.t()[6:])
    rest, before = y[2:], x[2:]
    steps = (torch.nextafter(before, rest) if dtype in (torch.float64, torch.float32) else rest) == rest
    assert steps.all() and (rest != before).all()
    assert 0.45 < (rest > before).double().mean() < 0.55
    assert not torch.equal(moved(x, 2)[2:], rest)


def products(x):
    """A linear layer, a convolution and attention, one after the other. x: (2, 4, 8, 8)."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(4, 4, 3, 3, generator=generator, dtype=x.dtype)
    x = F.conv2d(x, weight, padding=1)
    tokens = x.flatten(2).transpose(1, 2)
    tokens = F.linear(tokens, weight[:, :, 1, 1])
    return F.scaled_dot_product_attention(tokens, tokens @ weight[:, :, 0, 0], tokens)


@pytest.mark.parametrize("scope", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_each_product_is_rounded_anew_and_gradients_stay_right(scope):
    # Under --perturb, too, the rounding that is tested is the only one: two of them may cancel.
    with torch.utils._python_dispatch._disable_current_modes(), scope():
        x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x.requires_grad_(scope is torch.enable_grad)
        plain = products(x)
        with Perturb(1).mode():
            first, again = products(x), products(x)
            for function in (
                lambda: torch.mm(x[0, 0], x[0, 1]),
                lambda: x[0, 0] @ x[0, 1],
                lambda: F.conv2d(x, x[:, :, :3, :3]),
                lambda: torch.einsum("ab,bc->ac", x[0, 0], x[0, 1]),
                lambda: F.linear(x[0, 0], x[0, 1]),
                lambda: torch.bmm(x[0], x[1]),
            ):
                rounded = function()
                with torch.utils._python_dispatch._disable_current_modes():
                    exact = function()
                assert (rounded != exact).all() and torch.allclose(rounded, exact, rtol=1e-15, atol=0)
        assert torch.equal(first, again) and not torch.equal(first, plain)
        assert torch.allclose(first, plain, rtol=1e-9, atol=1e-11)
        if scope is torch.enable_grad:
            theirs, mine = (torch.autograd.grad(one.square().sum(), x)[0] for one in (plain, first))
            assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scope", [torch.no_grad, torch.inference_mode])
def test_what_is_written_into_a_given_tensor_stays_there(scope):
    a, b, place = torch.rand(3, 3) + 1, torch.rand(3, 3) + 1, torch.zeros(3, 3)
    with scope(), Perturb(1).mode():
        returned = torch.mm(a, b, out=place)
        assert returned is place
        assert torch.equal(place, torch.mm(a, b))
    assert not torch.equal(place, a @ b)


def test_the_margin_is_the_factor_to_the_tolerance_from_either_side(monkeypatch, request):
    if outer := request.config.pluginmanager.get_plugin("palimpsest-margins"):
        monkeypatch.setattr(outer, "test", None)  # what is near here is meant to be
    for owner, name in Margins.PLACES:
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back at the end
    margins = Margins(verbose=False)
    one = torch.ones(4, dtype=torch.float64)
    for test, difference, expected in (("near", 0.5, 2.0), ("just failing", 1.25, 1.25), ("far", 0.01, 100.0)):
        margins.test = test
        assert torch.allclose(one + difference * 1e-3, one, rtol=0, atol=1e-3) == (difference < 1)
        margins.test = None
        assert abs(margins.worst[test][0] / expected - 1) < 1e-9
        assert margins.worst[test][1].startswith("test_portability.py:")
    margins.test = "approx"
    assert 1.0 + 2.5e-7 == pytest.approx(1.0)
    margins.test = "assert_close"
    torch.testing.assert_close({"a": [one + 5e-4]}, {"a": [one]}, rtol=0, atol=1e-3)
    margins.test = None
    assert abs(margins.worst["approx"][0] - 4) < 1e-6 and abs(margins.worst["assert_close"][0] - 2) < 1e-9


def test_only_what_the_environment_lacks_is_left_out():
    path = ROOT / "tests" / "repository" / "test_portability.py"
    assert "torch" in needs.packages_of(path) and not needs.needs_host(path)
    assert all(find_spec(package) for package in needs.packages_of(path))
