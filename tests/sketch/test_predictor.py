"""The predictor: the first layer before the enlargement, rows that do not know each other, the file."""

import json

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from palimpsest.guidance.sketch.files import FORMAT, read_predictor, write_predictor
from palimpsest.guidance.sketch.predictor import (
    EdgePredictor,
    PredictorSpec,
    cells,
    embed_level,
    frozen,
    new_network,
    uncells,
)
from safetensors.torch import save_file

SIZE = (16, 12)
TAPS = {
    "input.2": (6, 16, 12), "input.4": (9, 8, 6), "middle.0": (7, 4, 3), "middle.1": (7, 4, 3), "output.2": (5, 8, 6),
}  # fmt: skip


def spec(**changes) -> PredictorSpec:
    facts = dict(family="sd1", latent_format="SD15", taps=tuple(TAPS), channels=tuple(c for c, _, _ in TAPS.values()))
    return PredictorSpec(**{**facts, "widths": (32, 24, 16, 8), "sigma_high": 14.6, **changes})


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(rows: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = draw(seed)
    return {name: torch.randn(rows, *shape, generator=generator) for name, shape in TAPS.items()}


def predictor(**changes) -> EdgePredictor:
    """A network with every weight and statistic away from its start."""
    network = new_network(spec(**changes), seed=3)
    generator = draw(1)
    network.whiten(
        [torch.randn(c, generator=generator) for c in network_channels(network)],
        [torch.rand(c, generator=generator) + 0.5 for c in network_channels(network)],
    )
    return EdgePredictor(spec(**changes), frozen(network))


def network_channels(network) -> list[int]:
    return [weight.shape[1] for weight in network.first]


def enlarge_first(network, maps, sigma, size) -> torch.Tensor:
    """The paper's order: enlarge all features, stack them, then apply one wide linear layer to each pixel."""
    stacked = torch.cat([F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps], 1)
    mean, scale = torch.cat(list(network.mean)), torch.cat(list(network.scale))
    tokens = (rearrange(stacked, "b c h w -> b (h w) c") - mean) * scale
    x = tokens @ torch.cat(list(network.first), 1).T + network.level(embed_level(sigma))[:, None]
    for norm, linear in zip(network.norms, network.rest):
        x = linear(F.relu(norm(x)))
    return rearrange(x, "b (h w) c -> b c h w", h=size[0])


@pytest.mark.parametrize("target", ["edges", "latent"])
def test_the_first_layer_before_the_enlargement_equals_the_enlargement_first(target):
    network = predictor(target=target, detail=2 if target == "edges" else 1).network
    maps, sigma = list(features().values()), torch.tensor([0.4, 9.0])
    ours = network(maps, sigma, SIZE)
    assert ours.shape == (2, 4, *SIZE)
    assert torch.allclose(ours, enlarge_first(network, maps, sigma, SIZE), atol=1e-5)


def test_at_the_widths_of_the_paper_too():
    wide = PredictorSpec("sd1", "SD15", ("a", "b", "c"), (320, 640, 1280), target="latent", detail=1)
    network = new_network(wide)
    maps = [torch.randn(1, c, s, s, generator=draw(c)) for c, s in ((320, 32), (640, 16), (1280, 8))]
    sigma = torch.tensor([3.0])
    assert torch.allclose(network(maps, sigma, (32, 32)), enlarge_first(network, maps, sigma, (32, 32)), atol=1e-5)


def test_some_pixels_are_those_pixels_of_all():
    network = predictor().network
    maps, sigma = list(features().values()), torch.tensor([0.4, 9.0])
    positions = torch.tensor([0, 5, 77, 191])
    whole = rearrange(network(maps, sigma, SIZE), "b k h w -> b (h w) k")
    assert torch.allclose(network(maps, sigma, SIZE, positions), whole[:, positions], atol=1e-6)


def test_a_row_does_not_know_its_batch():
    """What BatchNorm gets wrong with one picture: alone or among others, a picture has the same edges."""
    made = predictor()
    several, sigma = features(3), torch.tensor([0.4, 9.0, 2.0])
    together = made.logits(several, sigma, SIZE)
    for row in range(3):
        alone = made.logits({name: value[row : row + 1] for name, value in several.items()}, sigma[row : row + 1], SIZE)
        assert torch.allclose(alone, together[row : row + 1], atol=1e-5)


def test_half_precision_features_are_read_in_full():
    made = predictor()
    full, sigma = features(), torch.tensor([0.4, 9.0])
    half = {name: value.half() for name, value in full.items()}
    out = made.logits(half, sigma, SIZE)
    assert out.dtype == torch.float32 and torch.allclose(out, made.logits(full, sigma, SIZE), atol=0.02)


def test_cells_lie_where_they_belong():
    out = torch.arange(2 * 4 * 3 * 5, dtype=torch.float32).reshape(2, 4, 3, 5)
    picture = cells(out, 2)
    assert picture.shape == (2, 1, 6, 10) and torch.equal(uncells(picture, 2), out)
    assert picture[1, 0, 2 * 1 + 1, 2 * 4 + 0] == out[1, 2, 1, 4]


def test_the_noise_level_makes_a_difference():
    made, one = predictor(), features(1)
    low, high = (made.edges(one, torch.tensor([s]), SIZE) for s in (0.5, 10.0))
    assert 0 <= low.min() and low.max() <= 1 and (low - high).abs().max() > 1e-3


@pytest.mark.parametrize("sigma,inside", [(0.0, True), (14.6, True), (14.6146, True), (16.0, False)])
def test_the_trained_levels(sigma, inside):
    assert predictor().covers(sigma) is inside


# The file


def test_a_file_brings_everything_back(tmp_path):
    made = predictor(target="latent", detail=1)
    made = EdgePredictor(made.spec.with_facts(steps=7, pictures=3), made.network, {"step": torch.tensor(7)})
    write_predictor(made, tmp_path / "edges.safetensors")
    back = read_predictor(tmp_path / "edges.safetensors")
    assert back.spec == made.spec and back.state["step"] == 7
    sigma = torch.tensor([0.4, 9.0])
    assert torch.equal(back.logits(features(), sigma, SIZE), made.logits(features(), sigma, SIZE))


def test_a_half_precision_file_is_half_as_large_and_nearly_the_same(tmp_path):
    made = predictor()
    for name, dtype in (("full", torch.float32), ("half", torch.float16)):
        write_predictor(made, tmp_path / f"{name}.safetensors", dtype=dtype)
    back = read_predictor(tmp_path / "half.safetensors")
    sigma = torch.tensor([0.4, 9.0])
    assert torch.allclose(back.logits(features(), sigma, SIZE), made.logits(features(), sigma, SIZE), atol=0.02)


def test_weights_read_under_inference_mode_serve_gradients(tmp_path):
    write_predictor(predictor(), tmp_path / "edges.safetensors")
    with torch.inference_mode():
        back = read_predictor(tmp_path / "edges.safetensors")
    x = torch.randn(1, 6, *SIZE, requires_grad=True)
    back.logits({**features(1), "input.2": x}, torch.tensor([1.0]), SIZE).sum().backward()
    assert x.grad.abs().sum() > 0 and not any(weight.requires_grad for weight in back.network.parameters())


def damaged(tmp_path, *, header=None, drop=None, nan=False):
    path = tmp_path / "edges.safetensors"
    write_predictor(predictor(), path)
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        facts = json.loads(file.metadata()[FORMAT])
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    facts.update(header or {})
    tensors.pop(drop, None)
    if nan:
        tensors["network.rest.0.weight"][0, 0] = float("nan")
    save_file(tensors, str(path), metadata={FORMAT: json.dumps(facts)})
    return path


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"header": {"version": 99}}, "newer Palimpsest"),
        ({"header": {"widths": [10**9, 4]}}, "do not fit its description"),
        ({"header": {"target": "clouds"}}, "unknown to this version"),
        ({"header": {"taps": None}}, "cannot be read"),
        ({"drop": "network.level.bias"}, "do not fit its description"),
        ({"nan": True}, "not numbers"),
    ],
)
def test_a_damaged_file_is_a_sentence(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        read_predictor(damaged(tmp_path, **changes))


def test_a_file_of_another_kind_is_a_sentence(tmp_path):
    other, text = tmp_path / "other.safetensors", tmp_path / "text.safetensors"
    save_file({"a": torch.zeros(1)}, str(other))
    text.write_text("hello")
    with pytest.raises(ValueError, match="no edge predictor"):
        read_predictor(other)
    with pytest.raises(ValueError, match="damaged"):
        read_predictor(text)
