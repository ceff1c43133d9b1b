"""Prompt-to-Prompt with Noise Map Guidance, in the host, against the published code."""

import importlib
import json
from functools import cache

import pytest
import torch
from published_alignment import official_replacement
from recorded import (
    END_TOLERANCE,
    FLIPPED,
    STEP_TOLERANCE,
    difference,
    differences,
    invert,
    recorded,
    sample,
)

RUNS = ["ptp_refine", "ptp_replace_blend_reweight"]


class Tokens:
    """The host's tokenizer alone: the recorded embeddings were made by no text encoder."""

    def __init__(self):
        self.tokenizer = importlib.import_module("comfy.sd1_clip").SD1Tokenizer()

    def tokenize(self, text, **options):
        return self.tokenizer.tokenize_with_weights(text, **options)


@cache
def editor_of(name, published=True):
    """The recorded controller; with `published` its replacement has the published defect."""
    library = importlib.import_module("nmg_pack.nmg_sampler")
    settings = importlib.import_module("nmg_pack.nmg_sampler.words.settings")
    tokenize = importlib.import_module("nmg_pack.nodes.host.models.tokens").tokenize
    parameters = recorded(name).parameters
    controller = json.loads(parameters["controller"])
    source, target = (
        tokenize(Tokens(), parameters[f"{branch}_prompt"]) for branch in ("source", "target")
    )
    if published and controller["kind"] == "replace":
        aligned = official_replacement(source, target)
    else:
        aligned = library.align(source, target, controller["kind"])
    weights = ", ".join(f"{word}:{value}" for word, value in controller.get("reweight", {}).items())
    blend = None
    if "blend" in controller:
        words = settings.blend_columns(source, target, ", ".join(controller["blend"]))
        blend = library.LocalBlend((words,))
    edit = library.PromptEdit(
        target, aligned, settings.word_weights(target, weights), controller["cross"]
    )
    return library.PromptToPrompt((edit,), controller["self"], blend)


@pytest.mark.parametrize("name", RUNS)
def test_source_and_target_are_the_recorded_ones(host, name):
    data = recorded(name)
    model, trajectory = invert(host, data, "official")
    got = sample(host, data, model, trajectory, "target", editor_of(name))
    for branch in zip(got, data["ptp"], strict=True):
        flipped, mean = differences(*branch)
        assert flipped <= FLIPPED[data.parameters["loss"]]
        assert mean < END_TOLERANCE / 5


def every_step(host, data, editor, only=None):
    """The states after each step, or after `only` that one, from the recorded states before it."""
    library, _, runs = host
    model, trajectory = invert(host, data, "official")
    levels = importlib.import_module("nmg_pack.nmg_sampler.trajectory.levels")
    branches = library.Branches(1, 1, True)
    steps = trajectory.schedule.descent()
    first = data["trajectory"][-1:].expand(2, -1, -1, -1)
    starts = [first, *data["ptp_states"]]
    got = []

    def procedure(predictor, latent, _on_step):
        run = library.Run(
            predictor, trajectory, len(steps), float(data.parameters["text_scale"]), branches
        )
        guiding, editing = data.guidance(library).begin(run), editor.begin(run)
        for step in steps if only is None else steps[only : only + 1]:
            request = guiding.prepare(starts[step.index].clone(), step)
            x, guided = editing.predict(request, step)
            eps = guiding.correct(x, step, guided)
            x = levels.ddim_step(x, eps, step.level, step.level_to)
            got.append(editing.settle(guiding.settle(x, step, eps), step))
        return runs.Done(latent)

    conditions = {
        name: [[data[key], {}]]
        for name, key in (("source", "source"), ("positive", "target"), ("negative", "uncond"))
    }
    job = runs.Job(conditions, data["z0"], trajectory.schedule, procedure, None, branches, (77, 77))
    runs.run_procedure(model, job)
    return got


@pytest.mark.parametrize("name", RUNS)
def test_every_single_step_from_recorded_states_is_the_recorded_one(host, name):
    data = recorded(name)
    got = every_step(host, data, editor_of(name))
    # The published code's last step goes from a level to itself: it changes nothing.
    expected = data["ptp_states"][: len(got)]
    assert difference(data["ptp_states"][-1], expected[-1]) < STEP_TOLERANCE
    for states, recorded_states in zip(got, expected, strict=True):
        for branch in zip(states, recorded_states, strict=True):
            assert difference(*branch) < STEP_TOLERANCE


def test_where_equal_token_counts_leave_the_defect_without_effect_the_default_agrees(host):
    """ "cat" and "tiger" are one token each, so the published mapping and ours are the same."""
    name = "ptp_replace_blend_reweight"
    published, ours = (editor_of(name, flag).edits[0].alignment for flag in (True, False))
    assert torch.equal(published.mapping, ours.mapping)


@pytest.mark.parametrize(("step", "cross", "selves"), [(2, 0.8, 0.6), (3, 0.6, 0.4)])
def test_another_schedule_is_not_what_was_recorded(host, step, cross, selves):
    """So the numbers do tell whether the steps are counted right."""
    data = recorded("ptp_refine")
    library, *_ = host
    edit = editor_of("ptp_refine").edits[0]
    changed = library.PromptEdit(edit.target, edit.alignment, edit.weights, cross)
    (states,) = every_step(host, data, library.PromptToPrompt((changed,), selves), step)
    assert difference(states[1], data["ptp_states"][step][1]) > 10 * STEP_TOLERANCE
