"""The nodes of editing by words, on tiny models: batches, masks, reports, and sentences for bad input."""

import pytest
import torch
from palimpsest.guidance.edit_measures import structure_distance
from palimpsest.guidance.prompt_to_prompt.local_blend import heat, outline
from palimpsest.host.edit_scores import projected
from palimpsest.host.prompt_to_prompt.patch import recording
from palimpsest.nodes.prompt_to_prompt import PromptToPrompt
from palimpsest.nodes.prompt_to_prompt_results import EditReport, WordAttentionMask
from safetensors.torch import save_file

from ..tiny_models import tiny_latent
from .test_host import SIZE, parts, run, start, trajectory_for  # noqa: F401
from .tiny_clip import tiny_clip


def edited(parts, source, edits, **options):
    model, clip = parts
    with torch.inference_mode():
        return PromptToPrompt.execute(model, clip, source, edits, **options).args[:4]


def test_a_row_a_text(parts):
    _, positive, report, _ = edited(parts, "a red heart", "a blue heart\n\n  a (red:2) heart \n")
    assert positive[0][0].shape == (3, 77, 32) and positive[0][1]["pooled_output"].shape[0] == 3
    assert report.splitlines()[1:] == ["row 1, replace: 'red' becomes 'blue'", "row 2, re-weight: 'red' counts 2 times"]


def test_the_node_says_how_many_rows_to_sample_and_names_blend_words_where_asked(parts):
    model, clip = parts
    texts = "a red heart on grey", "a blue heart on grey\na red heart on black"
    with torch.inference_mode():
        made = PromptToPrompt.execute(model, clip, *texts, auto_blend=True).args
        plain = PromptToPrompt.execute(model, clip, *texts).args
        named = PromptToPrompt.execute(model, clip, *texts, auto_blend=True, blend_words="heart, grey, black").args
    assert made[4] == plain[4] == 3
    assert made[2].splitlines()[-2:] == ["row 1, may change: heart", "row 2, may change: grey, black"]
    assert "may change" not in plain[2] + named[2]


