"""pix2pix-zero: neutral elements, the gradient and its scale, what is kept and what it costs."""

import math

import pytest
import torch
from toys import (
    IDENTITY,
    AttentiveNoise,
    DetachedNoise,
    call_to,
    noise,
    toy_layers,
    training_levels,
)

from nmg_sampler import (
    Attends,
    Branches,
    Gradient,
    Guided,
    Half,
    InvalidInput,
    Mode,
    NoiseMapGuidance,
    NotDifferentiable,
    PlainGuidance,
    Prompt,
    Request,
    Rows,
    Trajectory,
    fused_guidance,
    invert,
    official_guidance,
    official_masactrl_schedule,
    sample,
)
from nmg_sampler.contract import BranchPrompts, Run, probabilities, split_heads
from nmg_sampler.editors import AttentionDistance, Halves, Pix2PixZero, SourceAttention, map_bytes

STEPS = 10
SCHEDULE = official_masactrl_schedule(training_levels(), STEPS)
SHAPE = (2, 4, 4, 4)
TEXT_SCALE = 3.0
SOURCE, NEGATIVE = noise(5, 4, seed=1), noise(5, 4, seed=2)
MOVED, OTHER = SOURCE + 0.7 * noise(5, 4, seed=3), SOURCE + 0.7 * noise(5, 4, seed=4)
EXACT = {"rtol": 0, "atol": 1e-12}  # float64 rounding of a run
EDITORS = {
    "together": Pix2PixZero(0.3),
    "separate": Pix2PixZero(0.3, Halves.SEPARATE),
}
each_editor = pytest.mark.parametrize("editor", EDITORS.values(), ids=EDITORS)


def network(targets, pictures, negative=NEGATIVE):
    return AttentiveNoise(SOURCE, targets, negative, Branches(pictures, len(targets), True))


def make(shape=SHAPE):
    predictor = AttentiveNoise(SOURCE, [], NEGATIVE, Branches(shape[0], 0, True))
    return Trajectory(invert(noise(*shape), SCHEDULE, predictor), SCHEDULE, IDENTITY)


def edit(trajectory, editor, *targets, guidance=None, text_scale=TEXT_SCALE, negative=NEGATIVE):
    """(targets, B, C, ...) edits, the source branch, the predictor."""
    predictor = network(targets, trajectory.shape[0], negative)
    result = sample(
        trajectory,
        predictor,
        guidance or PlainGuidance(),
        text_scale,
        targets=len(targets),
        editor=editor,
    )
    return result.edit.unflatten(0, (len(targets), -1)), result.source, predictor


def alone(trajectory, prompt, guidance=None, **options):
    """The one branch under a prompt, without an editor."""
    predictor = AttentiveNoise(SOURCE, [prompt], NEGATIVE, Branches(trajectory.shape[0], 1))
    guidance = guidance or PlainGuidance()
    return sample(trajectory, predictor, guidance, TEXT_SCALE, **options).edit


class Plain:
    """Every cross-attention map of a prediction, by layer and half, as the paper writes it."""

    def __init__(self):
        self.maps = {}

    def wants(self, layer):
        return layer.attends is Attends.CROSS

    def __call__(self, call):
        self.maps[call.layer.index, call.half] = probabilities(call.q, call.k)
        return call.plain()


