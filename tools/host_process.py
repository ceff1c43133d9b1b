"""Bring up ComfyUI inside this Python process and load this checkout as a custom node of it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

checkout = Path(__file__).resolve().parent.parent
package_name = "nmg_pack"


def boot(comfyui: Path | None = None, args: Sequence[str] = ("--cpu",)) -> ModuleType:
    """Host modules importable and this checkout loaded as the package `nmg_pack`.

    Args:
        comfyui: folder of ComfyUI; the environment variable COMFYUI_PATH if None.
        args: the host's command line. Read once per process: later calls cannot change it.

    Returns:
        The package module; `importlib.import_module("nmg_pack.nodes.host...")` works after it.

    Raises:
        FileNotFoundError: no ComfyUI at the given place.
        RuntimeError: another package named `nodes` was imported before the host's.
    """
    if package_name in sys.modules:
        return sys.modules[package_name]
    root = _comfyui_root(comfyui)
    # First on the path: the host's `nodes`, `utils` and `app` have common names.
    sys.path.insert(0, str(root))
    # The host reads its options while it is imported; without --cpu it asks for CUDA there.
    sys.argv = [str(root / "main.py"), *args]
    importlib.import_module("comfy.options").enable_args_parsing()
    # As main.py does: the host's `nodes` puts its folder comfy/ first, which has a `utils` too.
    importlib.import_module("utils.extra_config")
    host_nodes = importlib.import_module("nodes")
    found = Path(host_nodes.__file__ or ".").resolve()
    if found.parent != root:
        raise RuntimeError(
            f"boot: module 'nodes' is not the host's. Got {found}; expected {root / 'nodes.py'}. "
            "Call boot() before anything imports this checkout's own folders."
        )
    return _load_pack()


def node_classes() -> SimpleNamespace:
    """The pack's node classes, each under its id; after `boot()`."""
    nodes = importlib.import_module(f"{package_name}.nodes").NODES
    return SimpleNamespace(**{node.__name__: node for node in nodes})


def _comfyui_root(comfyui: Path | None) -> Path:
    given = comfyui if comfyui is not None else os.environ.get("COMFYUI_PATH")
    if not given or not (Path(given) / "comfy" / "options.py").is_file():
        raise FileNotFoundError(
            f"boot: comfyui is no ComfyUI folder. Got {str(given) if given else 'nothing'}; "
            "expected a folder with comfy/options.py. Set COMFYUI_PATH or pass the folder."
        )
    return Path(given).resolve()


def _load_pack() -> ModuleType:
    init = checkout / "__init__.py"
    if not init.is_file():
        pack = ModuleType(package_name)
        pack.__path__ = [str(checkout)]
        sys.modules[package_name] = pack
        return pack
    spec = importlib.util.spec_from_file_location(
        package_name, init, submodule_search_locations=[str(checkout)]
    )
    if spec is None or spec.loader is None:
        raise RuntimeError(f"boot: {init} cannot be loaded. Check that the file is readable.")
    pack = importlib.util.module_from_spec(spec)
    sys.modules[package_name] = pack
    try:
        spec.loader.exec_module(pack)
    except BaseException:
        del sys.modules[package_name]
        raise
    return pack
