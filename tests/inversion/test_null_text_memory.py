"""NullText Optimize where memory is short: counted before, halved and checkpointed where it runs out, same result."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from palimpsest.benchmarks.peak_memory import PeakMemory
from palimpsest.host.inversion import null_text
from palimpsest.host.inversion.backward_chunks import bytes_kept, rows_that_fit
from palimpsest.host.inversion.null_text import Plan, Predictor, rows_apart
from palimpsest.host.session import with_denoiser

from ..tiny_models import tiny_cond
from .test_null_text_host import fit, prepared


def peak_bytes(evaluate):
    """The benchmarks' measure of the same."""
    with PeakMemory(torch.nn.Linear(1, 1)) as tracked, torch.enable_grad():
        evaluate()
    return tracked.peak


def test_bytes_kept_are_counted_once_and_without_weights():
    weight, x = torch.randn(8, 8), torch.randn(4, 8, requires_grad=True)

    def evaluate():
        y = x @ weight  # keeps the weight alone
        return y.exp().sum() + y.square().sum()  # exp keeps its result, the square its input

    assert bytes_kept(evaluate) == 4 * (64 + 32 + 32)
    assert bytes_kept(evaluate, [weight]) == 4 * (32 + 32)


@pytest.mark.parametrize("count", [bytes_kept, peak_bytes])
def test_nothing_of_a_counted_graph_lives_on(count):
    """Of an operation that keeps its own result, too."""
    x, made = torch.randn(4, 8, requires_grad=True), []

    def evaluate():
        y = x.exp()
        made.append(weakref.ref(y))
        return y.sum()

    count(evaluate)
    gc.collect()
    assert made[0]() is None


@pytest.mark.parametrize(("free", "row", "rows"), [(100, 7, 10), (9, 7, 0), (10, 7, 1), (1e12, 0, 700000000000)])
def test_rows_that_fit(free, row, rows):
    assert rows_that_fit(free, row) == rows


class Short:
    """Memory for so many rows with a graph: without checkpointing (`most`), and with it (1 row)."""

    def __init__(self, monkeypatch, most: int, least: int = 1):
        self.most, self.least, self.seen, self.checkpointed = most, least, [], False
        original, entered = Predictor.unconditional, null_text.Session.checkpointed
        short = self

        def unconditional(self, x, sigma, embedding, pictures):
            if torch.is_grad_enabled():
                short.seen.append(len(x))
                if len(x) > max(short.most, short.least if short.checkpointed else 0):
                    raise torch.OutOfMemoryError("simulated: out of memory")
            return original(self, x, sigma, embedding, pictures)

        def checkpointed(self):
            short.checkpointed = True
            return entered(self)

        monkeypatch.setattr(Predictor, "unconditional", unconditional)
        monkeypatch.setattr(null_text.Session, "checkpointed", checkpointed)


@pytest.mark.parametrize("mode, most", [("fast", 3), ("fast", 0), ("faithful", 1), ("global", 0)])
def test_where_memory_runs_out_the_result_is_the_same(monkeypatch, mode, most):
    model, _, trajectory = prepared("sd1", batch=2)
    settings = {"levels_at_once": 4, "inner_steps": 12} if mode == "fast" else {}
    plenty = fit(model, "sd1", trajectory, mode, **settings)[1]
    short = Short(monkeypatch, most)
    tight = fit(model, "sd1", trajectory, mode, **settings)[1]
    assert short.checkpointed == (most == 0) and max(short.seen) > most
    # A size that failed is not tried again.
    failed = [rows for rows in short.seen if rows > max(most, 1)]
    assert len(failed) == len(set(failed))
    assert torch.allclose(plenty.embeddings, tight.embeddings, atol=2e-3)
    assert torch.allclose(plenty.losses, tight.losses, rtol=0.05, atol=1e-6)


def test_a_single_row_that_fits_nowhere_is_a_sentence(monkeypatch):
    model, _, trajectory = prepared("sd1")
    Short(monkeypatch, 0, least=0)
    with pytest.raises(MemoryError, match="smaller picture"):
        fit(model, "sd1", trajectory, "fast")


@pytest.mark.parametrize(
    ("free", "batch", "levels", "plan"),
    [
        (100.0, 1, 0, (10, 70)),
        (10.0, 1, 0, (7, 7)),
        (10.0, 2, 0, (3, 7)),
        (10.0, 2, 5, (5, 7)),
        (2.0, 4, 0, (1, 1)),
        (1.0, 1, 0, (1, 0)),
        (100.0, 1, 1, (1, 70)),
        (1.0, 1, 1, (1, 0)),
    ],
)
def test_levels_and_rows_that_are_planned(monkeypatch, free, batch, levels, plan):
    """free: in graphs of one row."""
    patcher = SimpleNamespace(get_free_memory=lambda device: free * 1e6)
    accelerator = SimpleNamespace(device=torch.device("meta"), conds=(), model=SimpleNamespace(current_patcher=patcher))
    monkeypatch.setattr(null_text, "row_bytes", lambda *_: 1e6)
    plain = SimpleNamespace(guided=False)
    found = Plan.of(accelerator, plain, torch.zeros(3, batch, 4, 2, 2), torch.zeros(1, 7, 3), levels)
    assert (found.levels, found.rows) == plan and found.cost == 1


def test_a_row_is_measured_on_the_model_itself(monkeypatch):
    model, raw, trajectory = prepared("sd1")

    def body(session):
        short = Short(monkeypatch, 2)
        predictor, text = Predictor(session), tiny_cond("sd1")[0][0]
        one = null_text.row_bytes(session, predictor, trajectory.latents, text)
        # Some activations of every layer, and not the weights.
        cells = raw[0].numel() * 4
        assert 20 * cells < one < 2000 * cells
        short.most = short.least = 0
        assert null_text.row_bytes(session, predictor, trajectory.latents, text) == float("inf")

    conds = {"positive": tiny_cond("sd1"), "negative": tiny_cond("sd1")}
    with torch.inference_mode():
        with_denoiser(model, conds, raw, trajectory.sigmas.flip(0), body, gradients=True)


def test_a_hint_for_each_picture_keeps_rows_together():
    class Control:
        previous_controlnet = None

        def __init__(self, hints: int):
            self.cond_hint_original = torch.zeros(hints, 3, 8, 8)

    class Session:
        conds = ("positive",)

        def __init__(self, control):
            self.control = control

        def entries(self, cond):
            return [{"control": self.control}, {}]

    one, two = Control(1), Control(2)
    assert rows_apart(Session(None)) and rows_apart(Session(one)) and not rows_apart(Session(two))
    one.previous_controlnet = two
    assert not rows_apart(Session(one))
