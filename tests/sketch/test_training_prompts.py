"""Which prompts a training asks the model with: each picture's own, and half of the time the empty one."""

from collections import Counter

import pytest
import torch
from palimpsest.host.sketch import training
from palimpsest.nodes.sketch_train import EdgePredictorTrain
from palimpsest.papercut.shipped import load_shipped
from palimpsest.tests.sketch.test_edge_data import pair

CAPTIONS = ("a red circle", "a blue star", "a green square")


@pytest.fixture(scope="module")
def shipped():
    with torch.inference_mode():
        return load_shipped()


def encoded(clip, text: str) -> list:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


@pytest.mark.parametrize("with_clip", [True, False])
def test_the_text_encoders_empty_prompt_takes_the_place_of_half_of_the_captions(shipped, monkeypatch, with_clip):
    model, clip, vae = shipped
    asked: list[list] = []
    together = training.together
    monkeypatch.setattr(training, "together", lambda prompts: asked.append(prompts) or together(prompts))
    with torch.inference_mode():
        captions = [encoded(clip, text) for text in CAPTIONS]
        known = {text: prompt[0][0] for text, prompt in zip(CAPTIONS, captions)} | {"": encoded(clip, "")[0][0]}
        pictures = [pair(place) for place in (0, 6, 12)]
        out = EdgePredictorTrain.execute(
            [model],
            [vae],
            [p for p, _ in pictures],
            [e for _, e in pictures],
            steps=[16],
            batch_size=[8],
            conditioning=captions,
            clip=[clip] if with_clip else None,
            held_out=[0.0],
            width=[64],
        )
    words = Counter(
        text
        for prompts in asked
        for prompt in prompts
        for text, tokens in known.items()
        if torch.equal(prompt[0][0], tokens)
    )
    # Sixteen batches to learn from, and four for the statistics of the features.
    assert sum(words.values()) == 20 * 8 and all(words[text] > 0 for text in CAPTIONS)
    dropped = words[""] / sum(words.values())
    assert 0.4 < dropped < 0.6 if with_clip else dropped == 0
    assert out.args[0].spec.facts["prompts_dropped"] == (0.5 if with_clip else 0.0)
