"""Write the English texts of the web interface, locales/en/nodeDefs.json, from the nodes.

    python tools/run.py tools/locales.py

The other languages are written by hand, entry for entry; tests/host/test_locales.py says what is
missing or left over.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the repository is the import root, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tools.console import answer, run_command
from tools.host_process import boot, node_classes

ROOT = Path(__file__).resolve().parents[1]
LANGUAGES = ("en", "ko", "ja", "zh")


def path_of(language: str) -> Path:
    """Where the host looks for the texts of a language."""
    return ROOT / "locales" / language / "nodeDefs.json"


def texts_of(schema: Any) -> dict[str, Any]:
    """Everything that a node says, in the shape that the host's web interface reads."""
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {
            given.id: {"name": given.display_name or given.id, "tooltip": given.tooltip}
            for given in schema.inputs
        },
        "outputs": {
            str(index): {"name": output.display_name or output.id, "tooltip": output.tooltip}
            for index, output in enumerate(schema.outputs)
        },
    }


def english() -> dict[str, Any]:
    """The texts of all nodes by node id; after `boot()`."""
    return {name: texts_of(node.GET_SCHEMA()) for name, node in vars(node_classes()).items()}


def main() -> int:
    """The command line."""
    boot()
    path = path_of("en")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(english(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    answer(path)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
