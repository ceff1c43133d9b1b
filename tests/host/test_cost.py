"""What runs cost, as the nodes report it, and that what has no effect is not computed.

That the report is true is shown where the model's own calls are counted, in test_host_calls.py.
"""

import gc
import importlib
import sys
import weakref
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
INNER = 10

# Calls, rows and backward rows of a step. A row is one prompt for all pictures.
PLAIN, ONE_ROW = (1, 2, 0), (1, 1, 0)
# The negative prompt with its backward pass, then both prompts, or the positive one alone.
OFFICIAL, FUSED = (2, 3, 1), (2, 2, 1)
BESIDE_SOURCE = (1, 4, 0)
EXPECTED = {
    "**NMG Invert**": ONE_ROW,
    "**NMG Invert**, refine_iterations 2": (1 + 2, 1 + 2, 0),
    # The text once, each inner step forward and backward, and the step itself.
    "**Null-Text Inversion**, 10 inner steps": (1 + INNER + 1, 1 + INNER + 2, INNER),
    "**Edit-Friendly Inversion**": PLAIN,
    "**NMG Edit Region**, 5 levels": (2, 2, 0),
    # As set, without guidance, and at text scale 1.
    "**NMG Reconstruction Check**, fused, direct": (3, 2 + 2 + 1, 0),
    "**DDIM + CFG**": PLAIN,
    "**NMG**, fused, direct": PLAIN,
    "**NMG**, fused, full": FUSED,
    "**NMG**, official, direct": (2, 3, 0),
    "**NMG**, official, full": OFFICIAL,
    "**Null-Text Inversion**": PLAIN,
    "**Negative-Prompt Inversion**": PLAIN,
    "**Proximal Guidance**": PLAIN,
    "**Prompt-to-Prompt**, DDIM + CFG": BESIDE_SOURCE,
    "**Prompt-to-Prompt**, Direct Inversion": BESIDE_SOURCE,
    "**Prompt-to-Prompt**, NMG fused, direct": BESIDE_SOURCE,
    "**Prompt-to-Prompt**, NMG fused, full": (1 + 1, 1 + 4, 1),
    "**Prompt-to-Prompt**, NMG official, full": (1 + 1, 1 + 4, 1),
    "**MasaCtrl**, DDIM + CFG": BESIDE_SOURCE,
    # The source, two gradients of the target, and the target's prediction: in one or in two.
    "**pix2pix-zero**, halves together": (1 + 2 + 1, 2 + 2 + 2, 2),
    "**pix2pix-zero**, halves separate": (1 + 2 + 2, 2 + 2 + 2, 2),
    "text_scale 1, DDIM + CFG": ONE_ROW,
    "text_scale 1, NMG fused, direct": PLAIN,
    "text_scale 1, NMG fused, full": FUSED,
    "text_scale 1, NMG official, full": (2, 2, 1),
    "text_scale 1, Negative-Prompt Inversion": ONE_ROW,
    "text_scale 1, Proximal Guidance without threshold and pull": ONE_ROW,
    "noise_map_scale 0, NMG fused, full": PLAIN,
    # The step without text is part of the mode: only its backward pass goes.
    "noise_map_scale 0, NMG official, full": (2, 3, 0),
    "weight 0 under all of the mask, fused, full": PLAIN,
    "weight 0 under all of the mask, official, full": (2, 3, 0),
    "outside start and end, NMG official, full": PLAIN,
    "schedule official without its last step, NMG official, full": OFFICIAL,
    "attention_scale 0, pix2pix-zero": BESIDE_SOURCE,
}


@pytest.fixture(scope="module")
def cost(pack):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    return importlib.import_module("cost")


@pytest.fixture(scope="module")
def ways(cost):
    with torch.inference_mode():
        return cost.Ways()


@pytest.fixture(scope="module")
def counted(cost, ways):
    """(the tables, the guiders that are alive after it), without the garbage collector."""
    guiders = weakref.WeakSet()

    class Listed(importlib.import_module("comfy.samplers").CFGGuider):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            guiders.add(self)

    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("comfy.samplers.CFGGuider", Listed)
        gc.disable()
        try:
            tables = {title: lines(ways) for title, lines in cost.TABLES.items()}
            return tables, list(guiders)
        finally:
            gc.enable()


@pytest.fixture
def tables(counted):
    return counted[0]


def test_every_step_costs_what_it_needs_and_nothing_more(tables):
    counted = {line.name: line.per_step for lines in tables.values() for line in lines}
    assert counted == EXPECTED


def test_the_tables_of_the_docs_are_what_is_counted(cost, tables):
    text = (ROOT / "docs" / "cost.md").read_text("utf-8")
    for title, lines in tables.items():
        assert cost.table(title, lines) in text


def test_no_run_keeps_its_guider_and_the_model_alive(counted):
    assert not counted[1]


@pytest.mark.parametrize(
    ("options", "acting"),
    [({"every": 2}, 2), ({"start": 0.3}, 2), ({"end": 0.3}, 1), ({"start": 0.3, "end": 0.6}, 1)],
    ids=str,
)
@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        (("official", "full"), (1, 1, 1)),
        (("fused", "full"), (1, 0, 1)),
        (("fused", "direct"), (0,) * 3),
    ],
    ids=str,
)
def test_steps_outside_the_window_cost_what_plain_sampling_costs(
    ways, kind, extra, options, acting
):
    line = ways.sampling("", ways.noise_map(*kind, **options))
    assert line.cost == tuple(
        3 * plain + acting * more for plain, more in zip(PLAIN, extra, strict=True)
    )


def test_the_last_step_of_the_official_schedule_is_not_sampled(ways):
    method = ways.noise_map("official", "full")
    line = ways.sampling("", method, trajectory=ways.official)
    assert line.cost == tuple(2 * number for number in OFFICIAL)