def test_emphasis_of_an_edit_is_not_in_its_embedding(parts):
    rows = edited(parts, "a red heart", "a (red:2) heart")[1][0][0]
    assert torch.allclose(rows[0], rows[1], atol=1e-6)
    # The source's own emphasis stays in both, as the inversion saw it.
    rows = edited(parts, "a (red:1.5) heart", "a (red:1.5) star")[1][0][0]
    plain = edited(parts, "a red heart", "a red star")[1][0][0]
    assert (rows - plain)[:, 2].abs().amax(-1).min() > 1e-3 and torch.allclose(rows[:, 1], plain[:, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("cross", "edit", "warned"),
    [(0.0, "a (red:3) heart", True), (0.1, "a (red:3) heart", False), (0.0, "a blue heart", False)],
)
def test_weights_that_no_step_listens_to_are_reported(parts, cross, edit, warned):
    assert ("at 0 they do nothing" in edited(parts, "a red heart", edit, cross_steps=cross)[2]) == warned


def test_weight_of_a_word_changes_the_picture(parts):
    model, positive, _, _ = edited(parts, "a red heart", "a (red:3) heart", cross_steps=1.0)
    out = run(model, positive, 2)
    assert (out[1] - out[0]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("source", "edits", "options", "words"),
    [
        ("", "a heart", {}, "source text is empty"),
        ("a heart", " \n ", {}, "no edited text"),
        ("a heart", "a  HEART", {}, "says the same"),
        ("a heart", "a star", {"blend_words": "moon"}, "'moon', which is in none"),
        ("a heart", "a star", {"keep_words": "moon"}, "words to keep have 'moon'"),
        ("a heart on grey", "a star on grey\na heart on blue", {"blend_words": "star"}, "edited text 2"),
    ],
)
def test_bad_texts_are_sentences(parts, source, edits, options, words):
    with pytest.raises(ValueError, match=words):
        edited(parts, source, edits, **options)


def masked(parts, model=None, text="a red heart", words="heart", **inputs):
    base, clip = parts
    with torch.inference_mode():
        return WordAttentionMask.execute(model or base, clip, text, words, levels=2, **inputs).args


def test_mask_of_a_trajectory_and_of_samples(parts):
    trajectory = trajectory_for(parts[0])
    for inputs in ({"trajectory": trajectory}, {"samples": {"samples": tiny_latent("sd1", 2, SIZE)}}):
        mask, picture = masked(parts, **inputs)
        rows = 2 if "samples" in inputs else 1
        assert mask.shape == (rows, SIZE[0] * 8, SIZE[1] * 8) and picture.shape == (*mask.shape, 3)
        assert set(mask.unique().tolist()) <= {0.0, 1.0} and mask.any()
    wide, narrow = (masked(parts, trajectory=trajectory, threshold=t)[0].mean() for t in (0.0, 0.99))
    assert narrow < wide


def test_rows_of_a_mask_do_not_depend_on_their_batch(parts):
    pair = tiny_latent("sd1", 2, SIZE)
    trajectory = trajectory_for(parts[0])
    both = masked(
        parts,
        trajectory=type(trajectory)(
            trajectory.sigmas,
            torch.cat([trajectory.latents, trajectory.latents.flip(-1)], 1),
            "",
            1.0,
            "",
            "eps",
            "SD15",
        ),
    )[1]
    assert torch.allclose(both[:1], masked(parts, trajectory=trajectory)[1], atol=1e-4) and pair.shape[0] == 2


def test_mask_of_a_run_is_what_the_run_saw(parts):
    model, positive, _, _ = edited(parts, "a red heart", "a red star", blend_words="heart, star", blend_threshold=0.5)
    with pytest.raises(ValueError, match="none of the texts"):
        masked(parts, model, text="", words="heart", samples={"samples": torch.zeros(2, 4, *SIZE)})
    samples = {"samples": run(model, positive, 2)}
    mask, _ = masked(parts, model, text="", words="heart, star", samples=samples, threshold=0.5)
    record, picture = recording(model).last, (SIZE[0] * 8, SIZE[1] * 8)
    # "a red heart", "a red star": the start, and three words.
    wanted = [outline(heat(maps, [3]), picture, 0.5) for maps in record.maps]
    assert torch.equal(mask, torch.stack(wanted)) and mask.shape == (2, *picture)
    with pytest.raises(ValueError, match="'moon'"):
        masked(parts, model, text="", words="moon", samples=samples)


@pytest.mark.parametrize("options", [{"blend_words": "heart, star", "blend_threshold": 0.8}, {"keep_words": "red"}])
def test_without_words_the_mask_is_the_one_that_the_blend_used(parts, options):
    model, positive, _, _ = edited(parts, "a red heart", "a red star", **options)
    samples = {"samples": run(model, positive, 2)}
    mask, picture = masked(parts, model, text="", words="", samples=samples)
    used = recording(model).last.mask
    assert used is not None and 0 < used[1].mean() < 1 and picture.shape == (*mask.shape, 3)
    cells = mask.unfold(1, 8, 8).unfold(2, 8, 8).flatten(-2)
    assert torch.equal(cells.amin(-1), used) and torch.equal(cells.amax(-1), used)


def test_runs_of_one_model_are_identified_by_what_they_made(parts):
    model, positive, _, _ = edited(parts, "a red heart", "a red star", blend_words="heart, star", blend_threshold=0.8)
    made = [run(model, positive, 2, noise=start(2, seed=seed)) for seed in (3, 77)]
    seen = [masked(parts, model, text="", words="", samples={"samples": one})[0] for one in made]
    assert not torch.equal(*seen)
    alone, positive, _, _ = edited(parts, "a red heart", "a red star", blend_words="heart, star", blend_threshold=0.8)
    assert torch.equal(
        seen[0],
        masked(parts, alone, text="", words="", samples={"samples": run(alone, positive, 2, noise=start(2, seed=3))})[
            0
        ],
    )
    for other in (torch.zeros(5, 4, *SIZE), made[0] * 1.1):
        with pytest.raises(ValueError, match="not of one of the last"):
            masked(parts, model, text="", words="heart", samples={"samples": other})


def test_a_run_without_a_blend_has_no_mask_to_show(parts):
    model, positive, _, _ = edited(parts, "a red heart", "a red star")
    with pytest.raises(ValueError, match="no blend"):
        masked(parts, model, text="", words="", samples={"samples": run(model, positive, 2)})


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"words": "", "samples": {"samples": torch.ones(1, 4, 8, 8)}}, "no words"),
        ({}, "no picture"),
        ({"words": "moon", "samples": {"samples": torch.ones(1, 4, 8, 8)}}, "moon"),
    ],
)
def test_masks_without_words_or_pictures_are_sentences(parts, inputs, words):
    with pytest.raises(ValueError, match=words):
        masked(parts, **inputs)


def test_a_trajectory_of_another_kind_of_model_is_a_sentence(parts):
    path = trajectory_for(parts[0])
    other = type(path)(path.sigmas, path.latents, "", 1.0, "", "flow", "SD3")
    with pytest.raises(ValueError, match="connect the model of the inversion"):
        masked(parts, trajectory=other)


