"""The blueprints that paint: Move It, Draw It with Train an Edge Predictor, Morph."""

from __future__ import annotations

from collections.abc import Mapping

from .blueprint_graph import Graph, Ref
from .blueprint_parts import (
    CLOSER,
    MODELS,
    PHOTO,
    Wish,
    by_itself,
    cropped,
    either,
    joined,
    or_none,
    pixel_true,
    reported,
    said_of_size,
    sampled,
    text,
)

MOVE_IT = {
    "caption": ("what the picture shows", ""),
    "denoise": ("denoise (0: the photo)", 0.6),
    "megapixels": ("megapixels", 0.25),
    "seed": ("seed", 0),
    "steps": ("steps", 20),
    "cfg": ("cfg", 3.0),
    **CLOSER,
}
DRAW_IT = {
    "caption": ("what is drawn", ""),
    "strength": ("strength (0: without the drawing)", 1.6),
    "width": ("width", 512),
    "height": ("height", 512),
    "seed": ("seed", 0),
    "steps": ("steps", 30),
    "cfg": ("cfg", 7.5),
}
TRAIN = {
    "prompts": ("what it paints to learn from (a line each; empty: a built-in list)", ""),
    "pictures": ("pictures", 100),
    "width": ("width", 512),
    "height": ("height", 512),
    "seed": ("seed", 0),
    "steps": ("steps a picture", 20),
    "cfg": ("cfg", 7.5),
    "learning": ("how long it learns", 1000),
    "file": ("name of the file", "my_edges"),
}
MORPH = {
    "captions": ("captions (a line a picture)", ""),
    "frames": ("frames", 16),
    "seed": ("seed", 0),
    "steps": ("steps", 16),
    "lora_steps": ("how long each picture is learned", 200),
}


def move_it(info: Mapping[str, dict]) -> Wish:
    g = Graph(info, {**PHOTO, "flow": "FLOW", "layers": "MASK"}, MOVE_IT)
    denoise = g.add("PrimitiveFloat", "Denoise", value=g.denoise)[0]
    there = or_none(g, "picture")
    everything = g.add("PalimpsestPaintedMask", "The whole photo", picture=g.picture)["mask"]
    whole = cropped(g, everything, "To the model's size")
    small = whole["crop"]
    still = g.add("PalimpsestFlowFromTransform", "No motion", mask=everything)[0]
    flow = g.add("PalimpsestFlowCompose", "The motion, if there is any", flows__flow0=still, flows__flow1=still,
                 flows__flow2=g.flow)["flow"]  # fmt: skip
    arrows = g.add("PalimpsestFlowPreview", flow=flow)
    masks = g.add("PalimpsestFlowWarp", "What may change", flow=flow, image=small, grow=10, layers=g.layers)
    warped = g.add("PalimpsestFlowWarp", "The photo's own pixels, moved", flow=flow, image=g.picture, grow=10,
                   layers=g.layers)  # fmt: skip
    caption = g.add("CLIPTextEncode", "What the picture shows", clip=g.clip, text=g.caption)[0]
    empty = g.add("CLIPTextEncode", "Negative prompt", clip=g.clip, text="")[0]
    latent = g.add("VAEEncode", pixels=small, vae=g.vae)[0]
    sampler = g.add("PalimpsestFlowGuidanceSampler", vae=g.vae, flow=flow, image=small, layers=g.layers)[0]
    sigmas = g.add("BasicScheduler", model=g.model, scheduler="normal", steps=g.steps, denoise=denoise)[0]
    noise = g.add("RandomNoise", noise_seed=g.seed)[0]
    made = sampled(g, g.model, caption, empty, noise, sigmas, latent, sampler)
    to_do = g.add("ComfyMathExpression", "Is there anything to do?", expression="a * b > 0", values__a=denoise,
                  values__b=there)["BOOL"]  # fmt: skip
    hint = text(g, "Nothing moves? Outline a thing on Flow Canvas and drag it. A double is left, or a seam? Raise the "
                   "denoise; it looks different? Lower it.")  # fmt: skip
    idle = text(g, "Nothing was moved: connect a picture, and set the denoise above 0.", "Nothing to do")
    mask = g.add("MaskComposite", "What is painted", destination=masks["edit_mask"], source=masks["moved"], x=0, y=0,
                 operation="subtract")[0]  # fmt: skip
    first = pixel_true(g, warped["image"], made, mask, whole["place"], "The moved pixels, and what is painted", 0)
    found = g.add("PalimpsestPaintedMask", "How much is painted", found=masks["edit_mask"])
    alone = by_itself(g, found)
    second = painted_closer(g, first["picture"], mask, (caption, empty, noise, denoise))
    picture = either(g, alone, first["picture"], second, "The last pass")
    where = g.add("MaskComposite", "All that may change", destination=warped["edit_mask"], source=first["mask"], x=0,
                  y=0, operation="add")[0]  # fmt: skip
    notes = either(g, to_do, idle, joined(g, arrows["note"], said_of_size(g, alone), hint), "What was done")
    shown = reported(g, picture, where, notes, to_do)
    return Wish(
        "Move It", g, shown.number,
        "What was dragged, turned or scaled on Flow Canvas is painted at its new place, and its old one is filled.",
        ("drag object", "move object", "motion guidance", "rotate object"),
    )  # fmt: skip


