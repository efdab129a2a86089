"""Whether a test passes on every CPU: how near its comparisons come to their tolerances, and what other rounding does.

`--margins` records |difference| / tolerance of every comparison with a tolerance and lists the tests within a factor
of three. `--perturb SEED` moves each result of a matrix product, convolution or attention by one unit in the last
place, as another CPU's order of summation would. A test is portable if its margin is at least 3 and no seed fails.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from numbers import Number
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing._comparison import default_tolerances
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parent.parent
PORTABLE = 3.0
PERTURBED = "PALIMPSEST_PERTURB"  # the seed, for hosts that the tests start
MULTIPLIER = 0x5851F42D4C957F2D  # Knuth's, of his 64-bit linear congruential generator


def configure(config: pytest.Config):
    if config.option.margins:
        config.pluginmanager.register(Margins(config.option.verbose > 0), "palimpsest-margins")
    if config.option.perturb is not None:
        os.environ[PERTURBED] = str(config.option.perturb)
        config.pluginmanager.register(Perturb(config.option.perturb), "palimpsest-perturb")


# Margins


class Margins:
    """The worst comparison of every test. Its margin is the factor to the tolerance, from either side."""

    PLACES = (
        (torch, "allclose"),
        (torch.Tensor, "allclose"),
        (np, "allclose"),
        (np.testing, "assert_allclose"),
        (torch.testing, "assert_close"),
        (type(pytest.approx(1.0)), "__eq__"),
    )

    def __init__(self, verbose: bool):
        self.verbose, self.test = verbose, None
        self.worst: dict[str, tuple[float, str]] = {}
        self._patch()

    def record(self, ratios):
        """ratios: array-like of |difference| / tolerance, one an element."""
        ratios = np.asarray(ratios, dtype=np.float64)
        ratios = ratios[np.isfinite(ratios)]
        if not self.test or not ratios.size:
            return
        largest = float(ratios.max())
        margin = max(largest, 1 / largest) if largest else float("inf")
        if margin < self.worst.setdefault(self.test, (float("inf"), "equal"))[0]:
            self.worst[self.test] = margin, _caller()

    def compare(self, mine, theirs, rtol: float, atol: float):
        mine, theirs = _array(mine), _array(theirs)
        if mine is None or theirs is None or mine.size == 0:
            return
        with np.errstate(all="ignore"):
            self.record(abs(mine - theirs) / (atol + rtol * abs(theirs)))

    def _patch(self):
        watch = {
            "allclose": self._allclose,
            "assert_allclose": self._assert_allclose,
            "assert_close": self._measured_assertion,
            "__eq__": self._approx,
        }
        for owner, name in self.PLACES:
            self._wrap(owner, name, watch[name])

    @staticmethod
    def _wrap(owner, name: str, watch: Callable):
        inner = getattr(owner, name)

        @wraps(inner)
        def wrapper(*args, **kwargs):
            answer = inner(*args, **kwargs)
            watch(*args, **kwargs)
            return answer

        setattr(owner, name, wrapper)

    def _allclose(self, mine, theirs, rtol=1e-5, atol=1e-8, equal_nan=False):
        self.compare(mine, theirs, rtol, atol)

    def _assert_allclose(self, mine, theirs, rtol=1e-7, atol=0, **_):
        self.compare(mine, theirs, rtol, atol)

    def _measured_assertion(self, actual, expected, rtol=None, atol=None, **_):
        for mine, theirs in _pairs(actual, expected):
            standard = default_tolerances(torch.as_tensor(mine), torch.as_tensor(theirs))
            self.compare(mine, theirs, *(standard if rtol is None else (rtol, atol)))

    def _approx(self, approx, actual):
        tolerance = getattr(approx, "tolerance", None) if isinstance(approx.expected, Number) else None
        if tolerance and _array(actual) is not None:
            self.record(abs(_array(actual) - approx.expected) / tolerance)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item):
        self.test = item.nodeid
        try:
            return (yield)
        finally:
            self.test = None

    def pytest_sessionfinish(self, session: pytest.Session):
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["margins"] = [(*row, test) for test, row in self.worst.items()]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        rows = node.workeroutput["margins"] if hasattr(node, "workeroutput") else []
        self.worst |= {test: (margin, place) for margin, place, test in rows}

    def pytest_terminal_summary(self, terminalreporter):
        rows = sorted((margin, test, place) for test, (margin, place) in self.worst.items())
        near = [row for row in rows if row[0] < PORTABLE]
        terminalreporter.section("margins")
        for margin, test, place in rows if self.verbose else near:
            terminalreporter.write_line(f"{margin:10.3g}  {test}  ({place})")
        counts = f"{len(rows)} tests compare with a tolerance, {len(near)} within a factor of {PORTABLE:g}"
        terminalreporter.write_line(counts)


def _array(value):
    """float64, or None for what is no number; complex numbers stay complex."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().to(torch.complex128 if value.is_complex() else torch.float64).numpy()
    try:
        value = np.asarray(value)
    except ValueError:
        return None
    return value if value.dtype.kind == "c" else value.astype(np.float64) if value.dtype.kind in "biuf" else None


