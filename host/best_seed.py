"""Best Seed on the host: candidates drawn like the host's Random Noise, sampled a few wide steps, and scored."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ..guidance.best_seed import cheap_levels, flow_distance, sketch_distance
from ..guidance.sketch.predictor import EdgePredictor
from ..inversion.diffusion import noised
from .conds import own_bounds
from .gradients import plain
from .memory import chunked
from .progress import Progress, check_interrupt
from .session import Session, with_denoiser
from .sketch.patch import Sketch, latent_target
from .unet_features import read_features

AT_ONCE = 8
JUDGED_AT = 0.8
"""The fraction of a run at whose noise level a draft's edges are read; the predictor's last where that is earlier."""
BLANK = 0.1
"""The least weight of blank paper where seeds are compared. By the strokes alone, seeds that draw something everywhere
would win (half-drawn outlines on Papercut: captions 79 % right; with this weight 85 %, and edges nearer)."""
NO_WHOLE_PROMPT = (
    "Best Seed finds no positive prompt for the whole picture where seeds are judged: give the positive conditioning "
    "an entry without an area that lasts for most of the run."
)
Score = Callable[[Session, Tensor], Tensor]


def drafts(
    model,
    conds: Mapping[str, list],
    latent: dict,
    sigmas: Tensor,
    seeds: Sequence[int],
    *,
    cfg: float,
    steps: int,
    end: float,
    score: Score | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Every seed sampled with Euler over `steps` wide steps of the schedule, down to the fraction `end` of a run.

    latent: LATENT; its noise mask holds as in a run. score(session, x0 (R, C, h, w)) -> (R,), of what the candidates
    are about to become. Guidance that is patched into the model works here as it does in a run. Returns the predicted
    pictures (K, B, C, h, w), raw, and the mean scores (K,) if asked for.
    """
    samples = latent["samples"]
    levels = cheap_levels(sigmas, steps, float(model.get_model_object("model_sampling").percent_to_sigma(end)))
    # Patches read how the run would go on behind the last level, which is predicted from and not left.
    order = torch.cat((levels, sigmas[sigmas < levels[-1]][:1], levels.new_zeros(1))).unique().flip(0)
    progress = Progress(len(seeds))
    rows = samples.shape[0]

    def some(chunk: slice) -> tuple[Tensor, Tensor | None]:
        chosen = seeds[chunk]
        noise = torch.cat([comfy.sample.prepare_noise(samples, seed, latent.get("batch_index")) for seed in chosen])
        full = samples.repeat(len(chosen), *[1] * (samples.ndim - 1))
        body = lambda session: _descend(session, noise, levels.to(session.sigmas), score)
        made, scores = with_denoiser(model, conds, full, order, body, cfg=cfg, noise_mask=latent.get("noise_mask"))
        progress.step(chunk.stop - 1)
        split = lambda values: values.cpu().float().reshape(len(chosen), rows, *values.shape[1:])
        return split(made), None if scores is None else split(scores).mean(1)

    # A batch of several pictures keeps to one seed a run, so that each row meets what was made for it.
    results = chunked(some, len(seeds), size=AT_ONCE if rows == 1 else 1, what="Best Seed")
    scores = None if score is None else torch.cat([one for _, one in results])
    return torch.cat([made for made, _ in results]), scores


def _descend(session: Session, noise: Tensor, levels: Tensor, score: Score | None) -> tuple[Tensor, Tensor | None]:
    noise = noise.to(session.device)
    x = session.start(noise=noise, sigmas=levels)
    for sigma, following in itertools.pairwise(levels):
        x = x + (following - sigma) * (x - _prediction(session, noise, x, sigma)) / sigma
    made = _prediction(session, noise, x, levels[-1])
    return session.to_raw(made), None if score is None else score(session, made)


def _prediction(session: Session, noise: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """The guided prediction x0; under a noise mask with what is kept in its place, before and after, as in a run."""
    if session.mask is None:
        return session.guided(x, sigma)
    known = session.model.scale_latent_inpaint(
        x=x, sigma=session.levels(x, sigma), noise=noise, latent_image=session.latent
    )
    x0 = session.guided(torch.lerp(known, x, session.mask), sigma)
    return torch.lerp(session.latent, x0, session.mask)


def sketch_score(
    model,
    network,
    predictor: EdgePredictor,
    sketch: Sketch,
    positive: list,
    *,
    size: tuple[int, int],
    one_sided: float,
) -> Score:
    """How far the edges of what a candidate is about to become are from the sketch.

    The edges are read at a low noise level, with the same noise for all candidates. In the noisy draft itself they
    would mostly be those of the model's guess. Of several entries of the prompt, those that cover the whole picture
    count, in equal parts.

    network: the model's UNet, for which the predictor was made (`require_predictor_of`); size: (h, w) of the latents.
    Raises ValueError where no entry of `positive`, a CONDITIONING, covers the whole picture when seeds are compared.
    """
    sampling = model.get_model_object("model_sampling")
    sigma = max(float(sampling.percent_to_sigma(JUDGED_AT)), predictor.spec.sigma_low)
    if not _whole(_ranged(positive, sampling), sigma):
        raise ValueError(NO_WHOLE_PROMPT)
    target, _ = latent_target(predictor, sketch, model.model, size, min(one_sided, 1 - BLANK))

    def score(session: Session, x0: Tensor) -> Tensor:
        noise = torch.randn(x0[:1].shape, generator=torch.Generator().manual_seed(0))
        x = noised(x0, noise.to(x0), sigma)
        taps, distances = predictor.spec.taps, []
        for denoise in _whole_prompts(session, x, sigma):
            features = read_features(network, taps, denoise, x.shape, "Best Seed")
            known = {name: plain(feature).cpu() for name, feature in zip(taps, features)}
            predicted = predictor.logits(known, session.levels(x, sigma).cpu(), size)
            distances.append(sketch_distance(predicted, target))
        return torch.stack(distances).mean(0)

    return score


def _ranged(positive: list, sampling) -> list[dict]:
    """The options of each entry of a CONDITIONING, with its range in noise levels as the host prepares it."""
    entries = [dict(options) for _, options in positive]
    comfy.samplers.calculate_start_end_timesteps(SimpleNamespace(model_sampling=sampling), entries)
    return entries


def _whole(entries: list[dict], sigma: float) -> list[dict]:
    """Those of the prepared entries that cover the whole picture at this noise level."""
    return [one for one in entries if "area" not in one and own_bounds(one)[1] <= sigma <= own_bounds(one)[0]]


def _whole_prompts(session: Session, x: Tensor, sigma: float) -> Iterator[Callable[[], Tensor]]:
    """For each entry of the positive prompt that covers the whole picture: the prediction by it alone."""
    entries = session.entries("positive")
    everything = list(entries)
    try:
        for entry in _whole(everything, sigma):
            entries[:] = [entry]
            yield lambda: session.denoise(x, x.new_tensor(sigma))
    finally:
        entries[:] = everything


def flow_scores(vae, made: Tensor, source: Tensor, flow: Tensor) -> Tensor:
    """made: (K, B, C, h, w) raw latents; source: (1, H, W, 3); flow: (1, H, W, 2). Returns (K,)."""
    scores = []
    for candidate in made:
        check_interrupt()
        pictures = vae.decode(candidate)[..., :3].permute(0, 3, 1, 2).float().cpu()
        scores.append(flow_distance(pictures, source[:1, ..., :3].permute(0, 3, 1, 2).float().cpu(), flow[:1]).mean())
    return torch.stack(scores)