def painted_closer(g: Graph, picture: Ref, mask: Ref, parts: tuple[Ref, Ref, Ref, Ref]) -> Ref:
    """What the mask marks painted once more in a crop of the picture, from little noise: what is there gets detail.

    parts: caption, negative prompt, noise and denoise.
    """
    caption, empty, noise, denoise = parts
    crop = cropped(g, mask, "What is painted, to the model's size", picture)
    latent = g.add("SetLatentNoiseMask", samples=g.add("VAEEncode", pixels=crop["crop"], vae=g.vae)[0],
                   mask=crop["crop_mask"])[0]  # fmt: skip
    less = g.add("ComfyMathExpression", "Less noise", expression="min(a, 0.4)", values__a=denoise)["FLOAT"]
    sigmas = g.add("BasicScheduler", model=g.model, scheduler="normal", steps=g.steps, denoise=less)[0]
    made = sampled(g, g.model, caption, empty, noise, sigmas, latent)
    return pixel_true(g, picture, made, mask, crop["place"], "The same, painted closer", 0)["picture"]


def draw_it(info: Mapping[str, dict]) -> Wish:
    g = Graph(info, {"drawing": "IMAGE", "edge_predictor": "EDGE_PREDICTOR", **MODELS}, DRAW_IT)
    or_none(g, "drawing")
    sketch = g.add("PalimpsestSketchPrepare", image=g.drawing, width=g.width, height=g.height, blank=True)
    drawn = g.add("PalimpsestPaintedMask", "Is anything drawn?", painted=sketch["strokes"])["painted"]
    nothing = g.add("PrimitiveBoolean", "Nothing", value=False)[0]
    taught = g.add("ComfyOrNode", "Is a predictor connected?", values__value0=nothing,
                   values__value1=g.edge_predictor)[0]  # fmt: skip
    guided = g.add("PalimpsestEdgePredictorGuidance", model=g.model, edge_predictor=g.edge_predictor,
                   sketch=sketch["sketch"], strength=g.strength)["model"]  # fmt: skip
    both = g.add("ComfyAndNode", "Drawn, and a predictor?", values__value0=drawn, values__value1=taught)[0]
    model = either(g, both, g.model, guided, "Guided, or not")
    caption = g.add("CLIPTextEncode", "What is drawn", clip=g.clip, text=g.caption)[0]
    empty = g.add("CLIPTextEncode", "Negative prompt", clip=g.clip, text="")[0]
    latent = g.add("EmptyLatentImage", width=g.width, height=g.height, batch_size=1)[0]
    sigmas = g.add("BasicScheduler", model=g.model, scheduler="normal", steps=g.steps, denoise=1.0)[0]
    noise = g.add("RandomNoise", noise_seed=g.seed)[0]
    made = sampled(g, model, caption, empty, noise, sigmas, latent)
    follows = text(g, "The picture follows your strokes. Too loosely? Raise the strength; too stiff? Lower it, or take "
                   "another seed.")  # fmt: skip
    none = text(g, "Nothing is drawn, so the caption alone speaks: draw on the Painter, or connect a drawing.")
    untaught = text(g, "No edge predictor is connected, so the caption alone speaks: the template Train an edge "
                       "predictor makes one for your model, and Load Edge Predictor finds it.")  # fmt: skip
    report = either(g, drawn, none, either(g, taught, untaught, follows), "What was done")
    pair = g.add("ImageStitch", "Strokes and picture", image1=sketch["sketch"], image2=made)[0]
    shown = g.add("PreviewImage", images=pair)
    g.give(picture=made, edges_found=sketch["sketch"], report=report)
    return Wish(
        "Draw It", g, shown.number,
        "A drawing and a caption become a picture, without a ControlNet: a small predictor reads the coming edges.",
        ("sketch to image", "scribble", "draw", "line art"),
    )  # fmt: skip


