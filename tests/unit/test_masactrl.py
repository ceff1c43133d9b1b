"""MasaCtrl: which layers and steps, whose keys and values, and object to object with masks."""

from dataclasses import replace

import pytest
import torch
from toys import IDENTITY, AttentiveNoise, call_to, noise, toy_layers, training_levels

from nmg_sampler import (
    Attends,
    AttentionLayer,
    Branches,
    Editor,
    EditorRun,
    Half,
    InvalidInput,
    PlainGuidance,
    Trajectory,
    UNetPlace,
    fused_guidance,
    invert,
    official_masactrl_schedule,
    sample,
)
from nmg_sampler.contract import BranchPrompts, apply_probabilities, probabilities, split_heads
from nmg_sampler.editors import (
    Counting,
    MasaCtrl,
    ObjectMaps,
    Regions,
    is_reached,
    mutual_attention,
    rows_of_edits,
)

SHAPE = (2, 4, 4, 4)
LATENT = SHAPE[2:]
STEPS = 6
SCHEDULE = official_masactrl_schedule(training_levels(), STEPS)
SOURCE, NEGATIVE = noise(5, 4, seed=1), noise(5, 4, seed=2)
TARGET, OTHER = noise(5, 4, seed=3), noise(10, 4, seed=4)
HEADS = 2
EVERYWHERE = {"start_layer": 0, "counting": "model"}
CLOSE = {"rtol": 0, "atol": 1e-12}


def make(shape=SHAPE):
    """A trajectory under the source prompt."""
    predictor = AttentiveNoise(SOURCE, [], NEGATIVE, Branches(shape[0], 0, True))
    states = invert(noise(*shape), SCHEDULE, predictor)
    return Trajectory(states, SCHEDULE, IDENTITY)


def edit(editor, targets=(TARGET,), trajectory=None, guidance=None, text_scale=3.0):
    """(targets, B, C, ...) edits and the source branch."""
    trajectory = trajectory or make()
    branches = Branches(trajectory.shape[0], len(targets), True)
    result = sample(
        trajectory,
        AttentiveNoise(SOURCE, targets, NEGATIVE, branches),
        guidance or PlainGuidance(),
        text_scale,
        targets=len(targets),
        editor=editor,
    )
    return result.edit.unflatten(0, (len(targets), -1)), result.source


class Neutral(Editor):
    """A source branch and nothing else."""

    def begin(self, run):
        return EditorRun(run)


def one_picture(trajectory, index):
    return Trajectory(trajectory.states[:, index : index + 1], SCHEDULE, IDENTITY)


def left(width, height=4, cells=4):
    """(1, 1, h, w): 1 in the leftmost columns."""
    mask = torch.zeros(1, 1, height, cells)
    mask[..., :width] = 1
    return mask


# ------------------------------------------------------------------ layers


def layers_of(places):
    factors = tuple(sorted({factor for _, factor in places}))
    return [
        AttentionLayer(index, len(places), Attends.SELF, factor, UNetPlace(stage, factors))
        for index, (stage, factor) in enumerate(places)
    ]


SD1 = layers_of(
    [("input", f) for f in (1, 1, 2, 2, 4, 4)]
    + [("middle", 8)]
    + [("output", f) for f in (4, 4, 4, 2, 2, 2, 1, 1, 1)]
)
SDXL = layers_of(
    [("input", f) for f in (2,) * 4 + (4,) * 20]
    + [("middle", 4)] * 10
    + [("output", f) for f in (4,) * 30 + (2,) * 6]
)
TOY = [own for own, _ in toy_layers()]


def reached(layers, start_layer, counting=Counting.SD1):
    return [layer.index for layer in layers if is_reached(layer, start_layer, counting)]


@pytest.mark.parametrize("start_layer", range(18))
def test_in_sd1_the_number_is_that_of_its_own_block(start_layer):
    expected = list(range(start_layer, 16))
    assert reached(SD1, start_layer) == expected
    assert reached(SD1, start_layer, Counting.MODEL) == expected