def pictures(rows=1):
    generator = torch.Generator().manual_seed(4)
    return torch.rand(rows, 32, 48, 3, generator=generator)


def test_report_of_a_known_change():
    source, mask = pictures(), torch.zeros(1, 32, 48)
    mask[:, :, :24] = 1.0
    edit = source.clone()
    edit[:, :, :24] = (source[:, :, :24] + 0.5) % 1.0
    panel, psnr, ssim, changed, report = EditReport.execute(source, edit, mask).args
    assert psnr == 100.0 and changed == 0.5 and panel.shape[0] == 1
    assert ssim > 0.8 and "outside the mask (50 %" in report and "inside the mask (50 %" in report
    whole = EditReport.execute(source, edit).args
    assert whole[1] == pytest.approx(-10 * torch.log10((edit - source).square().mean()).item(), abs=1e-3)


def test_report_of_nothing_and_of_masks_at_their_limits():
    source = pictures(2)
    for mask in (None, torch.zeros(1, 32, 48), torch.ones(1, 16, 24), torch.full((2, 32, 48), 0.5)):
        panel, psnr, ssim, changed, _ = EditReport.execute(source[:1], source[:1].expand(2, -1, -1, -1), mask).args
        assert (psnr, changed) == (100.0, 0.0) and ssim == pytest.approx(1.0) and panel.shape[0] == 2


def test_pictures_without_an_outside_or_an_inside_are_left_out():
    source, mask = pictures(2), torch.ones(2, 32, 48)
    edit = (source + 0.3) % 1.0
    edit[0, :, 24:] = source[0, :, 24:]
    mask[0, :, 24:] = 0.0
    panel, psnr, ssim, _, report = EditReport.execute(source, edit, mask).args
    assert panel.shape[0] == 2 and "outside the mask: nothing" in report
    one = EditReport.execute(source[:1], edit[:1], mask[:1]).args
    assert (psnr, ssim) == one[1:3] == (100.0, one[2]) and torch.equal(panel[:1, : one[0].shape[1]], one[0])
    assert EditReport.execute(source, edit, torch.ones(2, 32, 48)).args[1:3] == (100.0, 1.0)
    mask[0] = 0.0
    none = EditReport.execute(source, edit, mask).args
    assert none[1] == pytest.approx(EditReport.execute(source[:1], edit[:1]).args[1])
    assert "inside the mask: nothing" in none[4]


def test_a_mask_of_a_word_that_only_the_edit_has_makes_a_report(parts):
    model, positive, _, _ = edited(parts, "a red heart", "a red star", blend_words="heart, star")
    samples = {"samples": run(model, positive, 2)}
    mask = masked(parts, model, text="", words="star", samples=samples, threshold=0.9)[0]
    assert not mask[0].any() and mask[1].any()
    picture = torch.rand(2, SIZE[0] * 8, SIZE[1] * 8, 3)
    assert EditReport.execute(picture[:1], picture, mask).args[0].shape[0] == 2


def test_a_source_that_the_vae_cropped_is_measured_in_its_middle():
    source, mask = torch.rand(1, 35, 53, 3), torch.rand(1, 35, 53).round()
    middle = (slice(None), slice(1, 33), slice(2, 50))
    edit = (source[middle] + 0.2) % 1.0
    whole = EditReport.execute(source, edit, mask).args
    cut = EditReport.execute(source[middle], edit, mask[middle]).args
    assert whole[1:] == cut[1:] and torch.equal(whole[0], cut[0])


def test_rows_of_a_report_are_their_own():
    source, edit = pictures(3), pictures(3).flip(0)
    together = EditReport.execute(source, edit).args[4].split("\n\n")
    alone = [EditReport.execute(source[i : i + 1], edit[i : i + 1]).args[4] for i in range(3)]
    assert together == alone


@pytest.mark.parametrize(
    ("source", "edit", "mask", "words"),
    [
        (pictures(), torch.rand(1, 16, 48, 3), None, "48 x 16"),
        (pictures(2), pictures(3), None, "2 pictures"),
        (pictures(2), pictures(2), torch.ones(3, 32, 48), "mask is a batch of 3"),
    ],
)
def test_reports_that_do_not_fit_are_sentences(source, edit, mask, words):
    with pytest.raises(ValueError, match=words):
        EditReport.execute(source, edit, mask)


