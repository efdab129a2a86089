"""The blueprints that edit a photo where words or a brush say: Edit by Words, Change Only That, Remove."""

from __future__ import annotations

from collections.abc import Mapping

from .blueprint_graph import Graph, Node, Ref
from .blueprint_parts import (
    CLOSER,
    NEW,
    PHOTO,
    Wish,
    both_typed,
    by_itself,
    cropped,
    either,
    finished,
    joined,
    or_none,
    place_or_all,
    said_of_size,
    sampled,
    scaled,
    text,
    to_be_done,
)

CAPTION_EDIT = {
    "caption": ("what the picture shows", ""),
    "edits": ("what it is to show (a line each)", ""),
    "strength": ("strength (0: the photo, 1: the edit)", 1.0),
    "megapixels": ("megapixels", 0.25),
    "seed": ("seed", 0),
    "steps": ("steps", 20),
    "cfg": ("cfg", 7.5),
    **CLOSER,
}
CHANGE_ONLY_THAT = {
    "what_it_shows": ("what is there", ""),
    "what_it_becomes": ("what it becomes", ""),
    "depth": ("depth (0: the photo)", 0.65),
    "megapixels": ("megapixels", 0.25),
    "seed": ("seed", 0),
    "steps": ("steps", 13),
    "cfg": ("cfg", 7.5),
    "threshold": ("threshold", "adaptive"),
    "complement": ("edit what was not found", False),
    "grow": ("grow", 6),
    **CLOSER,
}
REMOVE = {
    "what_goes": ("what goes", ""),
    "depth": ("depth (0: the photo)", 0.6),
    "megapixels": ("megapixels", 0.25),
    "seed": ("seed", 0),
    "steps": ("steps", 20),
    "cfg": ("cfg", 3.0),
    **CLOSER,
}


def caption_edit(info: Mapping[str, dict]) -> Wish:
    g = Graph(info, {**PHOTO, "mask": "MASK"}, CAPTION_EDIT)
    strength = g.add("PrimitiveFloat", "Strength", value=g.strength)[0]
    to_do = to_be_done(g, or_none(g, "picture"), strength, both_typed(g, g.caption, g.edits))
    sigmas = g.add("BasicScheduler", model=g.model, scheduler="normal", steps=g.steps, denoise=1.0)[0]
    painted = g.add("PalimpsestPaintedMask", "Painted, or all", painted=g.mask, picture=g.picture)
    unpainted = g.add("ComfyNotNode", "Unpainted?", value=painted["painted"])[0]
    crop = cropped(g, painted["mask"], "What is painted, or all, to the model's size")
    edit, samples = reworded(g, crop, strength, sigmas, unpainted)
    seen = g.add("PalimpsestWordAttentionMask", "Where the words were", model=edit["model"], clip=g.clip, text="",
                 words="", samples=samples)["mask"]  # fmt: skip
    alike = g.add("ImageFromBatch", image=g.add("MaskToImage", mask=seen)[0], batch_index=1, length=4096)[0]
    alike = g.add("ImageToMask", image=alike, channel="red")[0]
    mask = g.add("PalimpsestPaintedMask", "Painted, or where the words were", painted=g.mask, found=alike)
    near = by_itself(g, mask)
    again = g.add("ComfyMathExpression", "A second pass?", expression="a * b", values__a=near,
                  values__b=unpainted)["BOOL"]  # fmt: skip
    second = cropped(g, seen, "Where the words were, to the model's size")
    _, closer = reworded(g, second, strength, sigmas, g.add("PrimitiveBoolean", value=False)[0])
    samples = either(g, again, samples, closer, "The last pass")
    place = either(g, again, crop["place"], second["place"], "Its place")
    edits = g.add("ImageFromBatch", "Without the source",
                  image=g.add("VAEDecode", samples=samples, vae=g.vae)[0], batch_index=1, length=4096)[0]  # fmt: skip
    hint = text(g, "Too much or too little changes? Lower or raise the strength, or paint a mask on the photo.")
    notes = joined(g, mask["note"], said_of_size(g, near), edit["report"], hint)
    idle = text(g, "Nothing was changed: connect a picture, say what it shows and what it is to show, with a word "
                   "changed, and a strength above 0.", "Nothing to do")  # fmt: skip
    notes = either(g, to_do, idle, notes, "What was done")
    shown = finished(g, edits, mask["mask"], place, notes, to_do, "pictures")
    return Wish(
        "Edit by Words", g, shown.number,
        "Change the caption, and the picture follows: a line for each edit. Inverts the photo and edits it by "
        "Prompt-to-Prompt; what the words do not name stays, to the pixel.",
        ("edit image", "prompt to prompt", "swap a word", "instruct"),
    )  # fmt: skip


