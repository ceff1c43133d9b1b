"""Models without what answers from earlier predictions instead of the network.

EasyCache and its kin guess a prediction from those before it, on the assumption that sigma falls
and that the same prompts are asked at every step. An inversion climbs, several methods ask for one
prompt alone, and an editor needs the network to run: a guess there is another result.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from comfy.model_patcher import ModelPatcher

_FUNCTION = "model_function_wrapper"


def without_caches(model: ModelPatcher) -> ModelPatcher:
    """The model, or a clone of it without its caches, said in the log."""
    found = [*_caches(model)]
    if not found:
        return model
    left = model.clone()
    for _, take_off in found:
        take_off(left)
    names = {name.lower(): name for name, _ in found}
    logging.info(
        "NMG: %s is taken off for this run. It guesses predictions from earlier ones; an inversion,"
        " and what holds an edit to it, need those of the network itself.",
        " and ".join(names.values()),
    )
    return left


def _caches(model: ModelPatcher) -> Iterator[tuple[str, Callable[[ModelPatcher], Any]]]:
    """The name of each thing that a cache put on a model, and what takes it off a clone."""
    options = model.model_options
    transformer = options.get("transformer_options", {})
    for kind, by_key in model.wrappers.items():
        for key in filter(_is_cache, by_key):
            yield key, partial(ModelPatcher.remove_wrappers_with_key, wrapper_type=kind, key=key)
    for key in filter(_is_cache, transformer):
        yield getattr(transformer[key], "name", key), partial(_without_option, key=key)
    for place, patches in transformer.get("patches", {}).items():
        for patch in patches:
            if hasattr(patch, "cache"):
                yield type(patch).__name__, partial(_without_patch, place=place, patch=patch)
    function = options.get(_FUNCTION)
    if function is not None and _is_cache(name := _name_of(function)):
        yield name, lambda left: left.model_options.pop(_FUNCTION)


def _is_cache(name: Any) -> bool:
    return isinstance(name, str) and "cache" in name.lower()


def _name_of(function: Any) -> str:
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}.{kind.__qualname__}"


def _without_option(model: ModelPatcher, key: str) -> None:
    model.model_options["transformer_options"].pop(key)


def _without_patch(model: ModelPatcher, place: str, patch: Any) -> None:
    patches = model.model_options["transformer_options"]["patches"]
    patches[place] = [other for other in patches[place] if other is not patch]