def test_structure_distance_knows_no_colour_but_relations():
    features = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(2))
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(3)))[0]
    assert torch.allclose(structure_distance(features, 3 * features @ turn), torch.zeros(2), atol=1e-6)
    assert (structure_distance(features, features.flip(1)) > 0.01).all()


class Vision:
    """The part of a vision model that the report asks for, on any picture. extra: tokens before the patches."""

    config = {"patch_size": 8}

    def __init__(self, extra=1, model_type="clip_vision_model"):
        self.extra, self.model_type = extra, model_type

    def encode_image(self, image, crop=True):
        assert crop is False
        patches = image.unfold(1, 8, 8).unfold(2, 8, 8).flatten(1, 2).flatten(2)
        extra = patches.mean(1, keepdim=True).repeat(1, self.extra, 1) * 3
        hidden = torch.cat([extra, patches], 1)
        return {
            "penultimate_hidden_states": hidden,
            "last_hidden_state": hidden,
            "image_embeds": hidden[:, 0, :32],
            "image_sizes": [(3, *image.shape[1:3])] * len(image),
        }


@pytest.mark.parametrize("vision", [Vision(1), Vision(5), Vision(0), Vision(0, "siglip2_vision_model")])
def test_structure_is_that_of_the_patches_whatever_tokens_a_model_has_beside_them(vision):
    source, edit = pictures(1), pictures(1).flip(2)
    patches = [image.unfold(1, 8, 8).unfold(2, 8, 8).flatten(1, 2).flatten(2) for image in (source, edit)]
    report = EditReport.execute(source, edit, clip_vision=vision).args[4]
    assert f"structure distance: {structure_distance(*patches).item():.4f}" in report


@pytest.mark.parametrize("fault", ["from a checkpoint", "not in its file", "empty", "not a number"])
def test_a_clip_without_its_projection_is_a_sentence(tmp_path, fault):
    """The host leaves in its place whatever was in memory."""
    with torch.inference_mode():
        clip = tiny_clip()
        weight = clip.cond_stage_model.clip_l.transformer.text_projection.weight
        good = projected(clip, "a heart")
        assert torch.isfinite(good).all() and good.shape == (1, 32)
        file = str(tmp_path / "clip.safetensors")
        save_file({"text_projection.weight" if fault == "empty" else "other": torch.ones(1)}, file)
        weight.fill_(torch.nan) if fault == "not a number" else weight.zero_() if fault == "empty" else None
        source = "model.safetensors" if fault == "from a checkpoint" else [file]
        clip.patcher.cached_patcher_init = (None, (source, None))
        with pytest.raises(ValueError, match="Load CLIP"):
            projected(clip, "a heart")


def test_a_clip_with_its_projection_is_taken(tmp_path):
    with torch.inference_mode():
        clip, file = tiny_clip(), str(tmp_path / "clip.safetensors")
        good = projected(clip, "a heart")
        save_file({"text_projection.weight": torch.ones(1)}, file)
        clip.patcher.cached_patcher_init = (None, ([file], None))
        assert torch.equal(projected(clip, "a heart"), good)


def test_scores_where_models_are_connected(parts):
    _, clip = parts
    source, edit = pictures(2), pictures(2).flip(0)
    with torch.inference_mode():
        report = EditReport.execute(source, edit, clip_vision=Vision(), clip=clip, text="a heart\na star").args[4]
        assert report.count("structure distance") == report.count("CLIP score") == 2
        assert "structure distance: 0.0000" in EditReport.execute(source, source, clip_vision=Vision()).args[4]
        with pytest.raises(ValueError, match="3 texts for 2"):
            EditReport.execute(source, edit, clip_vision=Vision(), clip=clip, text="a\nb\nc")
        with pytest.raises(ValueError, match="connect a CLIP vision model"):
            EditReport.execute(source, edit, clip=clip)


def test_a_report_counts_touched_pixels_and_shows_its_notes_and_its_mask_over_the_source():
    source, mask = torch.full((1, 16, 16, 3), 0.5), torch.zeros(1, 16, 16)
    mask[:, 4:8, 4:8] = 1
    edit = source.clone()
    edit[:, 4:8, 4:8] = 1.0
    edit[:, 0, :3] += 1e-4
    with torch.inference_mode():
        panel, *_, report = EditReport.execute(source, edit, mask, notes="Mask found: the cat.\n\n").args
    lines = report.splitlines()
    assert lines[0] == "Mask found: the cat." and lines[-1] == "pixels changed outside the mask: 3"
    red, green = panel[..., 0], panel[..., 1]
    assert int(((red > 0.6) & (green < 0.4)).sum()) == 4 * 4 * (320 // 16) ** 2
