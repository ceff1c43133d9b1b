"""What is patched of a model, as far as it can tell that two prompts are predicted in one call."""

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ....nmg_sampler import Branches, InvalidInput
from .compiled import uncompiled
from .conditions import Condition

# Where the host's options hold the rule of guidance.
CALC = "sampler_calc_cond_batch_function"
PRE, RULE, POST = "sampler_pre_cfg_function", "sampler_cfg_function", "sampler_post_cfg_function"
_AROUND_NETWORK = (
    WrappersMP.CALC_COND_BATCH,
    WrappersMP.APPLY_MODEL,
    WrappersMP.DIFFUSION_MODEL,
)


def sees_both(options: dict[str, Any], model: ModelPatcher) -> bool:
    """Whether something in or around the network may look at all rows of a call.

    It cannot be known of a function that it does: Normalized Attention Guidance lets the rows of
    one prompt change those of the other, IPAdapter asks whose rows they are and changes each by
    itself, FreeU asks nothing. So all of them are shown what they are shown in the host's sampler.

    Args:
        options: of a run, without an attention edit of this pack.
        model: the one that runs, with its object patches.
    """
    if "model_function_wrapper" in options:
        return True
    transformer = uncompiled(options).get("transformer_options", {})
    # Those of hooks that act on some prompts alone are named under the second key.
    if any(_patched(each) for each in (transformer, options.get("to_load_options", {}))):
        return True
    return any(
        name.startswith("diffusion_model") and callable(patch)
        for name, patch in model.object_patches.items()
    )


def sees_guidance(options: dict[str, Any]) -> bool:
    """Whether a patch of the rule of guidance is told both predictions."""
    return any(options.get(name) for name in (CALC, PRE, RULE, POST))


def is_plain(options: dict[str, Any], model: ModelPatcher) -> bool:
    """Whether text guidance is nothing but the difference of two predictions, each by itself."""
    wrappers = options.get("transformer_options", {}).get("wrappers", {})
    wrapped = any(wrappers.get(WrappersMP.PREDICT_NOISE, {}).values())
    return not (wrapped or sees_guidance(options) or sees_both(options, model))


def in_one_call(own: list[Condition], other: list[Condition] | None) -> list[Condition] | None:
    """The parts of another prompt that the host may predict in one call with those of `own`.

    It never does so across different hooks, whose weights differ.
    """
    hooks = [part.get("hooks") for part in own]
    return [part for part in other or [] if part.get("hooks") in hooks] or None


def _patched(transformer: dict[str, Any]) -> bool:
    kinds = [*transformer.get("patches", {}).values()]
    kinds += transformer.get("patches_replace", {}).values()
    wrappers = transformer.get("wrappers", {})
    for kind in _AROUND_NETWORK:
        kinds += wrappers.get(kind, {}).values()
    return any(kinds) or "optimized_attention_override" in transformer


# Rules of the host that reckon over all rows of a call, by the class of their node.
_OVER_ALL_ROWS = {
    "Mahiro": "Positive-Biased Guidance",
    "VideoLinearCFGGuidance": "VideoLinearCFGGuidance",
    "VideoTriangleCFGGuidance": "VideoTriangleCFGGuidance",
}
# And those that stop the host at more than one row.
_OF_ONE_ROW = {
    "RenormCFG": "RenormCFG",
    "TemporalScoreRescaling": "TSR - Temporal Score Rescaling",
}
# And those that remember the call before.
_WITH_MEMORY = {"APG": "Adaptive Projected Guidance"}


def check_rules(model: ModelPatcher, branches: Branches, apart: bool) -> None:
    """Raises InvalidInput if a rule of guidance would take one branch for another.

    Args:
        branches: what the rows of a call are.
        apart: whether source and targets are predicted in calls of their own.
    """
    given = _rules(model.model_options)
    unfit = given & _OF_ONE_ROW.keys() if branches.rows > 1 else set()
    unfit |= given & _OVER_ALL_ROWS.keys() if branches.count > 1 else set()
    unfit |= given & _WITH_MEMORY.keys() if apart else set()
    if unfit:
        names = {**_OVER_ALL_ROWS, **_OF_ONE_ROW, **_WITH_MEMORY}
        raise InvalidInput.of(
            "model",
            "has a rule of guidance that cannot tell the pictures of a call apart",
            f"{', '.join(sorted(names[name] for name in unfit))} with {branches.rows} pictures",
            "a rule that takes each by itself",
            "Remove that node, or make one edit of one picture, without an editor or method that"
            " carries the source beside it.",
        )
    if apart and CALC in model.model_options:
        raise InvalidInput.of(
            "model",
            "has a patch that makes both predictions itself, and this editor asks for each alone",
            "a calc_cond_batch function",
            "none",
            "Remove that patch, or disconnect the editor.",
        )


def check_memory(options: dict[str, Any], parts: int) -> None:
    """Raises InvalidInput if a rule would remember the call of other rows, not that of a step ago.

    Args:
        options: of a run.
        parts: how many calls a step's prediction takes.
    """
    found = _rules(options) & _WITH_MEMORY.keys()
    if found and parts > 1:
        raise InvalidInput.of(
            "model",
            "has a rule of guidance that remembers the call before, and a step takes several here",
            f"{', '.join(sorted(_WITH_MEMORY[name] for name in found))} with {parts} calls in a"
            " step",
            "prompts that one call can take: of one length, with the same nodes after the text",
            "Remove that node, or edit with one prompt at a time.",
        )


def _rules(options: dict[str, Any]) -> set[str]:
    """Classes of the nodes whose functions are part of the rule of guidance."""
    functions = [*options.get(PRE, []), *options.get(POST, []), options.get(RULE)]
    names = (getattr(function, "__qualname__", "") for function in functions)
    return {name.partition(".")[0] for name in names}
