"""Prompt-to-Prompt through the nodes, on the demo model with its real text encoder."""

import pytest
import torch
from host_models import first, relative
from host_nodes import guidance
from memory import peak_bytes

STEPS = 6
RUN = 1e-4  # float32 rounding of a whole run
SCENE = 11
SOURCE = "a green triangle on a dotted black background"
TARGET = "a red triangle on a dotted black background"


@pytest.fixture(scope="module")
def trajectory(nodes, demo, encode):
    with torch.inference_mode():
        picture, caption = nodes["NMGDemoPicture"].execute(SCENE).result
        assert caption == SOURCE
        latent = {"samples": demo[2].encode(picture[..., :3])}
        made = nodes["NMGInvert"].execute(
            demo[0], encode(SOURCE), latent, steps=STEPS, schedule="official-masactrl"
        )
        return first(made)


@pytest.fixture
def make(nodes, demo):
    """The node's (editor, alignment)."""

    def call(target=TARGET, source=SOURCE, **settings):
        inputs = {
            "mode": "auto",
            "cross_replace": 0.8,
            "self_replace": 0.5,
            "blend_words": "",
            "reweight": "",
            **settings,
        }
        return (
            nodes["NMGPromptToPrompt"]
            .execute(clip=demo[1], source_prompt=source, target_prompt=target, **inputs)
            .result
        )

    return call


@pytest.fixture
def sample(nodes, demo, encode, trajectory):
    """(edit, source, cost) of NMG Sample under a target text or conditioning."""

    def call(editor=None, target=TARGET, **inputs):
        arguments = {
            "positive": encode(target) if isinstance(target, str) else target,
            "negative": encode(""),
            "text_scale": 3.0,
            "noise_map_scale": 1.5,
            "gradient_scale": 5000.0,
            "mode": "fused",
            **inputs,
        }
        output = nodes["NMGSample"].execute(demo[0], trajectory, editor=editor, **arguments)
        edits, source = (latent["samples"] for latent in output.result)
        return edits, source, output.ui["nmg"][0]

    return call


def test_the_alignment_is_told_in_words(make):
    assert make()[1] == "green -> red"
    assert "2 tokens" in make("a cyan green triangle on a dotted black background")[1]
    assert make(SOURCE)[1]


def test_equal_prompts_give_the_source_bit_for_bit(make, sample):
    for words in ("", "triangle"):
        editor, _ = make(SOURCE, blend_words=words)
        edits, source, _ = sample(editor, SOURCE, noise_map_scale=0.0)
        assert torch.equal(edits, source)


def test_schedules_of_zero_are_the_run_without_an_editors_hold(make, sample):
    editor, _ = make(cross_replace=0.0, self_replace=0.0)
    edits, source, cost = sample(editor)
    free, _, _ = sample(noise_map_scale=0.0)
    own, _, _ = sample(target=SOURCE)
    assert relative(edits, free) < RUN
    assert relative(source, own) < RUN
    assert cost["forward_calls"] == STEPS
    assert cost["forward_rows"] == 4 * STEPS


def test_the_source_is_held_and_the_target_follows_it(make, sample, trajectory):
    edits, source, _ = sample(make()[0])
    own, _, _ = sample(target=SOURCE)
    free, _, _ = sample(noise_map_scale=0.0)
    assert relative(source, own) < RUN
    assert relative(edits, free) > 0.02


def test_a_local_blend_leaves_the_latent_outside_to_the_source(make, sample):
    editor, _ = make(blend_words="triangle", blend_threshold=0.6)
    edits, source, _ = sample(editor)
    same = (edits == source).all(1)
    assert 0.2 < float(same.float().mean()) < 1.0
    everywhere, _, _ = sample(make()[0])
    assert (edits - source).norm() < (everywhere - source).norm()


def test_several_lines_are_several_edits_of_one_source_branch(make, sample, encode):
    other = "a yellow triangle on a dotted black background"
    both, _ = make(f"{TARGET}\n{other}", blend_words="triangle", reweight="red:2\nyellow:1")
    prompts = torch.cat([encode(text)[0][0] for text in (TARGET, other)])
    edits, source, cost = sample(both, [[prompts, {}]])
    assert cost["forward_rows"] == 6 * STEPS
    for index, (text, weight) in enumerate(((TARGET, "red:2"), (other, "yellow:1"))):
        editor, _ = make(text, blend_words="triangle", reweight=weight)
        single, same, _ = sample(editor, text)
        assert relative(edits[index : index + 1], single) < RUN
        assert relative(source, same) < RUN


