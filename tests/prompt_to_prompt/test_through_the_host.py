"""Editing by words in a running ComfyUI: stock loader, text encoder and sampler; again, interrupted, bad input."""

import time

import pytest
import torch
from palimpsest.papercut.networks import FILE

from ..host.prompts import Graph, latent, run
from ..inversion.test_through_the_host import refusal

pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the trained weights are not there")

SOURCE, EDIT = "a red striped heart on a cream checked ground", "a blue striped heart on a cream checked ground"
SIDE, STEPS = 96, 4


class EditGraph(Graph):
    """A picture (any latent will do), its inversion and Prompt-to-Prompt on it; sampled by stock nodes."""

    def __init__(self, edits=EDIT, *, source=SOURCE, rows=2, seed=0, steps=STEPS, cross=0.8, self_steps=0.4, blend=""):
        super().__init__()
        loaded = self.add("CheckpointLoaderSimple", ckpt_name=FILE.name)
        self.model, self.clip, self.vae = ([loaded, slot] for slot in range(3))
        self.source = [self.add("CLIPTextEncode", clip=self.clip, text=source), 0]
        self.empty = [self.add("CLIPTextEncode", clip=self.clip, text=""), 0]
        blank = self.add("EmptyLatentImage", width=SIDE, height=SIDE // 2 + 16, batch_size=1)
        self.picture = [
            self.add(
                "KSampler",
                model=self.model,
                positive=self.source,
                negative=self.empty,
                latent_image=[blank, 0],
                seed=seed,
                steps=3,
                cfg=2.0,
                sampler_name="euler",
                scheduler="normal",
                denoise=1.0,
            ),
            0,
        ]
        self.sigmas = [self.add("BasicScheduler", model=self.model, scheduler="normal", steps=steps, denoise=1.0), 0]
        self.invert = self.add(
            "PalimpsestDDIMInvert",
            model=self.model,
            latent=self.picture,
            sigmas=self.sigmas,
            cfg=1.0,
            refinement=1,
            positive=self.source,
        )
        self.p2p = self.add(
            "PalimpsestPromptToPrompt",
            model=self.model,
            clip=self.clip,
            source=source,
            edits=edits,
            cross_steps=cross,
            self_steps=self_steps,
            blend_words=blend,
        )
        self.batch = [self.add("RepeatLatentBatch", samples=self.picture, amount=rows), 0]

    def anchor(self, model) -> list:
        return [self.add("PalimpsestTrajectoryAnchor", model=model, trajectory=[self.invert, 0], rows="0"), 0]

    def sampled(self, model=None, *, cfg=5.0) -> list:
        guider = self.add(
            "CFGGuider", model=model or [self.p2p, 0], positive=[self.p2p, 1], negative=self.empty, cfg=cfg
        )
        chosen = self.add("KSamplerSelect", sampler_name="euler")
        node = self.add(
            "SamplerCustomAdvanced",
            noise=[self.invert, 2],
            guider=[guider, 0],
            sampler=[chosen, 0],
            sigmas=self.sigmas,
            latent_image=self.batch,
        )
        return [node, 0]

    def save(self, samples) -> str:
        return self.add("SaveLatent", samples=samples, filename_prefix="words")


def test_the_source_is_exact_and_the_edit_is_not(host_client):
    graph = EditGraph()
    picture, edited = graph.save(graph.picture), graph.save(graph.sampled(graph.anchor([graph.p2p, 0])))
    result = run(host_client, graph)
    want, found = (latent(host_client, result, node) for node in (picture, edited))
    assert torch.equal(found[:1], want)
    assert (found[1] - want[0]).abs().max() > 0.05


def test_twice_in_a_row_is_the_same(host_client):
    results = []
    for _ in range(2):
        graph = EditGraph(blend="heart")
        node = graph.save(graph.sampled(graph.anchor([graph.p2p, 0])))
        results.append(latent(host_client, run(host_client, graph), node))
        host_client.free()
    assert torch.equal(*results)


def test_without_strength_it_is_the_plain_host(host_client):
    graph = EditGraph(cross=0.0, self_steps=0.0)
    ours, plain = graph.save(graph.sampled()), graph.save(graph.sampled(graph.model))
    result = run(host_client, graph)
    assert torch.equal(latent(host_client, result, ours), latent(host_client, result, plain))


def test_masks_of_a_trajectory_and_of_the_run(host_client):
    graph = EditGraph(blend="heart")
    samples = graph.sampled()
    previews = []
    for model, words, inputs in (
        (graph.model, "heart", {"trajectory": [graph.invert, 0], "text": SOURCE}),
        ([graph.p2p, 0], "heart", {"samples": samples, "text": ""}),
    ):
        node = graph.add("PalimpsestWordAttentionMask", model=model, clip=graph.clip, words=words, **inputs)
        previews.append(graph.add("PreviewImage", images=[node, 1]))
    result = run(host_client, graph)
    assert [len(result.files(node)) for node in previews] == [1, 2]


def test_report_of_an_edit(host_client):
    graph = EditGraph()
    pictures = graph.add("VAEDecode", samples=graph.sampled(graph.anchor([graph.p2p, 0])), vae=graph.vae)
    first, second = (graph.add("ImageFromBatch", image=[pictures, 0], batch_index=i, length=1) for i in range(2))
    report = graph.add("PalimpsestEditReport", source=[first, 0], edit=[second, 0])
    words = graph.add("PreviewAny", source=[report, 4])
    result = run(host_client, graph)
    assert "whole picture" in result.texts(words)[0] and result.files(report)


def test_interrupted_it_leaves_no_trace(host_client):
    graph = EditGraph(seed=3)
    node = graph.save(graph.sampled())
    before = latent(host_client, run(host_client, graph), node)
    long = EditGraph(seed=3, steps=120)
    sampler = long.sampled()
    long.save(sampler)
    with host_client.listen() as socket:
        prompt = host_client.post(long.nodes)
        end = time.monotonic() + 300
        while time.monotonic() < end:
            message = socket.receive(timeout=5.0)
            if message and '"progress"' in message and prompt in message and f'"{sampler[0]}"' in message:
                break
        host_client.interrupt()
    assert host_client.wait(prompt, timeout=120).status == "interrupted"
    host_client.free()
    graph = EditGraph(seed=3)
    node = graph.save(graph.sampled())
    assert torch.equal(latent(host_client, run(host_client, graph), node), before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"edits": ""}, "no edited text"),
        ({"edits": SOURCE}, "says the same"),
        ({"source": ""}, "source text is empty"),
        ({"blend": "moon"}, "'moon'"),
        ({"edits": f"{EDIT}\n{EDIT} at night"}, "batch of 3"),
    ],
)
def test_bad_input_is_named(host_client, options, words):
    graph = EditGraph(**options)
    graph.save(graph.sampled())
    assert words in refusal(host_client, graph)


