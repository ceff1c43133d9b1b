"""Prompt-to-Prompt on toy tensors: what is taken over, when, where, and what stays exact."""

from dataclasses import replace

import pytest
import torch
from toys import IDENTITY, AttentiveNoise, call_to, noise, toy_layers, training_levels

from nmg_sampler import (
    Attends,
    Branches,
    Half,
    InvalidInput,
    LocalBlend,
    PlainGuidance,
    PromptEdit,
    PromptToPrompt,
    TokenizedPrompt,
    Trajectory,
    Word,
    align,
    fused_guidance,
    invert,
    official_masactrl_schedule,
    sample,
)
from nmg_sampler.contract import BranchPrompts, apply_probabilities, probabilities, split_heads
from nmg_sampler.editors import BlendRun, EditedMaps
from nmg_sampler.words import word_weights

STEPS = 10
SCHEDULE = official_masactrl_schedule(training_levels(), STEPS)
SHAPE = (2, 4, 4, 4)
TEXT_SCALE = 3.0
COLUMNS = 6  # begin, up to four tokens, end


def prompt(*words):
    """A prompt of one-token words in COLUMNS columns; equal words have equal ids."""
    spoken = [1000 + sum(map(ord, word)) for word in words]
    ids = [1, *spoken, *[2] * (COLUMNS - 1 - len(spoken))]
    columns = [Word(word, (place + 1,)) for place, word in enumerate(words)]
    return TokenizedPrompt(" ".join(words), tuple(ids), tuple(columns))


CAT = prompt("a", "cat", "sits")
TIGER = prompt("a", "tiger", "sits")
LONGER = prompt("a", "cat", "sits", "smiling")
# One vector per token id: equal words are equal embeddings.
VECTORS = {
    token: noise(1, 4, seed=index)
    for index, token in enumerate(sorted({*CAT.ids, *TIGER.ids, *LONGER.ids}))
}
NEGATIVE = noise(COLUMNS, 4, seed=99)


def embedding(text):
    return torch.cat([VECTORS[token] for token in text.ids])


def editor(
    *targets, source=CAT, cross=0.8, selves=0.5, mode="auto", weights="", words="", blend=None
):
    edits = tuple(
        PromptEdit(target, align(source, target, mode), word_weights(target, weights), cross, words)
        for target in targets
    )
    return PromptToPrompt(edits, selves, blend)


def make(source=CAT, shape=SHAPE):
    predictor = AttentiveNoise(embedding(source), [], NEGATIVE, Branches(shape[0], 0, True))
    return Trajectory(invert(noise(*shape), SCHEDULE, predictor), SCHEDULE, IDENTITY)


def edit(trajectory, how, *targets, source=CAT, guidance=None):
    """(targets, B, C, ...) edits and the source branch."""
    branches = Branches(trajectory.shape[0], len(targets), how is not None)
    prompts = [embedding(target) for target in targets]
    result = sample(
        trajectory,
        AttentiveNoise(embedding(source), prompts, NEGATIVE, branches),
        guidance or PlainGuidance(),
        TEXT_SCALE,
        targets=len(targets),
        editor=how,
    )
    return result.edit.unflatten(0, (len(targets), -1)), result.source


@pytest.mark.parametrize("mode", ["auto", "replace", "refine"])
def test_equal_prompts_leave_the_target_equal_to_the_source_bit_for_bit(mode):
    blend = LocalBlend((((2,), (2,)),))
    for how in (editor(CAT, mode=mode), editor(CAT, mode=mode, blend=blend)):
        edits, source = edit(make(), how, CAT)
        assert torch.equal(edits[0], source)


def test_schedules_of_zero_change_nothing_and_touch_no_layer():
    trajectory = make()
    off = editor(TIGER, cross=0.0, selves=0.0)
    edits, source = edit(trajectory, off, TIGER)
    free, _ = edit(trajectory, None, TIGER)
    own, _ = edit(trajectory, None, CAT)
    torch.testing.assert_close(edits, free, rtol=0, atol=1e-12)
    torch.testing.assert_close(source, own[0], rtol=0, atol=1e-12)
    editing = off.begin(FakeRun(trajectory))
    assert all(editing.attention(step) is None for step in SCHEDULE.descent())