def train_predictor(info: Mapping[str, dict]) -> Wish:
    g = Graph(info, MODELS, TRAIN)
    series = g.add("PalimpsestPromptList", "What it paints", prompts=g.prompts, count=g.pictures, seed=g.seed)
    captions = g.add("CLIPTextEncode", "Its prompts", clip=g.clip, text=series["prompts"])[0]
    empty = g.add("CLIPTextEncode", "Negative prompt", clip=g.clip, text="")[0]
    latent = g.add("EmptyLatentImage", width=g.width, height=g.height, batch_size=1)[0]
    made = g.add("KSampler", "Paints them", model=g.model, positive=captions, negative=empty, latent_image=latent,
                 seed=series["seeds"], steps=g.steps, cfg=g.cfg, sampler_name="euler",
                 scheduler="normal")[0]  # fmt: skip
    pictures = g.add("VAEDecode", samples=made, vae=g.vae)[0]
    edges = g.add("Canny", "Their edges (or any other map)", image=pictures, low_threshold=0.1, high_threshold=0.25)[0]
    trained = g.add("PalimpsestEdgePredictorTrain", model=g.model, vae=g.vae, clip=g.clip, images=pictures, edges=edges,
                    conditioning=captions, steps=g.learning, detail="4", learning_rate=0.003, width=128)  # fmt: skip
    saved = g.add("PalimpsestSaveEdgePredictor", edge_predictor=trained["edge_predictor"], filename_prefix=g.file)[0]
    all_of, few = ([g.add("RebatchImages", images=one, batch_size=4096)[0] for one in (pictures, edges)], [])
    for one in all_of:
        few.append(g.add("ImageFromBatch", "Some of them", image=one, batch_index=0, length=3)[0])
    seen = g.add("PalimpsestEdgePredictorPreview", model=g.model, vae=g.vae, clip=g.clip, image=few[0], edges=few[1],
                 edge_predictor=trained["edge_predictor"], percents="0.5, 0.3")  # fmt: skip
    count = g.add("GetImageSize", image=all_of[0])["batch_size"]
    report = g.add("StringFormat", f_string="{a} pictures were painted, and their edges learned (loss on those kept "
                   "aside: {b:.3f}). Saved as {c}: press R, and Load Edge Predictor finds it. Drawings are followed "
                   "too loosely? Let it paint more pictures, of what you mean to draw.", values__a=count,
                   values__b=trained["held_out_loss"], values__c=saved)[0]  # fmt: skip
    shown = g.add("PreviewImage", "Pictures, edges, and the edges seen", images=seen["panel"])
    g.give(edge_predictor=trained["edge_predictor"], pictures=all_of[0], edges_seen=seen["predicted"],
           loss_plot=trained["loss_plot"], report=report)  # fmt: skip
    return Wish(
        "Train an Edge Predictor", g, shown.number,
        "The model paints pictures and teaches a small network by them what counts as an edge, for Draw It. No picture "
        "of yours is needed.",
        ("train sketch", "edge predictor", "sketch guidance training", "lgp"),
    )  # fmt: skip