def reworded(g: Graph, crop: Node, strength: Ref, sigmas: Ref, auto_blend: Ref) -> tuple[Node, Ref]:
    """A crop inverted and sampled with its new captions: the Prompt-to-Prompt node, and the latents, the source's
    first."""
    latent = g.add("VAEEncode", pixels=crop["crop"], vae=g.vae)[0]
    caption = g.add("CLIPTextEncode", "What the picture shows", clip=g.clip, text=g.caption)[0]
    empty = g.add("CLIPTextEncode", "Negative prompt", clip=g.clip, text="")[0]
    inverted = g.add("PalimpsestDDIMInvert", model=g.model, latent=latent, sigmas=sigmas, positive=caption)
    edit = g.add("PalimpsestPromptToPrompt", model=g.model, clip=g.clip, source=g.caption, edits=g.edits,
                 auto_blend=auto_blend)  # fmt: skip
    model = anchored(g, edit["model"], inverted["trajectory"], crop["crop_mask"], strength)
    batch = g.add("RepeatLatentBatch", "A picture a text", samples=latent, amount=edit["rows"])[0]
    guider = g.add("CFGGuider", model=model, positive=edit["positive"], negative=empty, cfg=g.cfg)[0]
    noise = g.add("RandomNoise", noise_seed=g.seed)[0]
    sampler = g.add("KSamplerSelect", sampler_name="euler")[0]
    made = g.add("SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas,
                 latent_image=batch)[0]  # fmt: skip
    return edit, made


def anchored(g: Graph, model: Ref, trajectory: Ref, mask: Ref, strength: Ref) -> Ref:
    """The source's row stays exact, so does everything outside the mask, and what is left of it by 1 - strength."""
    anchor = "PalimpsestTrajectoryAnchor"
    model = g.add(anchor, "The source stays exact", model=model, trajectory=trajectory, rows="0",
                  start_from_source=True)[0]  # fmt: skip
    model = g.add(anchor, "So does all outside the mask", model=model, trajectory=trajectory, mask=mask)[0]
    kept = g.add("ComfyMathExpression", "What the strength leaves", expression="1 - min(max(a, 0), 1)",
                 values__a=strength)["FLOAT"]  # fmt: skip
    return g.add(anchor, "Strength", model=model, trajectory=trajectory, strength=kept)[0]


def change_only_that(info: Mapping[str, dict]) -> Wish:
    g = Graph(info, {**PHOTO, "mask": "MASK"}, CHANGE_ONLY_THAT)
    depth = g.add("PrimitiveFloat", "Depth", value=g.depth)[0]
    typed = both_typed(g, g.what_it_shows, g.what_it_becomes, pattern=NEW)
    to_do = to_be_done(g, or_none(g, "picture"), depth, typed)
    # The same node as for the crop, so that the change fits where the crop is the whole photo.
    everything = g.add("PalimpsestPaintedMask", "The whole photo", picture=g.picture)["mask"]
    photo = cropped(g, everything, "The whole photo, to the model's size")
    whole = g.add("VAEEncode", pixels=photo["crop"], vae=g.vae)[0]
    old = g.add("CLIPTextEncode", "What is there", clip=g.clip, text=g.what_it_shows)[0]
    new = g.add("CLIPTextEncode", "What it becomes", clip=g.clip, text=g.what_it_becomes)[0]
    empty = g.add("CLIPTextEncode", "Negative prompt", clip=g.clip, text="")[0]
    look = lambda latent: g.add("PalimpsestDiffEditMask", model=g.model, reference=old, query=new, latent=latent,
                                seed=g.seed, threshold=g.threshold, complement=g.complement, grow=g.grow,
                                room=0.2)  # fmt: skip
    found = look(whole)
    hard = g.add("PalimpsestPaintedMask", "Painted, or found", painted=g.mask, found=found["mask"])
    soft = g.add("PalimpsestPaintedMask", "The same with a soft edge", painted=g.mask, found=found["soft_mask"])["mask"]
    alone = by_itself(g, hard)
    crop, mask = place_or_all(g, alone, hard["mask"])
    latent = g.add("VAEEncode", pixels=crop["crop"], vae=g.vae)[0]
    closer = look(latent)
    sigmas = g.add("BasicScheduler", model=g.model, scheduler="normal", steps=g.steps, denoise=depth)[0]
    inverted = g.add("PalimpsestDDIMInvert", model=g.model, latent=latent, sigmas=sigmas, positive=empty)
    model = g.add("PalimpsestTrajectoryAnchor", "The rest stays exact", model=g.model,
                  trajectory=inverted["trajectory"], mask=mask)[0]  # fmt: skip
    change = either(g, alone, found["change"], closer["change"], "The change there")
    model = g.add("PalimpsestDiffEditHeadStart", model=model, change=change)[0]
    made = sampled(g, model, new, empty, inverted["noise"], sigmas, latent)
    hint = text(
        g, "The wrong place? Paint a mask on the photo. Too little changes? Raise the depth; too much? Lower it."
    )
    idle = text(g, "Nothing was changed: connect a picture, say what is there and what it becomes, with a depth above "
                   "0.", "Nothing to do")  # fmt: skip
    note = either(g, alone, found["note"], closer["note"])
    notes = either(g, to_do, idle, joined(g, hard["note"], said_of_size(g, alone), note, hint), "What was done")
    shown = finished(g, made, soft, crop["place"], notes, to_do)
    return Wish(
        "Change Only That", g, shown.number,
        "Say what is there and what it becomes: the place is found by itself, and only that changes. DiffEdit, with an "
        "exact background.",
        ("edit image", "diffedit", "replace object", "automatic mask"), "ec7c0e1e-3714-5139-9cbf-4dbb4fd33b6e",
    )  # fmt: skip


