"""Pictures for the demo: fit one to the model, measure and label a strip.

Run by tools/demo.py with the host environment's Python, because it needs Pillow and NumPy:

    python tools/strip.py fit PICTURE SIZE RESULT       # prints {"width": w, "height": h}
    python tools/strip.py mask SEED RESULT              # of the object of a demo picture; prints {}
    python tools/strip.py compose DESCRIPTION RESULT    # prints {"<name>": dB, ...}

DESCRIPTION is a JSON file: `panels`, a list of {"title", "text", "file"} and perhaps {"note"}, and
`measure`, a map from a name to two files whose PSNR is wanted, and perhaps a mask: black where it
is measured. A note is a text with the names in braces, which become their numbers.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

if not __package__:  # started as a script: the repository is the import root, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from demo import scenes

PANEL_PX = 384
GAP_PX = 12
TITLE_PX = 22
TEXT_PX = 15
TEXT_LINES = 2
INK, FAINT, PAPER = (20, 20, 20), (95, 95, 95), (255, 255, 255)


def fit(picture: Path, size: int, result: Path) -> dict[str, int]:
    """Write the picture's centre as a square of `size` pixels; gives its own width and height."""
    with Image.open(picture) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = Image.alpha_composite(
                Image.new("RGBA", image.size, (255, 255, 255, 255)), image.convert("RGBA")
            )
        image = image.convert("RGB")
    fitted = image
    if image.size != (size, size):
        fitted = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    fitted.save(result)
    return {"width": image.width, "height": image.height}


def write_mask(seed: int, result: Path) -> dict[str, int]:
    """Write the mask of a demo picture's object: white on each pixel that has a part of it."""
    scene = scenes.random_scene(np.random.default_rng(seed))
    Image.fromarray((scenes.coverage(scene) > 0).astype(np.uint8) * 255).save(result)
    return {}


def psnr(first: Path, second: Path, mask: Path | None = None) -> float:
    """Peak signal to noise ratio in dB of two pictures of one size, over 8-bit RGB values.

    With a mask, of the pixels that are black in it.
    """
    a, b = (np.asarray(Image.open(path).convert("RGB"), np.float64) for path in (first, second))
    counted = ... if mask is None else np.asarray(Image.open(mask).convert("L")) == 0
    error = float(np.mean((a - b)[counted] ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def compose(panels: list[dict[str, str]], result: Path) -> None:
    """Write the panels side by side, each under its title and above its text and its note."""
    title_font, text_font = (ImageFont.load_default(size) for size in (TITLE_PX, TEXT_PX))
    top = GAP_PX + TITLE_PX + GAP_PX
    line = TEXT_PX + 5
    height = top + PANEL_PX + GAP_PX + (TEXT_LINES + 1) * line + GAP_PX
    strip = Image.new("RGB", (GAP_PX + len(panels) * (PANEL_PX + GAP_PX), height), PAPER)
    draw = ImageDraw.Draw(strip)
    for number, panel in enumerate(panels):
        left = GAP_PX + number * (PANEL_PX + GAP_PX)
        draw.text((left, GAP_PX), panel["title"], INK, title_font)
        with Image.open(panel["file"]) as opened:
            image = opened.convert("RGB").resize((PANEL_PX, PANEL_PX), Image.Resampling.BICUBIC)
        strip.paste(image, (left, top))
        lines = [(words, FAINT) for words in _wrap(panel["text"], draw, text_font)]
        for row, (words, colour) in enumerate([*lines, (panel.get("note", ""), INK)]):
            place = (left, top + PANEL_PX + GAP_PX + row * line)
            draw.text(place, words, colour, text_font)
    strip.save(result)


def _wrap(
    text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[str]:
    """The text in lines that fit under a panel; cut, and marked as cut, after the last one."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) <= PANEL_PX or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > TEXT_LINES:
        lines = [*lines[: TEXT_LINES - 1], f"{lines[TEXT_LINES - 1]} ..."]
    return lines


def main(arguments: list[str]) -> int:
    """The command line; 2 and one line on standard error for a picture that cannot be read."""
    try:
        if arguments[0] == "fit":
            picture, size, result = arguments[1:]
            answer: object = fit(Path(picture), int(size), Path(result))
        elif arguments[0] == "mask":
            seed, result = arguments[1:]
            answer = write_mask(int(seed), Path(result))
        else:
            source, result = arguments[1:]
            description = json.loads(Path(source).read_text(encoding="utf-8"))
            files = description["measure"].items()
            measured = {name: psnr(*map(Path, paths)) for name, paths in files}
            for panel in description["panels"]:
                panel["note"] = panel.get("note", "").format_map(measured)
            compose(description["panels"], Path(result))
            answer = measured
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