@pytest.mark.parametrize(
    ("start_layer", "first"),
    [(0, 0), (2, 0), (4, 4), (6, 24), (7, 34), (9, 34), (10, 64), (12, 64), (13, 70), (16, 70)],
)
def test_in_sdxl_the_number_means_the_place_that_it_has_in_sd1(start_layer, first):
    assert reached(SDXL, start_layer) == list(range(first, 70))


@pytest.mark.parametrize(("start_layer", "first"), [(0, 0), (2, 1), (6, 1), (7, 2), (15, 2)])
def test_in_a_small_network_as_well(start_layer, first):
    assert reached(TOY, start_layer) == list(range(first, 3))
    assert reached(TOY, 16) == []


def test_counting_by_the_model_takes_the_number_as_it_is():
    assert reached(SDXL, 54, Counting.MODEL) == list(range(54, 70))
    assert reached(TOY, 1, Counting.MODEL) == [1, 2]


# ------------------------------------------------------------------ runs


@pytest.mark.parametrize("start_step", [STEPS, STEPS + 5])
@pytest.mark.parametrize("options", [{}, {"words": (((1,), (1,)),)}], ids=["plain", "words"])
def test_a_start_after_the_last_step_changes_nothing(start_step, options):
    free, source = edit(Neutral())
    edits, same = edit(MasaCtrl(start_step, 0, **options))
    assert torch.equal(edits, free)
    assert torch.equal(source, same)


def test_before_its_start_there_is_no_edit_at_all():
    class Run:
        branches, total, trajectory = Branches(2, 1, True), STEPS, make((2, 4, 32, 32))

    editing = MasaCtrl(2, 0).begin(Run)
    asked = [editing.attention(step) is not None for step in SCHEDULE.descent()]
    assert asked == [False, False, True, True, True, True]
    editing = MasaCtrl(2, 0, words=(((1,), (1,)),)).begin(Run)
    first = editing.attention(SCHEDULE.descent()[0])
    wanted = [first.wants(layer) for pair in toy_layers() for layer in pair]
    # Words are looked for from the first step on, in the one layer nearest to a quarter.
    assert wanted == [False, False, False, True, False, False]


@pytest.mark.parametrize("text_scale", [1.0, 3.0])
@pytest.mark.parametrize("start_step", [0, 3])
def test_with_the_same_prompt_the_target_is_the_source_bit_for_bit(start_step, text_scale):
    editor = MasaCtrl(start_step, **EVERYWHERE)
    edits, source = edit(editor, [SOURCE, SOURCE], text_scale=text_scale)
    assert torch.equal(edits[0], source)
    assert torch.equal(edits[1], source)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"source_mask": left(2), "target_mask": left(1)},
        {"words": (((1,), (2,)),)},
    ],
    ids=["plain", "masks", "words"],
)
@pytest.mark.parametrize("guidance", [PlainGuidance(), fused_guidance(3.0, 300.0)], ids=str)
def test_the_source_is_what_it_is_alone_and_the_target_changes(options, guidance):
    free, source = edit(Neutral(), guidance=guidance)
    edits, same = edit(MasaCtrl(1, **EVERYWHERE, **options), guidance=guidance)
    torch.testing.assert_close(same, source, **CLOSE)
    assert not torch.allclose(edits, free, rtol=0, atol=1e-3)


def test_the_step_and_the_layer_decide_from_where_on_it_acts():
    seen = {
        (step, layer): edit(MasaCtrl(step, layer, Counting.MODEL))[0]
        for step in (0, 3)
        for layer in (0, 2)
    }
    results = list(seen.values())
    assert all(
        not torch.allclose(a, b, rtol=0, atol=1e-4)
        for i, a in enumerate(results)
        for b in results[:i]
    )


def test_masks_of_ones_are_no_masks():
    plain, _ = edit(MasaCtrl(1, **EVERYWHERE))
    ones = torch.ones(1, 1, 7, 5)
    masked, _ = edit(MasaCtrl(1, **EVERYWHERE, source_mask=ones, target_mask=ones))
    assert torch.equal(masked, plain)