def test_nmg_prompts_encodes_every_line_as_clip_text_encode_does(nodes, demo, encode):
    short, other, long = TARGET, SOURCE, TARGET + ", very nice" * 40
    ((rows, options),) = first(nodes["NMGPrompts"].execute(demo[1], f"{short}\n\n  {other}"))
    assert torch.equal(rows, torch.cat([encode(short)[0][0], encode(other)[0][0]]))
    assert len(options["pooled_output"]) == 2
    parts = first(nodes["NMGPrompts"].execute(demo[1], f"{short}\n{long}"))
    for (embedding, options), text in zip(parts, (short, long), strict=True):
        ((expected, expected_options),) = encode(text)
        assert torch.equal(embedding, expected)
        assert torch.equal(options["pooled_output"], expected_options["pooled_output"])


def test_lines_of_unequal_length_are_edited_as_alone(nodes, demo, make, sample, encode):
    texts = TARGET, TARGET + ", very nice" * 40
    prompts = first(nodes["NMGPrompts"].execute(demo[1], "\n".join(texts)))
    editor, _ = make("\n".join(texts), blend_words="triangle")
    edits, _, _ = sample(editor, prompts)
    for index, text in enumerate(texts):
        single, _, _ = sample(make(text, blend_words="triangle")[0], text)
        assert relative(edits[index : index + 1], single) < RUN


def test_prompts_of_several_chunks_and_of_unequal_length(make, sample, encode):
    tail = ", very nice" * 40
    editor, summary = make(TARGET + tail)
    assert "added" in summary
    edits, _, _ = sample(editor, TARGET + tail)
    assert torch.isfinite(edits).all()
    weighted = "a (red:1.3) triangle on a dotted black background"
    editor, _ = make(weighted, reweight="red:1.5")
    assert torch.isfinite(sample(editor, weighted)[0]).all()


@pytest.mark.parametrize("mode", ["official", "fused"])
@pytest.mark.parametrize("gradient", ["full", "direct"])
def test_it_goes_with_every_way_of_holding_the_source(nodes, make, sample, mode, gradient):
    method = guidance(nodes, mode=mode, gradient=gradient, noise_map_scale=3.0)
    edits, source, cost = sample(make()[0], guidance=method)
    own, _, _ = sample(guidance=method, target=SOURCE)
    assert relative(source, own) < 0.02  # l1: rounding may flip the sign of an element
    assert torch.isfinite(edits).all()
    assert cost["backward_rows"] == (STEPS if gradient == "full" else 0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"blend_words": "tiger"}, "tiger"),
        ({"reweight": "tiger:2"}, "tiger"),
        ({"reweight": "red"}, "reweight"),
        ({"word_schedules": "red:2"}, "word_schedules"),
        ({"target": "a square", "mode": "replace"}, "replace"),
        ({"reweight": "red:1\nred:2\nred:3"}, "reweight"),
    ],
)
def test_words_that_are_not_there_are_errors_with_the_nodes_name(make, library, settings, named):
    with pytest.raises(library.InvalidInput, match=named) as error:
        make(**settings)
    assert str(error.value).startswith("Prompt-to-Prompt: ")


def test_an_editor_for_other_prompts_is_refused_before_anything_runs(make, sample, library):
    editor, _ = make(TARGET + ", very nice" * 40)
    with pytest.raises(library.InvalidInput, match="other prompts"):
        sample(editor, TARGET)
    editor, _ = make(f"{TARGET}\n{SOURCE}")
    with pytest.raises(library.InvalidInput, match="number of target prompts"):
        sample(editor, TARGET)


def test_a_cached_editor_gives_the_same_edit_twice(make, sample):
    editor, _ = make(blend_words="triangle")
    assert torch.equal(sample(editor)[0], sample(editor)[0])


def test_nothing_grows_with_the_number_of_steps(nodes, demo, encode, make, trajectory):
    """Not the maps of the blend, nor anything else: what a step makes is gone after it."""
    editor, _ = make(blend_words="triangle")
    clean = {"samples": demo[0].model.process_latent_out(trajectory.states[0])}
    peaks = []
    for steps in (4, 8):
        invert = nodes["NMGInvert"].execute
        made = first(invert(demo[0], encode(SOURCE), clean, steps, "official-masactrl"))

        def run(made=made):
            nodes["NMGSample"].execute(
                demo[0],
                made,
                encode(TARGET),
                encode(""),
                text_scale=3.0,
                noise_map_scale=1.5,
                gradient_scale=5000.0,
                mode="fused",
                editor=editor,
            )

        run()
        peaks.append(peak_bytes(run))
    # The states of the trajectory itself are made before and live elsewhere.
    assert peaks[1] <= peaks[0] * 1.01
