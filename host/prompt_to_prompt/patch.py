"""Prompt-to-Prompt as a patch of the host's MODEL: row 0 of the batch is the source, the other rows are its edits.

A run's state lives in the run's options, so that nothing stays on the model but the records of the last runs. Edits are
made in the plan's own entries of the positive prompt alone. The blend takes hold in three places: what the model sees
(innermost, where an anchor has put the trajectory in place already), what the sampler gets (outermost, after the
anchor's exact answer), and the result, for samplers whose last step is not a prediction.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...guidance.prompt_to_prompt.attention_control import Roles
from ...guidance.prompt_to_prompt.local_blend import keep_source_outside, map_factor
from ...guidance.prompt_to_prompt.map_sums import MapSums
from ...guidance.prompt_to_prompt.plan import EditPlan
from ..attention.blocks import attention_blocks
from ..attention.transformer import transformer_blocks
from ..compatibility import warn_of_another_caption
from ..conds import pick_rows
from ..family import diffusion_model, is_unet
from ..inversion.anchor import holds_of
from ..network_calls import run_uncompiled
from ..notify import notify
from .attention_record import Record, Recording
from .own_prompt import asked_entries, is_due, require_own
from .run import TECHNIQUE, Call, EditRun, cut_apart
from .tokens import LENGTHS
from .transformer_call import TransformerCall
from .unet_call import UNetCall

KEY = "palimpsest_prompt_to_prompt"
# Entries that carry any of these are evaluated as the host would: their parts cannot be cut row by row.
UNCUT = ("control", "hooks", "area", "mask", "gligen", "default")


def with_prompt_to_prompt(model, plan: EditPlan):
    """A clone of the MODEL that edits as the plan says, and keeps a `Recording` under `recording(model)`.

    With both fractions of steps at 0 and no blend the results are the plain host's to the last bit. Raises ValueError
    for models whose attention is not known, and for one that has a Prompt-to-Prompt already.
    """
    patch = _PromptToPrompt(plan, *_calls_of(model, plan))
    if recording(model) is not None:
        raise ValueError(
            f"This model has a {TECHNIQUE} already: connect the model as it was before, and write each edit on a line "
            "of its own."
        )
    clone = model.clone()
    clone.set_attachments(KEY, patch.recording)
    clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, patch.calc_cond_batch)
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, patch.apply_model)
    # The first wrapper is the outermost, whatever order the nodes stand in.
    for kind, wrapper in (
        (WrappersMP.OUTER_SAMPLE, patch.outer_sample),
        (WrappersMP.PREDICT_NOISE, patch.predict_noise),
    ):
        clone.add_wrapper_with_key(kind, KEY, wrapper)
        wrappers = clone.wrappers[kind]
        clone.wrappers[kind] = {KEY: wrappers.pop(KEY), **wrappers}
    return clone


def _calls_of(model, plan: EditPlan) -> tuple[dict, type[Call]]:
    """The blocks of the network with attention, with the reduction of their maps, and how a call of it is edited."""
    if not is_unet(model):
        if plan.self_cells is not None:
            raise ValueError(
                "At most 32 x 32 cells is a choice for UNets, and the maps of this transformer have one size: set "
                "self_layers to one of the others."
            )
        return transformer_blocks(model, TECHNIQUE), TransformerCall
    if plan.depth != 1:
        raise ValueError(
            "The first third of the blocks is a choice for transformers, and this model is a UNet: set self_layers to "
            "one of the others."
        )
    return attention_blocks(diffusion_model(model)), UNetCall


def recording(model) -> Recording | None:
    """The recording of a MODEL that Prompt-to-Prompt has patched; None for others."""
    return model.get_attachment(KEY)


class _PromptToPrompt:
    """The places of a sampling run where the edits happen. Keeps nothing between runs but the last records."""

    def __init__(self, plan: EditPlan, blocks: dict, of: type[Call]):
        self.plan, self.blocks, self.of, self.recording = plan, MappingProxyType(blocks), of, Recording()

    def outer_sample(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        self._check(noise, guider.conds.get("positive") or [])
        _warn_of_other_noises(noise, self.plan.rows, guider.model_patcher)
        for hold in holds_of(guider.model_patcher):
            warn_of_another_caption(hold.anchor.trajectory, self.plan.source.text, f"The source text of {TECHNIQUE}")
        size = tuple(int(n) for n in noise.shape[-2:])
        maps = MapSums(size, map_factor(self.blocks.values(), *size))
        run = EditRun(self.plan, sigmas.tolist(), noise.shape[0], size, maps, self.blocks, self.of, guider)
        run_uncompiled(guider, TECHNIQUE)
        # The guider's options are this run's own copy.
        guider.model_options.setdefault("transformer_options", {})[KEY] = run
        samples = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        if run.blends and run.mask is not None:
            samples = keep_source_outside(samples, run.mask, run.roles.rows, run.roles.sources)
        if run.maps:
            self.recording.keep(self._record(run, samples))
        return samples

    def _record(self, run: EditRun, samples: Tensor) -> Record:
        plan = self.plan
        groups = run.rows // plan.rows
        maps = tuple(one.cpu() for one in run.maps.means())
        columns = plan.blend.columns if plan.blend is not None else ((),) * plan.rows
        mask = self._whole_mask(run)
        return Record(plan.prompts * groups, maps, mask, columns * groups, samples.detach().float().cpu().clone())

    def predict_noise(self, executor, x, timestep, model_options={}, seed=None):
        """What the sampler gets: outside the blend's mask an edit is its source."""
        denoised = executor(x, timestep, model_options, seed)
        run = _run(model_options.get("transformer_options", {}))
        if run is None or not (run.blends and run.maps):
            return denoised
        run.mask = self.plan.masks(run.maps.totals(), run.roles, run.size)
        return keep_source_outside(denoised, run.mask, run.roles.rows, run.roles.sources)

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options):
        """What the model sees, and which of the rows it is asked for."""
        run = _run(model_options.get("transformer_options", {}))
        asked = asked_entries(run.guider, conds, self.plan) if run is not None else {}
        if not asked:
            return executor(model, conds, x_in, timestep, model_options)
        if x_in.shape[0] != run.rows:
            raise cut_apart(run.rows, tuple(x_in.shape))
        run.begin(float(timestep[0]))
        if run.blends and run.mask is not None:
            x_in = keep_source_outside(x_in, run.mask, run.roles.rows, run.roles.sources)
        run.latent, run.asked, calls = x_in, frozenset(asked), run.calls
        run.lengths = next(iter(asked.values())).get(LENGTHS, ())
        if self._source_is_kept(model, conds, x_in, run):
            out = _without_source_unconditional(executor, model, conds, x_in, timestep, model_options, run.roles)
        else:
            out = executor(model, conds, x_in, timestep, model_options)
        if run.calls == calls and any(is_due(entry, float(timestep[0])) for entry in asked.values()):
            raise ValueError(
                f"{TECHNIQUE} was passed over, because another node calls the network in its own way: take that node "
                "off the model."
            )
        return out

    def apply_model(self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kw):
        """One model call, with the attention of the plan's entries edited and their maps read."""
        run = _run(transformer_options)
        call = run.call(x, transformer_options) if run is not None else None
        if call is None:
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kw)
        network = executor.class_obj.diffusion_model
        with call.edited(network, transformer_options, c_crossattn, kw) as options:
            return executor(x, t, c_concat, c_crossattn, control, options, **kw)

    def _check(self, noise: Tensor, positive: list[dict]) -> None:
        rows, wanted = noise.shape[0], self.plan.rows
        if self.plan.blend is not None and noise.ndim == 5 and noise.shape[2] > 1:
            raise ValueError(
                f"The blend of {TECHNIQUE} is a place in a single picture, and this latent is a video: leave "
                "blend_words and keep_words empty and auto_blend off."
            )
        if rows % wanted:
            raise ValueError(
                f"{TECHNIQUE} has {len(self.plan.edits)} edited texts and so needs a batch of {wanted} (the source and "
                f"its edits), but {rows} is sampled: repeat the latent with Repeat Latent Batch, and where the noise "
                "is not DDIM Invert's, put Latent Batch Seed Behavior on 'fixed' behind it."
            )
        require_own(positive, self.plan)

    def _source_is_kept(self, model, conds, x: Tensor, run: EditRun) -> bool:
        """Whether the unconditional prediction of the sources is thrown away: an anchor holds them to a trajectory."""
        if len(conds) != 2 or not conds[1] or {number for number, _ in run.asked} != {0}:
            return False
        sources = sorted(set(run.roles.sources))
        kept = any(not bool(hold.anchor.weight(x)[sources].any()) for hold in holds_of(model.current_patcher))
        return kept and all(map(_can_cut, conds[1]))

    def _whole_mask(self, run: EditRun) -> Tensor | None:
        """(B, H, W): the edits' masks in their rows, and in the source's row where any of its edits is."""
        if run.mask is None:
            return None
        mask = torch.zeros(run.rows, *run.size)
        for place, (row, source) in enumerate(zip(run.roles.rows, run.roles.sources)):
            mask[row] = run.mask[place].cpu()
            mask[source] = torch.maximum(mask[source], mask[row])
        return mask