@pytest.mark.parametrize("name", ["source_mask", "target_mask"])
def test_one_mask_alone_stands_for_both(name):
    alone, _ = edit(MasaCtrl(1, **EVERYWHERE, **{name: left(2)}))
    both, _ = edit(MasaCtrl(1, **EVERYWHERE, source_mask=left(2), target_mask=left(2)))
    plain, _ = edit(MasaCtrl(1, **EVERYWHERE))
    assert torch.equal(alone, both)
    assert not torch.allclose(alone, plain, rtol=0, atol=1e-4)


OPTIONS = {
    "plain": {},
    "masks": {"source_mask": torch.cat([left(2), left(1)]), "target_mask": left(3)},
    "words": {"words": (((1,), (2,)), ((1, 3), (0, 4)))},
}
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@each_option
def test_further_targets_change_nothing_for_each(options):
    both, source = edit(MasaCtrl(1, **EVERYWHERE, **options), [TARGET, OTHER])
    for index, prompt in enumerate((TARGET, OTHER)):
        own = {**options}
        if "words" in own:
            own["words"] = own["words"][index : index + 1]
        alone, same = edit(MasaCtrl(1, **EVERYWHERE, **own), [prompt])
        torch.testing.assert_close(both[index], alone[0], **CLOSE)
        torch.testing.assert_close(source, same, **CLOSE)


@each_option
def test_further_pictures_change_nothing_for_each(options):
    trajectory = make()
    both, _ = edit(MasaCtrl(1, **EVERYWHERE, **options), [TARGET, OTHER], trajectory)
    for index in range(2):
        own = {**options}
        if "source_mask" in own:
            own["source_mask"] = own["source_mask"][index : index + 1]
        editor = MasaCtrl(1, **EVERYWHERE, **own)
        alone, _ = edit(editor, [TARGET, OTHER], one_picture(trajectory, index))
        torch.testing.assert_close(both[:, index], alone[:, 0], **CLOSE)


def test_a_second_run_of_the_same_editor_is_the_first():
    editor = MasaCtrl(1, **EVERYWHERE, words=(((1,), (2,)),))
    assert torch.equal(edit(editor)[0], edit(editor)[0])


# ------------------------------------------------------------------ one layer with masks


def kernel(q, k, v):
    return apply_probabilities(probabilities(q, k), v)


def self_call(branches, size=(4, 4), dtype=torch.float64):
    cells = size[0] * size[1]
    q, k, v = (
        split_heads(noise(branches.rows, cells, 6, seed=seed, dtype=dtype), HEADS)
        for seed in (5, 6, 7)
    )
    return call_to(TOY[0], q, k, v, branches=branches, size=size, attend=kernel)


def explicit(q, k, v, allowed):
    """Attention over the allowed keys, (rows, keys) bool, by -inf in the logits."""
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    logits = logits.masked_fill(~allowed[:, None, None], -torch.inf)
    return logits.softmax(-1) @ v


def regions_of(source, target, branches):
    masks = rows_of_edits("a", source, branches), rows_of_edits("b", target, branches)
    return Regions.of(*masks)


def test_without_masks_all_rows_attend_to_the_sources_keys_and_values():
    branches = Branches(2, 3, True)
    call = self_call(branches)
    rows = torch.arange(8) % 2
    expected = explicit(call.q, call.k[rows], call.v[rows], torch.ones(8, 16, dtype=torch.bool))
    torch.testing.assert_close(mutual_attention(call), expected, **CLOSE)


@pytest.mark.parametrize("targets", [1, 2])
def test_masked_attention_is_the_softmax_over_each_side_mixed_by_the_target_mask(targets):
    """Two pictures, each with its own masks; the target's is soft."""
    branches = Branches(2, targets, True)
    call = self_call(branches)
    source = (noise(2, 1, 4, 4, seed=8) > 0).float()
    target = noise(2, 1, 4, 4, seed=9).sigmoid()
    got = mutual_attention(call, regions_of(source, target, branches))
    rows = torch.arange(branches.rows) % 2
    k, v = call.k[rows], call.v[rows]
    inside = source.flatten(1).bool()[rows]
    # As the masks are kept: in single precision.
    m = target.float().double().flatten(1)[rows][:, None, :, None]
    foreground, background = (explicit(call.q, k, v, side) for side in (inside, ~inside))
    expected = m * foreground + (1 - m) * background
    expected[:2] = explicit(call.q, k, v, inside | True)[:2]
    torch.testing.assert_close(got, expected, **CLOSE)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_a_source_is_all_one_side_its_rows_are_unmasked(value):
    """The first picture has no foreground, or no background; the second has both."""
    branches = Branches(2, 2, True)
    call = self_call(branches)
    source = torch.cat([torch.full((1, 1, 4, 4), value), left(2)])
    got = mutual_attention(call, regions_of(source, left(1), branches))
    plain = mutual_attention(call)
    torch.testing.assert_close(got[::2], plain[::2], **CLOSE)
    assert not torch.allclose(got[3::2], plain[3::2], rtol=0, atol=1e-3)


