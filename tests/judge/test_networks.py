"""The measures of networks, with random weights: those of other people's code, and their conventions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from palimpsest.benchmarks.judge import scores
from palimpsest.benchmarks.judge.cases import Case
from palimpsest.benchmarks.judge.dino import Dino, read_weights
from palimpsest.benchmarks.judge.scores import Pictures, Scores
from palimpsest.guidance.edit_measures import WHOLE, EditMeasures, Region, cosine_score
from palimpsest.tools.client import Result
from palimpsest.tools.steps import Problem

from .ten_cases import write_edit

SIDE, PATCH, WIDTH, LAYERS = 224, 32, 128, 3
CASE = Case("1", None, "a cat", "a dog")


def random_pictures(height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    return torch.rand(2, height, width, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def vit():
    """The vision transformer of the transformers library, small and random."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=WIDTH // 64, intermediate_size=2 * WIDTH,
        image_size=SIDE, patch_size=PATCH, layer_norm_eps=1e-6, initializer_range=0.1,
    )  # fmt: skip
    return ViTModel(config, add_pooling_layer=False).train(False)


def keys_of(vit, pictures: torch.Tensor) -> torch.Tensor:
    found = []
    handle = vit.layers[-1].attention.k_proj.register_forward_hook(lambda module, given, made: found.append(made))
    with torch.inference_mode():
        vit(pictures)
    handle.remove()
    return found[0]


def authors_file(vit, place):
    """The same weights as the authors of DINO name them."""
    weights = {}
    for key, value in vit.state_dict().items():
        key = key.removeprefix("embeddings.").replace("position_embeddings", "pos_embed")
        key = key.replace("patch_embeddings.projection", "patch_embed.proj").replace("layers.", "blocks.")
        key = key.replace("attention.o_proj", "attn.proj").replace("layernorm_before", "norm1")
        weights[key.replace("layernorm_after", "norm2").replace("layernorm", "norm")] = value
    for layer in range(LAYERS):
        for part in ("weight", "bias"):
            three = [weights.pop(f"blocks.{layer}.attention.{one}_proj.{part}") for one in "qkv"]
            weights[f"blocks.{layer}.attn.qkv.{part}"] = torch.cat(three)
    torch.save(weights, place)
    return place


@pytest.mark.parametrize("kind", ["authors", "transformers"])
def test_the_last_layer_s_keys_are_those_of_the_transformers_library(vit, tmp_path, kind):
    vit.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors" if kind == "transformers" else authors_file(vit, tmp_path / "dino.pth")
    pictures = random_pictures().movedim(-1, 1)
    assert torch.allclose(Dino(read_weights(file)).keys(pictures), keys_of(vit, pictures), atol=1e-4)


def test_structure_is_measured_in_both_conventions(vit, tmp_path):
    """By the formula: cosines of all keys with each other, and the mean of their squared differences."""
    source, edit = random_pictures(256, 256)
    network = Dino(read_weights(authors_file(vit, tmp_path / "dino.pth")))
    found, resize = network.distances(source, edit), torch.nn.functional.interpolate
    for name, scale in (("structure", 255), ("structure_unit", 1)):
        seen = resize(torch.stack([source, edit]).movedim(-1, 1) * scale, size=(SIDE, SIDE), mode="bilinear")
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        keys = keys_of(vit, (seen - mean[:, None, None]) / std[:, None, None])
        cosines = [torch.nn.functional.cosine_similarity(one[:, None], one[None], dim=-1) for one in keys]
        assert found[name] == pytest.approx(float((cosines[0] - cosines[1]).square().mean()), rel=1e-3)
    assert network.distances(source, source)["structure"] == 0


def test_what_is_no_dino_is_a_sentence(tmp_path):
    for name, content in (("a.pth", b"nothing"), ("b.safetensors", b"nothing")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Problem, match=rf"DINO=.*{name} cannot be read"):
            read_weights(tmp_path / name)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "c.pth")
    with pytest.raises(Problem, match="is no vision transformer of DINO"):
        read_weights(tmp_path / "c.pth")


def test_lpips_is_that_of_torchmetrics(tmp_path, monkeypatch):
    """Both read the same random SqueezeNet from the folder where torchvision keeps its files."""
    pytest.importorskip("lpips")
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as theirs
    from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(ValueError, match=r"^LPIPS needs the weights of SqueezeNet.* or judge without it\.$"):
        scores.lpips()
    (tmp_path / "checkpoints").mkdir()
    torch.manual_seed(0)
    file = tmp_path / "checkpoints" / SqueezeNet1_1_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    torch.save(squeezenet1_1().state_dict(), file)
    source, edit = random_pictures(128, 96)
    mask = torch.zeros(128, 96)
    mask[30:60, 20:70] = 1
    found = scores.lpips().score(CASE, Pictures(source, edit, mask))["lpips"]
    one, two = ((x * (1 - mask)[..., None]).movedim(-1, 0)[None] * 2 - 1 for x in (edit, source))
    assert found == pytest.approx(float(theirs(one, two, net_type="squeeze")), rel=1e-4)
    assert scores.lpips().score(CASE, Pictures(source, edit, torch.ones_like(mask))) == {}


