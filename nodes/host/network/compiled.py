"""Models under `torch.compile`, and the predictions that must not run compiled."""

from typing import Any

from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY


def uncompiled(options: dict[str, Any]) -> dict[str, Any]:
    """Model options under which a compiled network runs as it was before.

    Attention edits and gradient passes change the network from call to call. The host tells the
    compiler not to look at what changes (the guards on `transformer_options` are dropped): it would
    go on with code that was made without the change.
    """
    transformer = options.get("transformer_options", {})
    wrappers = transformer.get("wrappers", {})
    around_model = wrappers.get(WrappersMP.APPLY_MODEL, {})
    if COMPILE_KEY not in around_model:
        return options
    left = {key: value for key, value in around_model.items() if key != COMPILE_KEY}
    wrappers = {**wrappers, WrappersMP.APPLY_MODEL: left}
    return {**options, "transformer_options": {**transformer, "wrappers": wrappers}}