def test_both_sides_together_cost_one_attention():
    branches = Branches(1, 1, True)
    asked = []

    def counting(q, k, v):
        asked.append(len(q) * q.shape[2] * k.shape[2])
        return kernel(q, k, v)

    call = replace(self_call(branches), attend=counting)
    mutual_attention(call, regions_of(left(1), left(2), branches))
    assert sum(asked) == 2 * 16 * 16


def test_a_mask_of_any_size_covers_cells_by_area():
    """A cell is foreground if half of it is; the target's share is the covered part."""
    branches = Branches(1, 1, True)
    mask = torch.zeros(1, 1, 8, 12)
    mask[..., :5] = 1  # of cells three wide: one and two thirds
    groups, share = regions_of(mask, mask, branches).at((4, 4), torch.zeros(1))
    ((inside, outside),) = (group.sides for group in groups)
    assert inside.tolist() == [0, 1, 4, 5, 8, 9, 12, 13]
    assert sorted([*inside.tolist(), *outside.tolist()]) == list(range(16))
    torch.testing.assert_close(share[0, :4, 0], torch.tensor([1, 2 / 3, 0, 0]))


def test_half_precision_stays_half_precision():
    branches = Branches(1, 1, True)
    call = self_call(branches, dtype=torch.float16)
    assert mutual_attention(call, regions_of(left(1), left(2), branches)).dtype == torch.float16


# ------------------------------------------------------------------ masks from words