def remove(info: Mapping[str, dict]) -> Wish:
    g = Graph(info, {**PHOTO, "mask": "MASK"}, REMOVE)
    depth = g.add("PrimitiveFloat", "Depth", value=g.depth)[0]
    there = or_none(g, "picture")
    whole = g.add("VAEEncode", pixels=scaled(g)[0], vae=g.vae)[0]
    thing = g.add("CLIPTextEncode", "What goes", clip=g.clip, text=g.what_goes)[0]
    anything = g.add("CLIPTextEncode", "Anything else", clip=g.clip, text="")[0]
    seen = g.add("PalimpsestDiffEditMask", "Where it is", model=g.model, reference=thing, query=anything, latent=whole,
                 seed=g.seed, parts=1, grow=8)["mask"]  # fmt: skip
    nothing = g.add("SolidMask", "Nothing", value=0.0, width=64, height=64)[0]
    typed = g.add("RegexMatch", "Is anything typed?", string=g.what_goes, regex_pattern=r"\S")[0]
    place = either(g, typed, nothing, seen, "Seen, or nothing")
    mask = g.add("PalimpsestPaintedMask", "Painted, or found", painted=g.mask, found=place, words=g.what_goes)
    said = g.add("ComfyMathExpression", "Typed or painted?", expression="a + b", values__a=typed,
                 values__b=mask["painted"])["BOOL"]  # fmt: skip
    to_do = to_be_done(g, there, depth, said)
    grown = g.add("GrowMask", "With its edge", mask=mask["mask"], expand=8, tapered_corners=True)[0]
    alone = by_itself(g, mask)
    crop, there = place_or_all(g, alone, grown)
    emptied = filled(g, crop["crop"], there)
    latent = g.add("SetLatentNoiseMask", samples=g.add("VAEEncode", pixels=emptied, vae=g.vae)[0], mask=there)[0]
    sigmas = g.add("BasicScheduler", model=g.model, scheduler="normal", steps=g.steps, denoise=depth)[0]
    noise = g.add("RandomNoise", noise_seed=g.seed)[0]
    made = sampled(g, g.model, anything, thing, noise, sigmas, latent)
    hint = text(g, "The wrong place? Paint a mask on the photo. Something else stands there now? Lower the depth.")
    idle = text(g, "Nothing was removed: connect a picture, say what goes or paint a mask on it, with a depth above 0.",
                "Nothing to do")  # fmt: skip
    notes = either(g, to_do, idle, joined(g, mask["note"], said_of_size(g, alone), hint), "What was done")
    shown = finished(g, made, grown, crop["place"], notes, to_do)
    return Wish(
        "Remove", g, shown.number,
        "Say what goes, or paint over it: its place is filled from around it. All else stays to the pixel.",
        ("remove object", "erase", "object removal", "inpaint"),
    )  # fmt: skip


def filled(g: Graph, picture: Ref, mask: Ref) -> Ref:
    """The picture with the place of the mask filled softly from around it: the thing has moved out of the picture."""
    away = g.add("PalimpsestFlowFromTransform", "Out of the picture", mask=mask, move_x=4096.0)[0]
    return g.add("PalimpsestFlowWarp", "Its place, filled softly", flow=away, image=picture, grow=0)["image"]
