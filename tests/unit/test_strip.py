"""The strip of the demo: what it measures, and that it says so below its pictures."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from demo import scenes
from tools.strip import main, psnr, write_mask


@pytest.fixture
def picture(tmp_path):
    """Writes a grey picture, white from column `edge` on; its path."""

    def make(name, edge, value=100):
        pixels = np.full((8, 8), value, np.uint8)
        pixels[:, edge:] = 255
        Image.fromarray(pixels).save(tmp_path / name)
        return tmp_path / name

    return make


def test_with_a_mask_only_what_is_black_in_it_counts(picture):
    plain, half = picture("plain.png", 8), picture("half.png", 4)
    mask = picture("mask.png", 4, value=0)
    assert psnr(plain, plain) == math.inf
    assert psnr(plain, half, mask) == math.inf
    # Half of the pixels differ, by 155.
    assert psnr(plain, half) == pytest.approx(10 * math.log10(255**2 / (155**2 / 2)))


def test_the_mask_of_a_demo_picture_is_that_of_a_colour_edit(tmp_path):
    write_mask(24, tmp_path / "mask.png")
    scene = scenes.random_scene(np.random.default_rng(24))
    other = "green" if scene.colour != "green" else "red"
    expected = scenes.mask(scene, scenes.edit(scene, "colour", other))
    assert (np.asarray(Image.open(tmp_path / "mask.png")) == expected * 255).all()


def test_the_numbers_stand_below_their_pictures(picture, tmp_path, capsys):
    files = [str(picture("plain.png", 8)), str(picture("half.png", 4))]
    strips = []
    for note in ("{some number:.1f} dB", ""):
        panel = {"title": "edit", "text": "a star", "file": files[0], "note": note}
        description = tmp_path / "description.json"
        description.write_text(json.dumps({"panels": [panel], "measure": {"some number": files}}))
        assert main(["compose", str(description), str(tmp_path / "strip.png")]) == 0
        strips.append(np.asarray(Image.open(tmp_path / "strip.png").convert("L")))
    assert json.loads(capsys.readouterr().out.split("}")[0] + "}") == {
        "some number": pytest.approx(psnr(*files))
    }
    with_note, without = strips
    different = np.nonzero((with_note != without).any(1))[0]
    assert different.min() > 384  # below the picture
    assert different.max() < len(with_note) - 12