def cross_call(looks, columns, half=Half.COND):
    """A call in which branch b, query i attends to column `looks[b][i]` and hardly to others.

    Shorter prompts are repeated to the length of the longest.
    """
    longest = max(columns)
    k = torch.stack(
        [torch.eye(8).double()[:length].repeat(longest // length, 1) for length in columns]
    )
    q = torch.stack([60 * torch.eye(8).double()[torch.tensor(look)] for look in looks])
    branches = Branches(1, len(looks) - 1, True)
    layer = AttentionLayer(1, 3, Attends.CROSS, 4, UNetPlace("middle", (1, 4)))
    q, k = q[:, None], k[:, None]  # one head
    return call_to(
        layer, q, k, k, half=half, branches=branches, size=(2, 2), columns=columns, attend=kernel
    )


def test_masks_are_where_the_words_look_each_target_by_its_own_words():
    call = cross_call([[1, 1, 0, 0], [0, 2, 0, 2], [3, 0, 0, 5]], (3, 3, 6))
    maps = ObjectMaps((((1,), (2,)), ((0,), (3, 5))), LATENT)
    assert not maps.seen
    maps.add(call)
    source, target = maps.masks(0.1)
    assert source.flatten(1).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert target.flatten(1).tolist() == [[0, 1, 0, 1], [1, 0, 0, 1]]


def test_a_prompt_that_is_repeated_counts_once():
    """Prompts of unequal length share a call; attention is over the prompt itself, once."""
    short = cross_call([[1, 1, 0, 0], [1, 0, 0, 0]], (3, 3))
    repeated = cross_call([[1, 1, 0, 0], [1, 0, 0, 0]], (3, 6))
    sums = []
    for call in (short, repeated):
        maps = ObjectMaps((((1,), (1,)),), LATENT)
        maps.add(call)
        sums.append(maps.found.total[0])
    torch.testing.assert_close(*sums, **CLOSE)


def test_maps_add_up_and_the_threshold_is_between_minimum_and_maximum():
    maps = ObjectMaps((((1,), (1,)),), LATENT)
    for look in ([1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]):
        maps.add(cross_call([look, look], (3, 3)))
    for threshold, expected in (
        (0.9, [1, 0, 0, 0]),
        (0.5, [1, 1, 0, 0]),
        (0.1, [1, 1, 1, 0]),
        (0.0, [1, 1, 1, 1]),
    ):
        assert maps.masks(threshold)[0].flatten().tolist() == expected


def test_a_flat_map_shows_nothing():
    maps = ObjectMaps((((1,), (1,)),), LATENT)
    maps.add(cross_call([[1, 1, 1, 1]] * 2, (3, 3)))
    assert float(maps.masks(0.1)[0].sum()) == 0


def begin(editor):
    class Run:
        branches, total, trajectory = Branches(1, 1, True), STEPS, make()

    return editor.begin(Run)


def test_words_are_looked_for_in_earlier_steps_and_in_the_texts_half_alone():
    editing = begin(MasaCtrl(1, 0, words=(((1,), (1,)),)))
    first, second, third = SCHEDULE.descent()[:3]
    looks = [[1, 1, 0, 0], [1, 0, 1, 0]]
    early = editing.attention(first)
    early(cross_call(looks, (3, 3), half=Half.UNCOND))
    assert not editing.maps.seen
    early(cross_call(looks, (3, 3)))
    assert early.regions is None
    assert editing.attention(second).regions.source.flatten().tolist() == [1, 1, 0, 0]
    assert editing.attention(third).regions.target.flatten().tolist() == [1, 0, 1, 0]


def test_a_mask_that_is_given_wins_over_the_words():
    words = (((1,), (1,)),)
    editing = begin(MasaCtrl(0, 0, source_mask=left(1), words=words))
    editing.maps.add(cross_call([[1, 1, 0, 0], [1, 0, 1, 0]], (3, 3)))
    regions = editing.attention(SCHEDULE.descent()[1]).regions
    assert torch.equal(regions.source, left(1))
    assert regions.target.flatten().tolist() == [1, 0, 1, 0]
    both = begin(MasaCtrl(2, 0, source_mask=left(1), target_mask=left(2), words=words))
    assert both.attention(SCHEDULE.descent()[0]) is None


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_step": -1}, "^start_step .*Got -1"),
        ({"start_layer": -2}, "^start_layer .*Got -2"),
        ({"counting": "SDXL"}, "^counting .*Got 'SDXL'; expected 'SD 1.x' or 'model'"),
        ({"source_mask": torch.ones(4, 4)}, r"^source_mask .*Got \(4, 4\)"),
        ({"target_mask": torch.ones(1, 3, 4, 4)}, r"^target_mask .*Got \(1, 3, 4, 4\)"),
        ({"target_mask": torch.ones(1, 1, 0, 4)}, "^target_mask"),
        ({"source_mask": torch.full((1, 1, 2, 2), 1.5)}, "^source_mask .*Got 1.5 to 1.5"),
        ({"source_mask": torch.full((1, 1, 2, 2), torch.nan)}, "^source_mask .*Got nan"),
        ({"words": (((1,), ()),)}, "^mask_words are missing"),
        ({"mask_threshold": 1.1}, "^mask_threshold .*Got 1.1"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_with_what_was_got(options, message):
    with pytest.raises(InvalidInput, match=message):
        MasaCtrl(**options)


def test_masks_for_another_number_of_pictures_are_refused():
    with pytest.raises(InvalidInput, match="^source_mask .*Got 3 masks for 2 pictures"):
        edit(MasaCtrl(source_mask=torch.ones(3, 1, 4, 4)))


def test_words_of_other_prompts_are_refused():
    editor = MasaCtrl(words=(((1,), (80,)),))
    editor.check(BranchPrompts.unknown((77, 154)))
    with pytest.raises(InvalidInput, match="words for 1, and 2 in positive"):
        editor.check(BranchPrompts.unknown((77, 154, 154)))
    with pytest.raises(InvalidInput, match="column 80 of 77"):
        editor.check(BranchPrompts.unknown((77, 77)))
    MasaCtrl().check(BranchPrompts.unknown((77, 77, 77)))