def test_image_fidelity_is_one_less_lpips_with_alexnet_at_224(tmp_path, monkeypatch):
    pytest.importorskip("lpips")
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as theirs
    from torchvision.models import AlexNet_Weights, alexnet

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(ValueError, match=r"^Image fidelity needs the weights of AlexNet"):
        scores.fidelity()
    (tmp_path / "checkpoints").mkdir()
    torch.manual_seed(0)
    torch.save(alexnet().state_dict(), tmp_path / "checkpoints" / AlexNet_Weights.IMAGENET1K_V1.url.rpartition("/")[2])
    source, edit = random_pictures(128, 96)
    found = scores.fidelity().score(CASE, Pictures(source, edit, None))["fidelity"]
    resize = torch.nn.functional.interpolate
    one, two = (resize(x.movedim(-1, 0)[None] * 2 - 1, (224, 224), mode="bilinear") for x in (source, edit))
    assert found == pytest.approx(1 - float(theirs(one, two, net_type="alex")), rel=1e-4)


def test_the_clip_score_is_that_of_torchmetrics():
    from torchmetrics.functional.multimodal.clip_score import _clip_score_update

    pictures, texts = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    model = SimpleNamespace(
        get_image_features=lambda pixels: pictures, get_text_features=lambda ids, mask: texts,
        config=SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=77)),
    )  # fmt: skip
    given = {name: torch.zeros(3, 4) for name in ("pixel_values", "input_ids", "attention_mask")}
    score, _ = _clip_score_update(list(torch.zeros(3, 3, 8, 8)), ["a"] * 3, model, lambda **named: given)
    assert torch.allclose(cosine_score(pictures, texts), score, atol=1e-4)


class Reporting:
    """A host whose Edit Report shows two scores, and which knows the files by name."""

    def __init__(self):
        self.prompts, self.uploaded = [], []

    def object_info(self):
        names = {"CLIPVisionLoader": ["vision"], "CLIPLoader": ["text"]}
        return {node: {"input": {"required": {"clip_name": [files]}}} for node, files in names.items()}

    def upload(self, place):
        self.uploaded.append(place.name)
        return place.name

    def run(self, prompt):
        self.prompts.append(prompt)
        lines = EditMeasures((Region(WHOLE, 1, 20, 0.9, 0.01),), 0.5, clip=(25.25, -1.5)).lines()
        return Result("1", "success", {"5": {"text": ["\n".join(lines)]}})


def test_clip_scores_are_edit_report_s_of_the_edit_and_of_its_edited_part(tmp_path):
    host, (source, edit) = Reporting(), random_pictures(16, 16)
    scorer, mask = scores.clip(host, "vision", "text", tmp_path), torch.zeros(16, 16)
    assert scorer.score(CASE, Pictures(source, edit, mask)) == {"clip": 25.25}
    mask[4:8] = 1
    assert scorer.score(CASE, Pictures(source, edit, mask)) == {"clip": 25.25, "clip_edited": -1.5}
    assert host.prompts[-1]["5"]["inputs"]["text"] == "a dog"
    assert host.uploaded[-2:] == ["palimpsest_judge_whole.png", "palimpsest_judge_part.png"]
    with pytest.raises(Problem, match="VISION=other is not there: choose from vision"):
        scores.clip(host, "other", "text", tmp_path)


def test_the_prompt_of_the_clip_score_is_one_that_the_host_takes(host):
    info = host.client.object_info()
    for entry in scores.clip_prompt("a", "b", "words", "c", "d").values():
        inputs = info[entry["class_type"]]["input"]
        needed = set(inputs["required"])
        assert needed <= set(entry["inputs"]) <= needed | set(inputs.get("optional", {}))


def test_only_what_is_lacking_is_measured(tmp_path):
    asked = []
    scorer = lambda name: scores.Scorer((name,), lambda case, seen: asked.append(name) or {name: 1.0})
    case = Case("1", write_edit(1, tmp_path / "source.png"), "", "")
    found = Scores([scorer("psnr"), scorer("lpips")])(case, write_edit(2, tmp_path / "edit.png"), {"psnr": 2.0})
    assert found == {"psnr": 2.0, "lpips": 1.0} and asked == ["lpips"]