def test_the_reading_of_the_texts_stands_on_the_node(host_client):
    graph = EditGraph(edits=f"{EDIT}\na red striped star with a border on a cream checked ground")
    graph.add("PreviewAny", source=[graph.p2p, 2])
    (reading,) = run(host_client, graph).texts(graph.p2p)
    assert "'red' becomes 'blue'" in reading and "'heart' becomes 'star', 'with a border' is new" in reading


def from_a_seed(fixed: bool):
    """Rows of one latent by the stock KSampler, without any edit, beside each text alone with the same seed."""
    graph = EditGraph(cross=0.0, self_steps=0.0)
    batch = graph.batch
    if fixed:
        batch = [graph.add("LatentBatchSeedBehavior", samples=batch, seed_behavior="fixed"), 0]
    edit = [graph.add("CLIPTextEncode", clip=graph.clip, text=EDIT), 0]
    settings = {"seed": 7, "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    runs = [
        ([graph.p2p, 0], [graph.p2p, 1], batch),
        (graph.model, graph.source, graph.picture),
        (graph.model, edit, graph.picture),
    ]
    saved = []
    for model, positive, samples in runs:
        node = graph.add(
            "KSampler", model=model, positive=positive, negative=graph.empty, latent_image=samples, **settings
        )
        saved.append(graph.save([node, 0]))
    return graph, saved


@pytest.mark.parametrize("fixed", [True, False])
def test_what_the_messages_recommend_gives_all_rows_one_noise(host_client, fixed):
    graph, saved = from_a_seed(fixed)
    result = run(host_client, graph)
    both, source, edit = (latent(host_client, result, node) for node in saved)
    assert torch.allclose(both[:1], source, atol=1e-3)
    assert torch.allclose(both[1:], edit, atol=1e-3) == fixed


def test_another_prompt_is_named(host_client):
    graph = EditGraph()
    samples = graph.sampled()
    guider = graph.nodes[graph.nodes[samples[0]]["inputs"]["guider"][0]]
    guider["inputs"]["positive"] = graph.source
    graph.save(samples)
    assert "not the one of Prompt-to-Prompt" in refusal(host_client, graph)
