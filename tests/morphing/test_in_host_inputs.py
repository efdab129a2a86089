"""The morph nodes through POST /prompt, with all that they may be given: odd sizes and lengths, and what is refused."""

from importlib.util import find_spec

import pytest
import torch

from ..host.prompts import latent, run
from .scene import Morph, refusal


def test_one_frame_is_the_first_picture_alone(host_client):
    scene = Morph()
    made, _ = scene.whole(frames=1)
    saved = [scene.save(made), scene.save(scene.alone(0))]
    result = run(host_client, scene)
    frame, alone = (latent(host_client, result, node) for node in saved)
    assert frame.shape[0] == 1 and torch.allclose(frame, alone, atol=5e-3)


def test_prompts_of_different_length_keep_what_each_says(host_client):
    """Two and three times a prompt's tokens are brought to six times; the ends are what each gives as it came."""
    scene = Morph()
    first, second = scene.prompts
    join = lambda one, other: [scene.add("ConditioningConcat", conditioning_to=one, conditioning_from=other), 0]
    scene.prompts = [join(first, second), join(join(second, first), second)]
    made, _ = scene.whole(frames=3)
    saved = [scene.save(made), *(scene.save(scene.alone(key, frames=3)) for key in range(2))]
    scene.prompts[1] = scene.prompts[0]
    saved.append(scene.save(scene.alone(1, frames=3)))
    result = run(host_client, scene)
    frames, one, two, other = (latent(host_client, result, node) for node in saved)
    assert torch.isfinite(frames).all()
    assert torch.allclose(frames[[0, 2]], torch.cat([one, two]), atol=5e-3)
    assert not torch.allclose(two, other, atol=0.05)


def test_bad_input_gets_a_sentence_and_the_next_run_is_unaffected(host_client):
    scene = Morph()
    schedule = scene.schedule(4)
    one = scene.numbered("prompts", "prompt", scene.prompts[:1])
    fit = scene.add(
        "PalimpsestLoRAFit",
        model=scene.model,
        steps=2,
        rank=2,
        learning_rate=0.001,
        seed=0,
        **one,
        latent=[scene.add("TestTinyLatent", family="sd1", seed=0, batch=1, size=8), 0],
    )
    scene.model = scene.mixed(scene.model, [[fit, 0]], [schedule, 0])
    scene.stock()
    assert "2 key pictures, but 1 LoRAs" in refusal(host_client, scene)

    scene = Morph()
    scene.model = scene.mixed(scene.model, [[scene.fit(), 0]], [scene.schedule(4), 0])
    scene.stock()
    assert "ALPHAS of 4 frames, but 2 pictures" in refusal(host_client, scene)

    scene = Morph()
    schedule = scene.schedule(4, start=4, count=1)
    scene.positive = scene.texts([schedule, 0])
    scene.stock()
    assert "`start` is 4" in refusal(host_client, scene)

    scene = Morph()
    saved = scene.stock()
    assert torch.isfinite(latent(host_client, run(host_client, scene), saved)).all()


@pytest.mark.parametrize(
    "measure, message",
    [
        ("lpips", "needs the weights of AlexNet" if find_spec("lpips") else "Python package lpips, which this ComfyUI"),
        ("clip vision", "connect a Load CLIP Vision"),
    ],
)
def test_a_measure_that_is_not_at_hand_says_so(host_client, measure, message):
    scene = Morph()
    pictures = [scene.add("EmptyImage", width=64, height=64, batch_size=3, color=0), 0]
    options = {"measure": measure, "frames": 0, "hold_keys": True}
    node = scene.add("PalimpsestReschedule", alphas=[scene.schedule(3), 0], images=pictures, **options)
    scene.add("PreviewAny", source=[node, 2])
    assert message in refusal(host_client, scene)


def test_pictures_of_any_size_become_one_batch_and_black_frames_are_rescheduled(host, host_client):
    scene = Morph()
    wide = [scene.add("EmptyImage", width=96, height=64, batch_size=1, color=0x3080C0), 0]
    tall = [scene.add("EmptyImage", width=50, height=90, batch_size=2, color=0xC08030), 0]
    links = scene.numbered("pictures", "picture", [wide, tall])
    batch = scene.add("PalimpsestKeyPictures", width=0, height=0, **links)
    size = scene.add("GetImageSize", image=[batch, 0])
    previews = [scene.add("PreviewAny", source=[size, place]) for place in range(3)]
    counted = scene.add("PalimpsestMorphSchedule", frames=5, keyframes=[batch, 1], pace="uniform", cyclic=False)
    keys = scene.add("PreviewAny", source=[counted, 1])
    rescheduled = scene.add(
        "PalimpsestReschedule",
        alphas=[scene.schedule(3), 0],
        measure="latents",
        frames=5,
        hold_keys=True,
        images=[scene.add("EmptyImage", width=64, height=64, batch_size=3, color=0), 0],
        vae=scene.vae,
    )
    variation = scene.add("PreviewAny", source=[rescheduled, 2])
    result = run(host_client, scene)
    assert [int(float(result.texts(node)[0])) for node in previews] == [96, 64, 3]
    assert "(0.0, 1.0, 2.0)" in result.texts(keys)[0]
    assert float(result.texts(variation)[0]) == 0.0
    assert "Picture 1 is 50 x 90: scaled to 96 x 64 in proportion, and 63 % of its height cut off." in host.text()
