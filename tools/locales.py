"""Write the English texts of the web interface, locales/en/nodeDefs.json, from the nodes.

    python tools/run.py tools/locales.py
    python tools/locales.py --missing          # lists what is not translated yet; writes nothing

The other languages are written by hand, entry for entry. What lacks is no error: in its place the
interface shows the English text, and for a help page the node's description. What is there has to
be right; tests/unit/test_locales.py and tests/unit/test_help_languages.py say what is not.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the repository is the import root, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tools.console import answer, run_command
from tools.host_process import boot, node_classes

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "web" / "docs"
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


def flat(value: Any, path: str = "") -> dict[str, str]:
    """Every text by its path, as in "NMGInvert.inputs.steps.tooltip"."""
    if not isinstance(value, dict):
        return {path: value}
    parts = (flat(one, f"{path}.{name}".lstrip(".")) for name, one in value.items())
    return {name: text for part in parts for name, text in part.items()}


def missing(english: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The paths of the English texts that the other language has not."""
    return [path for path in flat(english) if path not in flat(other)]


def list_missing() -> None:
    """Print what each language has not yet."""
    texts = {name: json.loads(path_of(name).read_text("utf-8")) for name in LANGUAGES}
    for language in LANGUAGES[1:]:
        words = missing(texts["en"], texts[language])
        places = (DOCS / node / f"{language}.md" for node in texts["en"])
        pages = [
            f"{DOCS.name}/{path.parent.name}/{path.name}" for path in places if not path.is_file()
        ]
        counts = ((len(words), "text"), (len(pages), "help page"))
        answer(f"{language}: " + ", ".join(f"{n} {what}{'s' * (n != 1)}" for n, what in counts))
        for each in (*words, *pages):
            answer(f"  {each}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the English texts of the web interface.")
    parser.add_argument("--missing", action="store_true", help="list what is not translated")
    if parser.parse_args().missing:
        list_missing()
        return 0
    boot()
    path = path_of("en")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(english(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    answer(path)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
