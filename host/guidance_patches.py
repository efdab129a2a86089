"""Patches on a MODEL's guidance: where nothing guides they are left out, and where they guide the fit includes them.

The host calls them round classifier-free guidance. Functions before it (adaptive projected guidance, sharpening) and in
its place (RescaleCFG) act on the difference of two predictions. Without a negative prompt the host hands them zeros for
the second one, from which they make a wrong picture. Functions after it may guide by themselves (perturbed-attention
guidance), so they stay.
"""

from __future__ import annotations

from .notify import notify

# Keys of the host's `model_options`.
OF_DIFFERENCE = ("sampler_pre_cfg_function", "sampler_cfg_function")
AROUND_GUIDANCE = (*OF_DIFFERENCE, "sampler_post_cfg_function", "sampler_calc_cond_batch_function")
NEEDS_NEGATIVE = "disable_cfg1_optimization"


def asks_for_negative(model) -> bool:
    """Whether a patch needs the unconditional prediction at CFG 1 as well (Self-Attention Guidance)."""
    return bool(model.model_options.get(NEEDS_NEGATIVE))


def patches_guidance(model) -> bool:
    """Whether a guided prediction may be more than plain classifier-free guidance between two predictions that are made
    alike: functions round the guidance, or attention patches, which may treat the two halves of a call differently."""
    options = model.model_options
    transformer = options.get("transformer_options", {})
    attention = any(key.startswith("attn") for key in transformer.get("patches", {}))
    replaced = any(transformer.get("patches_replace", {}).values())
    return attention or replaced or any(options.get(key) for key in AROUND_GUIDANCE)


def without_idle_guidance(model, cfg: float, technique: str):
    """The MODEL without the patches that act on the difference of two predictions, where there is only one.

    The model itself at another CFG than 1, where a patch has the negative predicted at CFG 1, and where nothing is to
    be left out. technique: the node, for the warning.
    """
    if cfg != 1.0 or asks_for_negative(model) or not any(model.model_options.get(key) for key in OF_DIFFERENCE):
        return model
    notify(
        f"{technique} leaves out the model's patches on guidance (adaptive projected guidance, sharpening, RescaleCFG "
        "and the like): at CFG 1 there is no guidance for them to act on."
    )
    clone = model.clone()
    for key in OF_DIFFERENCE:
        clone.model_options.pop(key, None)
    return clone
