"""Through /prompt: one picture, batches, junk, and an interruption."""

import io

import pytest
import torch
from palimpsest.nodes.finish import PixelTrueFinish
from palimpsest.nodes.finish_crop import CropToMask
from PIL import Image

from .pictures import truth

PLAIN = dict(
    registration="automatic", colour="gain and offset", grow=1, feather=1, keep_grain=False, transfer_detail=0.0
)


def image(*pictures):
    return torch.stack([one.movedim(0, -1) for one in pictures])


def executed(source, edited, **changes):
    with torch.inference_mode():
        return PixelTrueFinish.execute(source, edited, **{**PLAIN, **changes}).args


@pytest.fixture(scope="module")
def known():
    return truth(0.1, seed=5)


def test_one_source_serves_many_edits_and_the_reverse(known):
    other = truth(0.05, seed=5)
    edits = image(known.edited, other.edited)
    picture, mask, said = executed(image(known.source), edits)
    assert picture.shape == (2, 240, 320, 3) and mask.shape == (2, 240, 320) and said.count("Picture ") == 2
    alone = executed(image(known.source), edits[1:])
    assert torch.equal(picture[1], alone[0][0])
    assert executed(image(known.source, known.source), edits[:1])[0].shape[0] == 2


def test_batches_that_do_not_pair_up_are_refused(known):
    with pytest.raises(ValueError, match="2 of 'source', 3 of 'edited': connect one of each"):
        executed(image(known.source).expand(2, -1, -1, -1), image(known.edited).expand(3, -1, -1, -1))
    with pytest.raises(ValueError, match="2 of 'picture', 3 of 'mask': connect one of each"):
        CropToMask.execute(image(known.source).expand(2, -1, -1, -1), torch.ones(3, 240, 320), 0.5, 0.0625, 8)


def test_a_mask_is_scaled_to_the_source_or_refused(known):
    mask = torch.zeros(1, 120, 160)
    mask[:, 30:60, 40:90] = 1
    picture, alpha, _ = executed(image(known.source), image(known.edited), mask=mask, grow=0, feather=0)
    outside = alpha[0] == 0
    assert torch.equal(picture[0][outside], image(known.source)[0][outside]) and not outside.all()
    with pytest.raises(ValueError, match="The mask is 100 x 120, but the source 320 x 240"):
        executed(image(known.source), image(known.edited), mask=mask[:, :, :100])


def saved(picture: torch.Tensor, path):
    Image.fromarray((picture * 255).round().byte().movedim(0, -1).numpy()).save(path)
    return path


def test_through_the_host(host_client, known, tmp_path):
    for name in ("source", "edited"):
        host_client.upload(saved(getattr(known, name), tmp_path / f"finish_{name}.png"))
    finish = {"source": ["1", 0], "edited": ["2", 0], **PLAIN}
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "finish_source.png"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "finish_edited.png"}},
        "3": {"class_type": "PalimpsestPixelTrueFinish", "inputs": finish},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "finish"}},
        "5": {"class_type": "PreviewAny", "inputs": {"source": ["3", 2]}},
        "6": {"class_type": "MaskToImage", "inputs": {"mask": ["3", 1]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "finish_mask"}},
    }
    result = host_client.run(prompt)
    assert result.status == "success", result.error
    picture, mask = (read(host_client.view(result.outputs[node]["images"][0])) for node in ("4", "7"))
    inside = mask[0] > 0
    source = (known.source * 255).round()
    assert torch.equal(picture[:, ~inside], source[:, ~inside])
    assert (inside & known.changed).sum() >= 0.99 * known.changed.sum()
    assert "outside the mask 0 pixels changed" in result.outputs["5"]["text"][0]


def read(data: bytes) -> torch.Tensor:
    """(3, H, W), 0..255."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    return (
        torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        .reshape(*picture.size[::-1], 3)
        .movedim(-1, 0)
        .float()
    )


def test_a_crop_goes_back_to_its_place(known):
    mask = torch.zeros(1, 240, 320)
    mask[:, 100:140, 150:200] = 1
    with torch.inference_mode():
        crop, crop_mask, place = CropToMask.execute(image(known.source), mask, 0.5, 0.0625, 8).args
    assert place == {"x": 111, "y": 56, "width": 128, "height": 128} and crop.shape[1] % 8 == crop.shape[2] % 8 == 0
    assert float(crop_mask.mean()) == pytest.approx(40 * 50 / 128**2, rel=0.05)
    same, alpha, _ = executed(image(known.source), crop, mask=mask, place=place, registration="off", colour="off")
    assert torch.equal(same[alpha == 0], image(known.source)[alpha == 0]) and bool(alpha[0, 120, 170] == 1)
    # What was not edited comes back through both resamplings as it was.
    assert (same - image(known.source)).abs().mean() < 0.002
    with pytest.raises(ValueError, match="'place' reaches to 239 x 184, but the source is 320 x 150"):
        executed(image(known.source)[:, :150], crop, place=place)
    with pytest.raises(ValueError, match="'mask' marks nothing"):
        CropToMask.execute(image(known.source), mask * 0, 0.5, 0.0625, 8)


def test_what_vae_encode_crops_is_set_back_into_the_middle(known):
    cropped = image(known.source)[:, 2:-2, 3:-4]
    whole = torch.ones(1, 240, 320)
    same, alpha, _ = executed(image(known.source), cropped, mask=whole, registration="off", colour="off", grow=0)
    assert torch.allclose(same, image(known.source), atol=1e-5) and bool((alpha[:, 4:-4, 5:-5] == 1).all())
