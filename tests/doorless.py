"""Files of nodes/ that need no ComfyUI, although the packages around them do."""

import importlib
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def doorless(module):
    """A module, as in "nodes.drawing.verdict", in packages with empty doorways.

    While it lasts, all that the module imports is there as well, as `doorless.nmg_sampler`.
    """
    for name, folder in (("doorless", ROOT), ("doorless.nodes", ROOT / "nodes")):
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    yield importlib.import_module(f"doorless.{module}")
    for name in [name for name in sys.modules if name.split(".")[0] == "doorless"]:
        del sys.modules[name]
