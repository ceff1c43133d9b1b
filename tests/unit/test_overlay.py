"""The overlay: a word of any length fits below the picture."""

import numpy as np
import pytest
from doorless import doorless


@pytest.fixture(scope="module")
def overlay():
    with doorless("nodes.drawing.overlay") as module:
        yield module


@pytest.mark.parametrize("word", ["", "cat", "W" * 20, "W" * 3000])
@pytest.mark.parametrize("width", [8, 64, 512])
def test_the_strip_of_a_word_is_as_high_for_every_word(overlay, word, width):
    made = overlay.overlay(np.zeros((64, width, 3)), np.zeros((64, width)), word)
    assert made.shape == (64 + 18, width, 3)
    assert made.dtype == np.float32
    assert 0 <= made.min() < made.max() == 1