def _pairs(actual, expected) -> Iterator[tuple]:
    if isinstance(expected, dict):
        actual, expected = [actual[key] for key in expected], list(expected.values())
    if isinstance(expected, (list, tuple)):
        for mine, theirs in zip(actual, expected):
            yield from _pairs(mine, theirs)
    else:
        yield actual, expected


def _caller() -> str:
    """file:line in the tests that asked for the comparison."""
    frame, tests, here = sys._getframe(1), str(ROOT / "tests"), os.path.realpath(__file__)
    while frame:
        file = os.path.realpath(frame.f_code.co_filename)
        if file.startswith(tests) and file != here:
            return f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


# Perturbation

ROUNDED = (
    "mm",
    "bmm",
    "addmm",
    "addbmm",
    "baddbmm",
    "mv",
    "addmv",
    "dot",
    "vdot",
    "matmul",
    "linear",
    "einsum",
    "inner",
    "bilinear",
    "tensordot",
    "linear_backward",
    "mkldnn_linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "convolution",
    "_convolution",
    "convolution_overrideable",
    "mkldnn_convolution",
    "convolution_backward",
    "scaled_dot_product_attention",
    "_native_multi_head_attention",
)


def is_rounded(operator) -> bool:
    name = operator.overloadpacket.__name__
    return name.rstrip("_") in ROUNDED or name.startswith("_scaled_dot_product_")


def moved(x, seed: int):
    """x with every finite number but 0 moved by one unit in the last place, up or down by a hash of its own bits."""

    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16}
    if x.is_complex():
        return torch.view_as_complex(moved(torch.view_as_real(x.resolve_conj()), seed).contiguous())
    bits = x.view(integers[x.element_size()])
    mixed = (bits.long() + seed * 0x9E3779B97F4A7C1) * MULTIPLIER
    mixed = (mixed ^ (mixed >> 29)) * MULTIPLIER
    away = bits + ((mixed >> 40 & 1) * 2 - 1).to(bits.dtype)
    y = away.view(x.dtype)
    return torch.where(x.isfinite() & y.isfinite() & (x != 0), y, x)


class Perturb:
    def __init__(self, seed: int):
        self.seed = seed

    def mode(self):
        """Lies below autograd: what it returns is what is saved for the backward pass."""
        seed = self.seed

        def perturbed(result, given):
            if isinstance(result, (tuple, list)):
                return type(result)(perturbed(one, given) for one in result)
            if not isinstance(result, torch.Tensor) or not (result.is_floating_point() or result.is_complex()):
                return result
            if result.element_size() == 1 or result.layout != torch.strided:
                return result
            # What was written into a tensor of the caller's stays there.
            return result.copy_(moved(result, seed)) if id(result) in given else moved(result, seed)

        class Rounding(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                result = function(*args, **(kwargs or {}))
                if not is_rounded(function):
                    return result
                return perturbed(result, {id(one) for one in (*args, *(kwargs or {}).values())})

        return Rounding()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        with self.mode():
            return (yield)