def _warn_of_other_noises(noise: Tensor, size: int, model) -> None:
    """A source and its edits belong together only if they start alike."""
    roles = Roles.of(noise.shape[0], size)
    alike = torch.equal(noise[list(roles.rows)], noise[list(roles.sources)])
    if not alike and not any(hold.start_from_source for hold in holds_of(model)):
        notify(
            "The source and its edits start from different noises, so that an edit is another picture: put Latent "
            "Batch Seed Behavior on 'fixed' behind Repeat Latent Batch, or connect the noise of DDIM Invert."
        )


def _run(options: dict) -> EditRun | None:
    return options.get(KEY)


def _can_cut(entry: dict) -> bool:
    return not any(entry.get(key) is not None for key in UNCUT)


def _without_source_unconditional(executor, model, conds, x_in, timestep, model_options, roles: Roles) -> list[Tensor]:
    """Both predictions, with the sources' unconditional one left out: their guided prediction is thrown away."""
    conditional = executor(model, [conds[0], None], x_in, timestep, model_options)[0]
    rows = torch.tensor(roles.rows, device=x_in.device)
    cut = [{**entry, "model_conds": pick_rows(entry["model_conds"], rows)} for entry in conds[1]]
    found = executor(model, [None, cut], x_in[rows], timestep[rows], model_options)[1]
    unconditional = conditional.clone()
    unconditional[rows] = found
    return [conditional, unconditional]