def test_the_source_is_not_touched_and_the_target_is():
    trajectory = make()
    edits, source = edit(trajectory, editor(TIGER), TIGER)
    own, _ = edit(trajectory, None, CAT)
    free, _ = edit(trajectory, None, TIGER)
    torch.testing.assert_close(source, own[0], rtol=0, atol=1e-12)
    assert not torch.allclose(edits, free, rtol=0, atol=1e-3)


@pytest.mark.parametrize("how", ["cross", "selves"])
def test_each_schedule_acts_on_its_own(how):
    trajectory = make()
    free, _ = edit(trajectory, None, TIGER)
    settings = {"cross": 0.0, "selves": 0.0, how: 0.5}
    edits, _ = edit(trajectory, editor(TIGER, **settings), TIGER)
    assert not torch.allclose(edits, free, rtol=0, atol=1e-4)


def test_several_targets_are_each_what_they_are_alone():
    trajectory = make()
    guidance = fused_guidance(3.0, 300.0)
    blend = LocalBlend((((2,), (2,)), ((3,), (4,))))
    both, source = edit(
        trajectory, editor(TIGER, LONGER, blend=blend), TIGER, LONGER, guidance=guidance
    )
    for index, (target, pair) in enumerate(zip((TIGER, LONGER), blend.words, strict=True)):
        how = editor(target, blend=LocalBlend((pair,)))
        single, same = edit(trajectory, how, target, guidance=guidance)
        torch.testing.assert_close(both[index], single[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(source, same, rtol=0, atol=1e-12)


def test_pictures_of_a_batch_are_what_they_are_alone():
    trajectory = make()
    how = editor(TIGER, blend=LocalBlend((((2,), (2,)),)))
    both, _ = edit(trajectory, how, TIGER)
    for index in range(2):
        one = Trajectory(trajectory.states[:, index : index + 1], SCHEDULE, IDENTITY)
        single, _ = edit(one, how, TIGER)
        torch.testing.assert_close(both[0, index], single[0, 0], rtol=0, atol=1e-12)


class FakeRun:
    """What an editor needs of a run to say what it wants."""

    def __init__(self, trajectory, targets=1):
        self.trajectory = trajectory
        self.branches = Branches(trajectory.shape[0], targets, True)


def test_schedules_count_the_steps_as_published():
    """0.8 and 0.5 of 10 steps: int(0.8 * 11) = 8 with cross-, 5 with self-attention."""
    editing = editor(TIGER, cross=0.8, selves=0.5).begin(FakeRun(make()))
    self_layer, cross_layer = toy_layers()[0]
    wanted = [
        (edit.wants(cross_layer), edit.wants(self_layer)) if edit else (False, False)
        for edit in map(editing.attention, SCHEDULE.descent())
    ]
    assert wanted == [(True, True)] * 5 + [(True, False)] * 3 + [(False, False)] * 2


def call_of(layer, half=Half.COND, targets=1, pictures=1, cells=4):
    """A layer's call with numbers of its own."""
    branches = Branches(pictures, targets, True)
    rows, crosses = branches.rows, layer.attends is Attends.CROSS
    keys = COLUMNS if crosses else cells
    q, k, v = (
        split_heads(each, 2)
        for each in (
            noise(rows, cells, 4),
            noise(rows, keys, 4, seed=1),
            noise(rows, keys, 4, seed=2),
        )
    )

    def attend(q, k, v):
        return apply_probabilities(probabilities(q, k), v)

    columns = (COLUMNS,) * branches.count if crosses and half is Half.COND else ()
    size = (2, cells // 2)
    return call_to(
        layer, q, k, v, half=half, branches=branches, size=size, columns=columns, attend=attend
    )


def step_edit(how, index=0):
    return how.begin(FakeRun(make())).attention(SCHEDULE.descent()[index])


def test_replaced_words_take_the_sources_map_and_their_own_values():
    call = call_of(toy_layers()[0][1])
    source_map = probabilities(call.q[:1], call.k[:1])
    expected = apply_probabilities(source_map, call.v[1:])
    torch.testing.assert_close(step_edit(editor(TIGER))(call)[1:], expected)
    torch.testing.assert_close(step_edit(editor(TIGER))(call)[:1], call.plain()[:1])


def test_added_words_keep_their_own_map():
    call = call_of(toy_layers()[0][1])
    maps = probabilities(call.q, call.k)
    source, own = maps[:1], maps[1:]
    # Columns: begin a cat sits | smiling | end; the source has its end where smiling stands.
    expected = torch.cat([source[..., :4], own[..., 4:5], source[..., 4:5]], -1)
    result = step_edit(editor(LONGER))(call)[1:]
    torch.testing.assert_close(result, apply_probabilities(expected, call.v[1:]))


def test_a_weight_scales_the_column_while_it_is_taken_over_and_no_longer():
    call = call_of(toy_layers()[0][1])
    weighted = editor(TIGER, weights="tiger:2.5", words="tiger:0.3")
    source = probabilities(call.q[:1], call.k[:1])
    expected = source.clone()
    expected[..., 2] *= 2.5
    early = step_edit(weighted, 0)(call)[1:]
    torch.testing.assert_close(early, apply_probabilities(expected, call.v[1:]))
    expected[..., 2] = probabilities(call.q[1:], call.k[1:])[..., 2]
    late = step_edit(weighted, 4)(call)[1:]
    torch.testing.assert_close(late, apply_probabilities(expected, call.v[1:]))


def test_self_attention_takes_the_sources_map_over_the_targets_values():
    call = call_of(toy_layers()[0][0])
    source_map = probabilities(call.q[:1], call.k[:1])
    result = step_edit(editor(TIGER))(call)
    torch.testing.assert_close(result[1:], apply_probabilities(source_map, call.v[1:]))
    assert torch.equal(result[:1], call.plain()[:1])


def test_fine_self_attention_is_left_alone():
    """Above 32 x 32 cells, unless that is a quarter of the latent."""
    layer = toy_layers()[0][0]
    call = call_of(layer, cells=2048)
    assert torch.equal(step_edit(editor(TIGER))(call), call.plain())
    # States that no inversion made: of a latent this large it would take seconds.
    states = noise(len(SCHEDULE.levels), 1, 4, 96, 96)
    large = editor(TIGER).begin(FakeRun(Trajectory(states, SCHEDULE, IDENTITY)))
    assert large.self_cells == 48 * 48


@pytest.mark.parametrize("cross", [False, True])
def test_the_unconditional_half_is_left_alone(cross):
    call = call_of(toy_layers()[0][int(cross)], half=Half.UNCOND)
    assert torch.equal(step_edit(editor(TIGER))(call), call.plain())


def test_prompts_encoded_together_are_read_once_each():
    """A prompt repeated to the length of another is the same prompt."""
    call = call_of(toy_layers()[0][1])
    k, v = (tensor.repeat(1, 1, 2, 1) for tensor in (call.k, call.v))
    twice = replace(call, k=k, v=v, prompt=slice(0, 24), columns=(12, 12))
    torch.testing.assert_close(step_edit(editor(TIGER))(twice), step_edit(editor(TIGER))(call))


def test_maps_come_back_in_the_precision_of_the_values():
    call = call_of(toy_layers()[0][1])
    half = replace(call, q=call.q.half(), k=call.k.half(), v=call.v.half())
    assert step_edit(editor(TIGER))(half).dtype == torch.float16


def blend_run(threshold=0.3, start=0.2, targets=1, pictures=1):
    blend = LocalBlend((((1,), (2,)),) * targets, threshold, start)
    return BlendRun(blend, Branches(pictures, targets, True), (8, 6), STEPS)


def spot(row, column, size=(8, 6), value=1.0):
    """A map of four columns with one bright cell in columns 1 and 2: (1, 2, cells, 4)."""
    maps = torch.zeros(1, 2, *size, 4, dtype=torch.float64)
    maps[..., row, column, 1:3] = value
    return maps.flatten(2, 3)


def test_the_edit_stays_around_the_cells_that_look_at_either_word():
    run = blend_run()
    run.add(0, spot(1, 1), spot(6, 4), (8, 6))
    x = torch.stack([torch.zeros(4, 16, 12), torch.ones(4, 16, 12)]).double()
    result = run.settle(x, STEPS - 1)
    expected = torch.zeros(16, 12).double()
    expected[0:6, 0:6] = 1  # one cell around (1, 1), at twice the size
    expected[10:16, 6:12] = 1
    assert torch.equal(result[1], expected.expand(4, -1, -1))
    assert torch.equal(result[0], x[0])


def test_a_blend_waits_for_its_start_and_for_its_first_map():
    run = blend_run(start=0.2)
    x = noise(2, 4, 8, 6)
    assert torch.equal(run.settle(x, STEPS - 1), x)
    run.add(0, spot(1, 1), spot(1, 1), (8, 6))
    assert torch.equal(run.settle(x, 1), x)
    assert not torch.equal(run.settle(x, 2), x)


def test_maps_are_summed_over_layers_and_steps():
    run = blend_run(threshold=0.45)
    for where in ((1, 1), (6, 4), (6, 4)):
        run.add(0, spot(*where), spot(*where), (8, 6))
    # The spot seen once has half of the maximum, and 0.45 is below it.
    assert run.mask(0, torch.Size((8, 6))).sum() == 18
    run.add(0, spot(6, 4), spot(6, 4), (8, 6))
    assert run.mask(0, torch.Size((8, 6))).sum() == 9


def test_a_threshold_of_one_returns_the_source_and_words_nobody_sees_as_well():
    x = noise(2, 4, 8, 6)
    run = blend_run(threshold=1.0)
    run.add(0, spot(1, 1), spot(1, 1), (8, 6))
    assert torch.equal(run.settle(x, STEPS)[1], x[0])
    blind = blend_run()
    blind.add(0, spot(1, 1, value=0.0), spot(1, 1, value=0.0), (8, 6))
    assert torch.equal(blind.settle(x, STEPS)[1], x[0])


def test_a_threshold_of_zero_leaves_the_target_where_it_is_seen_at_all():
    run = blend_run(threshold=0.0)
    everywhere = torch.ones(1, 2, 48, 4, dtype=torch.float64)
    run.add(0, everywhere, everywhere, (8, 6))
    x = noise(2, 4, 8, 6)
    assert torch.equal(run.settle(x, STEPS), x)


def test_a_blend_leaves_the_source_outside_in_a_whole_run():
    trajectory = make()
    edits, source = edit(
        trajectory, editor(TIGER, blend=LocalBlend((((2,), (2,)),), threshold=1.0)), TIGER
    )
    assert torch.equal(edits[0], source)
    free, _ = edit(trajectory, editor(TIGER), TIGER)
    assert not torch.allclose(free[0], source, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("make_it", "named"),
    [
        (lambda: editor(TIGER, cross=1.5), "cross_replace"),
        (lambda: editor(TIGER, selves=-0.1), "self_replace"),
        (lambda: editor(TIGER, words="lion:0.4"), "lion"),
        (lambda: editor(TIGER, blend=LocalBlend(())), "blend_words"),
        (lambda: LocalBlend((((1,), ()),)), "blend_words"),
        (lambda: LocalBlend((((1,), (1,)),), threshold=2.0), "threshold"),
        (lambda: LocalBlend((((1,), (1,)),), start=-1.0), "start"),
    ],
)
def test_bad_settings_are_refused_when_the_editor_is_made(make_it, named):
    with pytest.raises(InvalidInput, match=named):
        make_it()


@pytest.mark.parametrize(
    ("columns", "got"),
    [((6, 12), r"\(6, 12\)"), ((12, 6), r"\(12, 6\)"), ((6, 6, 6), "1 in the editor, 2")],
)
def test_other_prompts_than_its_own_are_refused(columns, got):
    with pytest.raises(InvalidInput, match=got):
        editor(TIGER).check(BranchPrompts.unknown(columns))


def test_prompts_of_the_right_length_are_accepted():
    editor(TIGER).check(BranchPrompts.unknown((6, 6)))
    editor(TIGER, LONGER).check(BranchPrompts.unknown((6, 6, 6)))


def test_tensors_follow_the_maps_in_precision():
    maps = EditedMaps(editor(TIGER).edits[0], STEPS)
    for dtype in (torch.float32, torch.float64):
        source, target = noise(2, 1, 2, 4, COLUMNS, dtype=dtype)
        assert maps(source, target, 0).dtype == dtype