def morph(info: Mapping[str, dict]) -> Wish:
    g = Graph(info, {"pictures": "IMAGE", **MODELS}, MORPH)
    or_none(g, "pictures")
    keys = g.add("PalimpsestKeyPictures", pictures__picture0=g.pictures)
    several = g.add("ComfyMathExpression", "Several pictures?", expression="a > 1", values__a=keys["count"])["BOOL"]
    latent = g.add("VAEEncode", pixels=keys["pictures"], vae=g.vae)[0]
    typed = g.add("RegexMatch", "Is anything typed?", string=g.captions, regex_pattern=r"\S")[0]
    rows = g.add("PalimpsestPromptList", "A caption a picture", prompts=g.captions, count=keys["count"], clip=g.clip)
    empty = g.add("CLIPTextEncode", "No caption", clip=g.clip, text="")[0]
    prompts = either(g, typed, empty, rows["rows"], "The captions, or none")
    when = g.add("PalimpsestMorphSchedule", frames=g.frames, keyframes=keys["count"])
    loras = g.add("PalimpsestLoRAFit", model=g.model, latent=latent, prompts__prompt0=prompts, steps=g.lora_steps,
                  seed=g.seed)  # fmt: skip
    mixed = lambda alphas: g.add("PalimpsestLoRAInterpolator", model=g.model, loras__lora0=loras["loras"],
                                 alphas=alphas)[0]  # fmt: skip
    worded = lambda alphas: g.add("PalimpsestMorphConditioning", prompts__prompt0=prompts, alphas=alphas)[0]
    sigmas = g.add("BasicScheduler", model=g.model, scheduler="ddim_uniform", steps=g.steps, denoise=1.0)[0]
    path = g.add("PalimpsestDDIMInvert", model=mixed(when["keys"]), latent=latent, sigmas=sigmas, refinement=1,
                 positive=worded(when["keys"]))["trajectory"]  # fmt: skip
    model = mixed(when["alphas"])
    start = g.add("PalimpsestMorphLatents", model=model, trajectories__trajectory0=path, alphas=when["alphas"])
    model = g.add("PalimpsestAttentionBlend", model=model, alphas=when["alphas"], keys=start["keys"])[0]
    model = g.add("PalimpsestTrajectoryAnchor", "The pictures themselves stay", model=model, trajectory=start["keys"],
                  alphas=when["alphas"])[0]  # fmt: skip
    guider = g.add("BasicGuider", model=model, conditioning=worded(when["alphas"]))[0]
    made = g.add("SamplerCustomAdvanced", noise=start["noise"], guider=guider, sigmas=sigmas,
                 sampler=g.add("KSamplerSelect", sampler_name="euler")[0], latent_image=start["latent"])[0]  # fmt: skip
    frames = either(g, several, keys["pictures"], g.add("VAEDecode", samples=made, vae=g.vae)[0], "The frames")
    report = g.add("StringFormat", f_string="{a} frames through {b} pictures. Things fade where they should turn into "
                   "each other? Say in the captions what each picture shows, in words alike.", values__a=when["count"],
                   values__b=keys["count"])[0]  # fmt: skip
    idle = text(g, "Nothing was morphed: connect pictures, two or more.", "Nothing to do")
    report = either(g, several, idle, report, "What was done")
    shown = g.add("PreviewImage", images=frames)
    g.give(frames=frames, report=report)
    return Wish(
        "Morph", g, shown.number,
        "Pictures turn into each other, as the frames of an animation: as many pictures as you like.",
        ("interpolate", "morph", "animation", "tween"),
    )  # fmt: skip
