"""Flow files come back as they went, match other programs' bytes, and cannot run code."""

import pickle
import struct

import numpy as np
import pytest
import torch
from palimpsest.guidance.flow.colour_wheel import colour_wheel
from palimpsest.guidance.flow.files import load_flow, save_flow
from palimpsest.nodes._arrows import arrows
from safetensors import safe_open
from safetensors.torch import save_file


@pytest.fixture
def flow():
    return 20 * torch.randn(1, 11, 17, 2, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("suffix", [".flo", ".npz", ".safetensors"])
def test_a_round_trip_is_exact(tmp_path, flow, suffix):
    [path] = save_flow(tmp_path / f"move{suffix}", flow)
    assert torch.equal(load_flow(path)[0], flow)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_layers_travel_along(tmp_path, flow, suffix):
    layers = torch.rand(1, 11, 17)
    [path] = save_flow(tmp_path / f"move{suffix}", flow, layers)
    assert torch.equal(load_flow(path)[1], layers)


@pytest.mark.parametrize("version, readable", [(None, True), ("1", True), ("2", False)])
def test_a_file_says_its_version_and_a_newer_one_is_not_guessed_at(tmp_path, flow, version, readable):
    [path] = save_flow(tmp_path / "move.safetensors", flow)
    with safe_open(str(path), framework="pt") as file:
        facts = file.metadata()
    assert facts["version"] == "1"
    changed = {key: value for key, value in facts.items() if key != "version"}
    save_file({"flow": flow}, str(path), metadata=changed | ({"version": version} if version else {}))
    if readable:
        assert torch.equal(load_flow(path)[0], flow)
    else:
        with pytest.raises(ValueError, match=r"^'move.safetensors' was saved by a newer Palimpsest"):
            load_flow(path)


def test_numpy_reads_what_we_write_and_we_read_what_numpy_writes(tmp_path, flow):
    [path] = save_flow(tmp_path / "ours.npz", flow)
    assert np.array_equal(np.load(path, allow_pickle=False)["flow"], flow.numpy())
    theirs = np.asfortranarray(flow[0].numpy().astype(np.float64))
    np.savez_compressed(tmp_path / "theirs.npz", anything=theirs)
    np.save(tmp_path / "theirs.npy", theirs)
    assert torch.allclose(load_flow(tmp_path / "theirs.npz")[0], flow)
    assert torch.allclose(load_flow(tmp_path / "theirs.npy")[0], flow)


def test_flo_is_the_middlebury_layout(tmp_path, flow):
    [path] = save_flow(tmp_path / "a.flo", flow)
    data = path.read_bytes()
    assert data[:4] == b"PIEH" and struct.unpack("<ii", data[4:12]) == (17, 11)
    assert struct.unpack("<ff", data[12:20]) == tuple(flow[0, 0, 0].tolist())
    assert len(save_flow(tmp_path / "b.flo", flow.repeat(3, 1, 1, 1))) == 3


def test_tensor_files_of_the_published_examples(tmp_path, flow):
    torch.save(flow.permute(0, 3, 1, 2), tmp_path / "a.pth")
    assert torch.equal(load_flow(tmp_path / "a.pth")[0], flow)


def test_harmful_or_damaged_files_are_refused(tmp_path, flow):
    class Harm:
        def __reduce__(self):
            return (print, ("harm",))

    (tmp_path / "harm.pth").write_bytes(pickle.dumps(Harm()))
    np.savez(tmp_path / "harm.npz", flow=np.array([Harm()], dtype=object))
    (tmp_path / "short.flo").write_bytes(struct.pack("<fii", 202021.25, 17, 11) + b"1234")
    (tmp_path / "other.flo").write_bytes(b"not a flow at all")
    torch.save(torch.zeros(5, 5), tmp_path / "flat.pth")
    torch.save(torch.full((1, 2, 4, 4), torch.nan), tmp_path / "nan.pth")
    for name in ("harm.pth", "harm.npz", "short.flo", "other.flo", "flat.pth", "nan.pth", "what.txt"):
        with pytest.raises(ValueError, match=name):
            load_flow(tmp_path / name)


def test_the_wheel_is_white_at_rest_and_opposite_directions_differ():
    flow = torch.zeros(1, 8, 9, 2)
    assert torch.equal(colour_wheel(flow), torch.ones(1, 8, 9, 3))
    flow[0, 2, 2, 0], flow[0, 5, 5, 0] = 4, -4
    picture = colour_wheel(flow)
    assert picture.shape == (1, 8, 9, 3) and torch.equal(picture[0, 0, 0], torch.ones(3))
    assert (picture[0, 2, 2] - picture[0, 5, 5]).abs().max() > 0.5
    paler = colour_wheel(flow, largest=8.0)
    assert paler.shape == picture.shape and (paler[0, 2, 2] >= picture[0, 2, 2]).all()


def test_arrows_appear_where_something_moves():
    flow = torch.zeros(1, 60, 60, 2)
    picture = torch.ones(1, 60, 60, 3)
    assert torch.equal(arrows(picture, flow), picture)
    flow[:, 10:20, 10:20] = torch.tensor([25.0, 0.0])
    drawn = arrows(picture, flow, every=16)
    changed = (drawn != picture).any(-1)[0]
    assert changed[:, 20:40].any() and not changed[40:].any()


@pytest.mark.parametrize("ground", [0.0, 0.5, 1.0])
def test_the_shafts_of_arrows_are_seen_on_black_grey_and_white(ground):
    """Between tail and head, where no dot is: a coloured line, dark on both of its sides."""
    picture, flow = torch.full((1, 64, 64, 3), ground), torch.zeros(1, 64, 64, 2)
    flow[0, 32, 8, 0] = 40.0
    for every, reach in ((24, 2), (48, 3)):
        drawn = arrows(picture, flow, every=every)[0]
        shaft = drawn[32, 14:34]
        assert (shaft[:, 0] > 0.9).all() and (shaft[:, 2] < 0.4).all()
        for side in (drawn[32 - reach, 14:34], drawn[32 + reach, 14:34]):
            assert (side < 0.15).all()
        # A barb leads back and aside from the head at (48, 32).
        assert ((drawn[24:30, 40:47, 0] > 0.9) & (drawn[24:30, 40:47, 2] < 0.4)).sum() > 2


@pytest.mark.parametrize("mark", [float("nan"), float("inf"), 1e10])
def test_unknown_vectors_are_at_rest_however_they_are_marked(tmp_path, flow, mark):
    flow[0, 2, 3], flow[0, 4, 5, 0] = mark, mark
    [path] = save_flow(tmp_path / "unknown.flo", flow)
    found, _ = load_flow(path)
    known = flow.isfinite() & (flow.abs() < 1e9)
    assert torch.equal(found, torch.where(known.all(-1, keepdim=True), flow, 0.0))


def test_a_flow_of_which_nothing_is_known_is_a_sentence(tmp_path, flow):
    [path] = save_flow(tmp_path / "unknown.flo", torch.full_like(flow, float("nan")))
    with pytest.raises(ValueError, match=r"^The flow in 'unknown.flo' holds no known vector"):
        load_flow(path)


@pytest.mark.parametrize(
    "names, chosen",
    [
        (("mask", "flow_fw", "flow_bw"), "flow_fw"),
        (("mask", "backward", "forward"), "forward"),
        (("mask", "anything"), "anything"),
        (("a", "flow"), "flow"),
    ],
)
def test_the_flow_is_found_by_its_shape_and_then_by_its_name(tmp_path, flow, names, chosen):
    arrays = {name: np.zeros((11, 17)) if name == "mask" else np.random.rand(11, 17, 2) for name in names}
    arrays[chosen] = flow[0].numpy()
    np.savez(tmp_path / "theirs.npz", **arrays)
    assert torch.equal(load_flow(tmp_path / "theirs.npz")[0], flow)


def test_components_may_lie_apart(tmp_path, flow):
    np.savez(tmp_path / "uv.npz", v=flow[0, ..., 1].numpy(), u=flow[0, ..., 0].numpy())
    assert torch.equal(load_flow(tmp_path / "uv.npz")[0], flow)


def test_layers_of_a_single_flow_need_no_batch(tmp_path, flow):
    layers = np.random.rand(11, 17).astype(np.float32)
    np.savez(tmp_path / "layers.npz", flow=flow[0].numpy(), layers=layers)
    assert np.array_equal(load_flow(tmp_path / "layers.npz")[1][0].numpy(), layers)


@pytest.mark.parametrize("names", [("mask",), ("x", "y")])
def test_what_holds_no_flow_or_several_says_what_it_holds(tmp_path, names):
    arrays = {name: np.zeros((11, 17) if name == "mask" else (11, 17, 2)) for name in names}
    np.savez(tmp_path / "theirs.npz", **arrays)
    with pytest.raises(ValueError, match=r"'theirs.npz' holds") as caught:
        load_flow(tmp_path / "theirs.npz")
    assert all(f"{name} (11, 17" in str(caught.value) for name in names)


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_pickled_file_is_refused_in_our_own_words(tmp_path, suffix):
    path = tmp_path / f"numpy{suffix}"
    torch.save({"flow": np.zeros((4, 4, 2))}, path)
    with pytest.raises(ValueError) as caught:
        load_flow(path)
    text = str(caught.value)
    assert text.startswith(f"The flow file '{path.name}' ") and "weights_only" not in text and "\x1b" not in text
    assert "\n" not in text and "npz" in text