def energy(x, targets, reference, level, halves=tuple(Half)):
    """(rows,) L of each row of the targets, the sums written out."""
    predictor = network(targets, len(x) // len(targets))
    seen = Plain()
    for half in halves:
        prompt = Prompt.POSITIVE if half is Half.COND else Prompt.NEGATIVE
        predictor.eps(x, level, prompt, seen)
    total = torch.zeros(len(x), dtype=x.dtype)
    for place, maps in seen.maps.items():
        theirs = reference.maps[place].repeat(len(targets), 1, 1, 1)
        for row, (ours, fixed) in enumerate(zip(maps, theirs, strict=True)):
            # Mean over the rows of the published code, one per half, and over heads.
            total[row] += (ours - fixed).square().sum((1, 2)).mean() / len(halves)
    return total


def reference_of(source, level, pictures=2):
    seen = Plain()
    network([SOURCE], pictures).guided(
        Request(source, level, TEXT_SCALE, rows=Rows.SOURCE, attention=seen)
    )
    return seen


class Watching(Pix2PixZero):
    """Keeps (level, states before, states after, prediction) of every step."""

    def begin(self, run):
        editing = super().begin(run)
        predict, seen = editing.predict, self.seen

        def watched(request, step):
            moved, guided = predict(request, step)
            seen.append((step.level, request.x, moved, guided))
            return moved, guided

        editing.predict = watched
        return editing


def watching(*arguments):
    editor = Watching(*arguments)
    object.__setattr__(editor, "seen", [])
    return editor


@each_editor
def test_without_a_direction_the_edit_is_the_source_which_is_its_reconstruction(editor):
    trajectory = make()
    edits, source, _ = edit(trajectory, editor, SOURCE)
    torch.testing.assert_close(edits[0], source, **EXACT)
    torch.testing.assert_close(source, alone(trajectory, SOURCE), **EXACT)


def test_equal_attention_has_distance_zero_and_gradient_zero():
    level = SCHEDULE.descent()[4].level
    x = noise(*SHAPE)
    run = Run(network([SOURCE], 2), make(), STEPS, TEXT_SCALE, Branches(2, 1, True))
    both = torch.cat([x, x])
    moved, _ = (
        Pix2PixZero(0.3).begin(run).predict(Request(both, level, TEXT_SCALE), SCHEDULE.descent()[4])
    )
    assert float(energy(x, [SOURCE], reference_of(x, level), level).max()) == 0
    assert torch.equal(moved, both)


@each_editor
def test_what_holds_the_source_does_not_see_the_targets(editor):
    trajectory = make()
    for guidance in (PlainGuidance(), fused_guidance(3.0, 300.0)):
        edits, source, _ = edit(trajectory, editor, MOVED, guidance=guidance)
        torch.testing.assert_close(source, alone(trajectory, SOURCE, guidance), **EXACT)
        assert float((edits[0] - alone(trajectory, MOVED)).abs().max()) > 1e-3


def test_a_scale_of_zero_is_text_guidance_of_both_in_one_call_per_step():
    trajectory = make()
    edits, source, predictor = edit(trajectory, Pix2PixZero(0.0), MOVED)
    torch.testing.assert_close(edits[0], alone(trajectory, MOVED), **EXACT)
    torch.testing.assert_close(source, alone(trajectory, SOURCE), **EXACT)
    assert predictor.rows == [8] * STEPS


@each_editor
def test_it_acts_in_its_part_of_the_run_only(editor):
    part = Pix2PixZero(0.3, editor.halves, 0.3, 0.5)
    _, _, predictor = edit(make(), part, MOVED)
    graphs = [call.with_graph for call in predictor.calls]
    before, during, after = graphs[:3], graphs[3:-5], graphs[-5:]
    assert not any(before + after)
    assert sum(during) == 2 * 2


@pytest.mark.parametrize(
    ("halves", "expected"),
    [
        # Source; unconditional and text with a graph; targets.
        (Halves.TOGETHER, [4, 2, 2, 4]),
        # The unconditional prediction of the targets is made first, alone.
        (Halves.SEPARATE, [4, 2, 2, 2, 2]),
    ],
)
def test_a_step_costs_what_the_docstring_says(halves, expected):
    _, _, predictor = edit(make(), Pix2PixZero(0.3, halves), MOVED)
    assert predictor.rows == expected * STEPS
    assert sum(call.with_graph for call in predictor.calls) == 2 * STEPS


def test_a_small_scale_lowers_the_distance_in_every_step():
    editor = watching(0.05)
    edit(make(), editor, MOVED)
    assert len(editor.seen) == STEPS
    for level, x, moved, _ in editor.seen:
        reference = reference_of(x[:2], level)
        before, after = (energy(each[2:], [MOVED], reference, level) for each in (x, moved))
        assert (before > 0).all()
        assert (after < before).all()


def test_the_state_goes_down_the_gradient_of_finite_differences():
    level, x = SCHEDULE.descent()[4].level, noise(4, *SHAPE[1:], seed=7)
    run = Run(network([MOVED], 2), make(), STEPS, TEXT_SCALE, Branches(2, 1, True))
    moved, _ = (
        Pix2PixZero(0.25).begin(run).predict(Request(x, level, TEXT_SCALE), SCHEDULE.descent()[4])
    )
    gradient = (x - moved)[2:] / 0.25
    assert torch.equal(moved[:2], x[:2])
    reference, h = reference_of(x[:2], level), 1e-5
    for seed in range(3):
        direction = noise(*SHAPE, seed=20 + seed)
        high, low = (
            energy(x[2:] + sign * h * direction, [MOVED], reference, level) for sign in (1, -1)
        )
        slope = (gradient * direction).flatten(1).sum(1)
        torch.testing.assert_close(slope, (high - low) / (2 * h), rtol=1e-6, atol=1e-9)


def test_separate_halves_predict_from_their_own_states_and_go_on_from_the_unconditional_one():
    step, x = SCHEDULE.descent()[4], noise(4, *SHAPE[1:], seed=7)
    predictor = network([MOVED], 2)
    run = Run(predictor, make(), STEPS, TEXT_SCALE, Branches(2, 1, True))
    moved, guided = (
        Pix2PixZero(0.25, Halves.SEPARATE)
        .begin(run)
        .predict(Request(x, step.level, TEXT_SCALE), step)
    )
    together, _ = Pix2PixZero(0.25).begin(run).predict(Request(x, step.level, TEXT_SCALE), step)
    unconditional, both = x[2:] - moved[2:], x[2:] - together[2:]
    conditional = x[2:] - (both - unconditional)
    negative = predictor.eps(moved[2:], step.level, Prompt.NEGATIVE)
    positive = predictor.eps(conditional, step.level, Prompt.POSITIVE)
    expected = negative + TEXT_SCALE * (positive - negative)
    torch.testing.assert_close(guided.eps[2:], expected, **EXACT)
    torch.testing.assert_close(guided.negative[2:], negative, **EXACT)
    # The unconditional half alone moves what the step goes on from.
    reference = reference_of(x[:2], step.level)
    direction, h = noise(*SHAPE, seed=8), 1e-5
    high, low = (
        energy(x[2:] + sign * h * direction, [MOVED], reference, step.level, (False,))
        for sign in (1, -1)
    )
    slope = (unconditional / 0.25 * direction).flatten(1).sum(1)
    torch.testing.assert_close(slope, (high - low) / (2 * h) / 2, rtol=1e-6, atol=1e-9)


@each_editor
def test_a_batch_of_two_is_two_singles(editor):
    trajectory = make()
    edits, source, _ = edit(trajectory, editor, MOVED)
    for row in range(2):
        single = Trajectory(trajectory.states[:, row : row + 1], SCHEDULE, IDENTITY)
        one, own, _ = edit(single, editor, MOVED)
        torch.testing.assert_close(edits[0, row : row + 1], one[0], **EXACT)
        torch.testing.assert_close(source[row : row + 1], own, **EXACT)


@each_editor
def test_two_targets_are_two_edits(editor):
    trajectory = make()
    both, source, _ = edit(trajectory, editor, MOVED, OTHER)
    for index, prompt in enumerate((MOVED, OTHER)):
        one, own, _ = edit(trajectory, editor, prompt)
        torch.testing.assert_close(both[index], one[0], **EXACT)
        torch.testing.assert_close(source, own, **EXACT)


@pytest.mark.parametrize(
    "guidance",
    [
        official_guidance(3.0, 300.0),
        fused_guidance(3.0, 300.0),
        NoiseMapGuidance(3.0, 300.0, Mode.FUSED, Gradient.FULL),
    ],
    ids=["official", "fused", "fused full"],
)
@each_editor
def test_it_goes_with_every_guidance(guidance, editor):
    trajectory = make()
    edits, source, _ = edit(trajectory, editor, SOURCE, guidance=guidance)
    torch.testing.assert_close(source, alone(trajectory, SOURCE, guidance), **EXACT)
    # The held source has other maps than the edit under the same prompt, which follows them.
    free = alone(trajectory, SOURCE)
    assert float((edits[0] - free).abs().max()) > 1e-6


@each_editor
def test_at_a_text_scale_of_one_only_the_text_counts(editor):
    trajectory = make()
    _, _, predictor = edit(trajectory, editor, MOVED, text_scale=1.0)
    assert predictor.rows == [2, 2, 2] * STEPS
    prompts = {call.prompt for call in predictor.calls if call.with_graph}
    assert prompts == {Prompt.POSITIVE}
    same, source, _ = edit(trajectory, editor, SOURCE, text_scale=1.0)
    torch.testing.assert_close(same[0], source, **EXACT)


@each_editor
def test_a_negative_prompt_of_another_length_does_not_matter(editor):
    edits, source, _ = edit(make(), editor, SOURCE, negative=noise(10, 4, seed=2))
    torch.testing.assert_close(edits[0], source, **EXACT)


def test_a_prompt_that_was_repeated_beside_a_longer_one_is_compared_once():
    """As the host has it: cond and uncond in one call have one length, alone each has its own."""
    layer, rows = toy_layers()[1][1], Branches(2, 1)
    q, k = (split_heads(each, 2) for each in (noise(2, 4, 4, seed=4), noise(2, 5, 4, seed=5)))

    def call(k):
        return call_to(
            layer, q, k, k, branches=rows, size=(2, 2), columns=(5,), attend=lambda q, k, v: q
        )

    for first, second in ((k.repeat(1, 1, 2, 1), k), (k, k.repeat(1, 1, 2, 1))):
        source = SourceAttention()
        source(call(first))
        distance = AttentionDistance(source, Half.COND)
        distance(call(second))
        assert float(distance.total()) == 0


def test_a_negative_in_parts_is_refused():
    class Twice(AttentiveNoise):
        def guided(self, request):
            x, level, _, rows, *_, attention, _ = request
            self.noise_under(x, level, Prompt.NEGATIVE, rows, attention)
            return super().guided(request)

    predictor = Twice(SOURCE, [MOVED], NEGATIVE, Branches(2, 1, True))
    with pytest.raises(InvalidInput, match="^negative has several parts"):
        sample(make(), predictor, PlainGuidance(), 3.0, editor=Pix2PixZero())


def test_a_model_that_is_cut_off_is_refused_with_what_to_do():
    class Cut(DetachedNoise):
        def guided(self, request):
            network([MOVED], 2).guided(request)
            return Guided(request.x, request.x)

    with pytest.raises(NotDifferentiable, match=r"attention_scale .*Got 0.1; .*to 0"):
        sample(make(), Cut(), PlainGuidance(), 3.0, editor=Pix2PixZero())


def test_a_cached_answer_without_attention_is_left_alone():
    """Nothing of the source was seen in this step, so there is nothing to follow."""

    class Cached(AttentiveNoise):
        def guided(self, request):
            return super().guided(request._replace(attention=None))

    trajectory = make()
    predictor = Cached(SOURCE, [MOVED], NEGATIVE, Branches(2, 1, True))
    result = sample(trajectory, predictor, PlainGuidance(), 3.0, editor=Pix2PixZero())
    torch.testing.assert_close(result.edit, alone(trajectory, MOVED), **EXACT)


def test_prompts_of_another_length_are_refused_with_both():
    Pix2PixZero().check(BranchPrompts.unknown((77, 77, 77)))
    with pytest.raises(InvalidInput, match=r"^positive .*Got 77, 154 columns; expected 77"):
        Pix2PixZero().check(BranchPrompts.unknown((77, 77, 154)))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"attention_scale": -1.0}, "attention_scale .*-1"),
        ({"attention_scale": math.inf}, "attention_scale .*inf"),
        ({"attention_scale": math.nan}, "attention_scale .*nan"),
        ({"halves": "both"}, "halves .*'both'.*'together' or 'separate'"),
        ({"start": 0.5, "end": 0.5}, "start and end .*0.5 to 0.5"),
        ({"end": 1.5}, "start and end .*1.5"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name_and_value(settings, named):
    with pytest.raises(InvalidInput, match=f"^{named}"):
        Pix2PixZero(**settings)


def test_a_choice_by_its_name_is_that_choice():
    assert Pix2PixZero(halves="separate") == Pix2PixZero(halves=Halves.SEPARATE)


def test_the_maps_of_stable_diffusion_at_512_pixels_are_those_of_the_papers():
    layers = [(4096, 8)] * 5 + [(1024, 8)] * 5 + [(256, 8)] * 5 + [(64, 8)]
    # Two float32 numbers per value of one half: 16.6 million values, half of the 33.2 of a step.
    assert map_bytes(layers, 77, 1) == 8 * 16_597_504
    assert map_bytes(layers, 77, 3) == 3 * map_bytes(layers, 77, 1)


def test_a_run_keeps_nothing_of_a_step():
    run = Run(network([MOVED], 2), make(), STEPS, TEXT_SCALE, Branches(2, 1, True))
    editing = Pix2PixZero().begin(run)
    before = set(vars(editing))
    step = SCHEDULE.descent()[0]
    editing.predict(Request(noise(4, *SHAPE[1:]), step.level, TEXT_SCALE), step)
    assert set(vars(editing)) == before
