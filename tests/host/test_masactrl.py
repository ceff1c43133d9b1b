"""MasaCtrl through its node: the host's own kernel, masks of pixels, words of the demo model."""

import importlib
from contextlib import contextmanager
from math import prod

import numpy as np
import pytest
import torch
from host_models import first, parity_network, random_latent, random_prompt, relative
from host_nodes import guidance
from torch.nn.functional import interpolate
from torch.utils._python_dispatch import TorchDispatchMode

from demo import scenes

STEPS = 4
RUN = 1e-4  # float32 rounding of a whole run
SHAPE = (1, 4, 16, 16)
SCENE = 24
SOURCE = "a yellow triangle on a striped blue background"
TARGET = "a yellow circle on a striped blue background"


@pytest.fixture(scope="module")
def node(pack):
    return importlib.import_module("nmg_pack.nodes.editors.masactrl").NMGMasaCtrl


@pytest.fixture(scope="module")
def masactrl(pack):
    return importlib.import_module("nmg_pack.nmg_sampler.editors.masactrl")


@pytest.fixture(scope="module")
def model(pack):
    with torch.inference_mode():
        return parity_network("sd4")


def prompt(seed):
    return random_prompt(seed, width=64)


def invert(nodes, model, positive, latent):
    return first(
        nodes["NMGInvert"].execute(
            model, positive, latent, steps=STEPS, schedule="official-masactrl"
        )
    )


@pytest.fixture
def trajectory(nodes, model):
    return invert(nodes, model, prompt(1), random_latent(SHAPE))


@pytest.fixture
def demo_trajectory(nodes, demo, encode):
    picture, caption = nodes["NMGDemoPicture"].execute(SCENE).result
    assert caption == SOURCE
    latent = {"samples": demo[2].encode(picture[..., :3])}
    return invert(nodes, demo[0], encode(SOURCE), latent)


def edit(nodes, model, trajectory, editor=None, positive=None, negative=None, **inputs):
    """(edit, source), without noise map guidance unless asked for."""
    arguments = {
        "text_scale": 3.0,
        "noise_map_scale": 0.0,
        "gradient_scale": 5000.0,
        "mode": "fused",
        **inputs,
    }
    output = nodes["NMGSample"].execute(
        model,
        trajectory,
        positive=positive or prompt(2),
        negative=negative or prompt(3),
        editor=editor,
        **arguments,
    )
    return tuple(latent["samples"] for latent in output.result)


def white(left, height=128, width=128):
    """A MASK, white in the leftmost columns of pixels."""
    mask = torch.zeros(1, height, width)
    mask[..., :left] = 1
    return mask


# ------------------------------------------------------------------ a network of SD 1.x's build


def test_a_start_after_the_last_step_or_layer_changes_nothing(nodes, node, model, trajectory):
    free, _ = edit(nodes, model, trajectory)
    for place in ((STEPS, 10), (0, 16)):
        edits, _ = edit(nodes, model, trajectory, first(node.execute(*place)))
        assert relative(edits, free) < RUN


def test_with_the_same_prompt_the_edit_is_the_source_bit_for_bit(nodes, node, model, trajectory):
    editor = first(node.execute(1, 0))
    edits, source = edit(nodes, model, trajectory, editor, prompt(1))
    assert torch.equal(edits, source)


def test_the_source_is_what_it_is_alone_and_the_edit_changes(nodes, node, model, trajectory):
    free, _ = edit(nodes, model, trajectory)
    own, _ = edit(nodes, model, trajectory, positive=prompt(1))
    for masks in ({}, {"source_mask": white(64), "target_mask": white(32)}):
        edits, source = edit(nodes, model, trajectory, first(node.execute(1, 10, **masks)))
        assert relative(source, own) < RUN
        assert relative(edits, free) > 0.01


def test_white_masks_are_no_masks(nodes, node, model, trajectory):
    plain, _ = edit(nodes, model, trajectory, first(node.execute(1, 10)))
    masks = {"source_mask": torch.ones(1, 50, 70), "target_mask": torch.ones(16, 16)}
    masked, _ = edit(nodes, model, trajectory, first(node.execute(1, 10, **masks)))
    assert torch.equal(masked, plain)
    halves = {"source_mask": white(64), "target_mask": white(64)}
    divided, _ = edit(nodes, model, trajectory, first(node.execute(1, 10, **halves)))
    assert relative(divided, plain) > 1e-3


class Shapes(TorchDispatchMode):
    """Keeps the shapes of all tensors that are made while it is on."""

    def __init__(self):
        super().__init__()
        self.on = False
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if self.on:
            made = result if isinstance(result, list | tuple) else [result]
            self.seen += [tuple(t.shape) for t in made if isinstance(t, torch.Tensor)]
        return result

    @contextmanager
    def looking(self, on):
        before, self.on = self.on, on
        try:
            yield
        finally:
            self.on = before


@pytest.mark.parametrize("masks", [{}, {"source_mask": white(40)}], ids=["plain", "masks"])
def test_only_the_hosts_own_kernel_knows_queries_times_keys(
    nodes, node, masactrl, model, trajectory, monkeypatch, masks
):
    """The editor makes no such tensor itself, and asks for no more of them than plain attention."""
    attention = importlib.import_module("nmg_pack.nodes.host.network.unet_door")
    shapes, work, layers, made = Shapes(), [], [], []
    kernel, edited = attention.optimized_attention, masactrl.mutual_attention

    def counting(q, k, v, *args, **options):
        work.append((len(q), q.shape[1], k.shape[1]))
        with shapes.looking(False):
            return kernel(q, k, v, *args, **options)

    def watched(call, regions):
        layers.append(call)
        with shapes.looking(True):
            result = edited(call, regions)
        made.append((call.layer.factor, max(map(prod, shapes.seen))))
        shapes.seen.clear()
        return result

    monkeypatch.setattr(attention, "optimized_attention", counting)
    monkeypatch.setattr(masactrl, "mutual_attention", watched)
    with shapes:
        edit(nodes, model, trajectory, first(node.execute(1, 10, **masks)))
    # Blocks 10 to 15, in the steps 1, 2, 3, for both halves.
    assert [call.layer.index for call in layers] == [
        index for index in range(10, 16) for _ in range(2)
    ] * (STEPS - 1)
    total = sum(rows * queries * keys for rows, queries, keys in work)
    assert total == sum(len(call.q) * call.q.shape[2] ** 2 for call in layers)
    # One head's map of one row alone would be 256 x 256 in the finest layers.
    assert max(size for factor, size in made if factor == 1) < 256**2 / 2


@pytest.mark.parametrize("mode", ["official", "fused"])
@pytest.mark.parametrize("gradient", ["full", "direct"])
def test_it_goes_with_every_way_of_holding_the_source(
    nodes, node, model, trajectory, mode, gradient
):
    method = guidance(nodes, mode=mode, gradient=gradient, loss="l2", gradient_scale=200.0)
    edits, source = edit(nodes, model, trajectory, first(node.execute(1, 10)), guidance=method)
    own, _ = edit(nodes, model, trajectory, positive=prompt(1), guidance=method)
    assert relative(source, own) < RUN
    assert torch.isfinite(edits).all()


def test_two_pictures_with_a_mask_each_are_as_alone(nodes, node, model):
    latent = random_latent((2, *SHAPE[1:]))
    masks = torch.cat([white(40), white(90)])
    trajectory = invert(nodes, model, prompt(1), latent)
    both, _ = edit(nodes, model, trajectory, first(node.execute(1, 10, source_mask=masks)))
    for index in range(2):
        own = invert(nodes, model, prompt(1), {"samples": latent["samples"][index, None]})
        editor = first(node.execute(1, 10, source_mask=masks[index, None]))
        alone, _ = edit(nodes, model, own, editor)
        assert relative(both[index, None], alone) < RUN


def test_masks_for_another_number_of_pictures_are_refused(nodes, node, model, trajectory, library):
    editor = first(node.execute(1, 10, source_mask=torch.ones(3, 8, 8)))
    with pytest.raises(library.InvalidInput, match="3 masks for 1 pictures"):
        edit(nodes, model, trajectory, editor)


def test_a_mask_that_is_no_number_is_refused_with_the_nodes_name(node, library):
    with pytest.raises(library.InvalidInput, match="^MasaCtrl: source_mask"):
        node.execute(1, 10, source_mask=torch.full((1, 8, 8), torch.nan))


# ------------------------------------------------------------------ the demo model


@pytest.fixture
def make(node, demo):
    """The node's editor with words for its masks."""

    def call(words, target=TARGET, source=SOURCE, start_step=1, **settings):
        texts = {"clip": demo[1], "source_prompt": source, "target_prompt": target}
        return first(node.execute(start_step, 7, mask_words=words, **texts, **settings))

    return call


def under(encode, *texts):
    """Prompts of the demo model, a row for each."""
    positive = [[torch.cat([encode(text)[0][0] for text in texts]), {}]]
    return {"positive": positive, "negative": encode("")}


def test_words_find_the_object_in_the_picture(
    nodes, demo, demo_trajectory, encode, make, masactrl, monkeypatch
):
    found = []
    regions = masactrl.Regions

    class Keeping(regions):
        def __init__(self, source, target):
            super().__init__(source, target)
            found.append(source)

    monkeypatch.setattr(masactrl, "Regions", Keeping)
    editor = make("triangle, circle", mask_threshold=0.5)
    edit(nodes, demo[0], demo_trajectory, editor, **under(encode, TARGET))
    scene = scenes.random_scene(np.random.default_rng(SCENE))
    coverage = torch.from_numpy(scenes.coverage(scene)).float().reshape(1, 1, 128, 128)
    true = interpolate(coverage, (16, 16), mode="area") >= 0.5
    mask = found[-1] > 0
    assert len(found) == STEPS - 1
    assert float(mask[true].float().mean()) > 0.9
    assert float(mask[~true].float().mean()) < 0.1


def test_words_change_the_edit_and_the_same_editor_gives_it_twice(
    nodes, demo, demo_trajectory, encode, make
):
    prompts = under(encode, TARGET)
    plain, _ = edit(nodes, demo[0], demo_trajectory, make(""), **prompts)
    editor = make("triangle, circle", mask_threshold=0.5)
    edits = [edit(nodes, demo[0], demo_trajectory, editor, **prompts)[0] for _ in range(2)]
    assert torch.equal(*edits)
    assert relative(edits[0], plain) > 1e-3


@pytest.mark.parametrize("words", ["triangle, circle\ntriangle, star", "yellow"])
def test_several_lines_are_several_edits_with_their_own_words(
    nodes, demo, demo_trajectory, encode, make, words
):
    texts = [TARGET, TARGET.replace("circle", "star")]
    editor = make(words, "\n".join(texts), mask_threshold=0.5)
    both, source = edit(nodes, demo[0], demo_trajectory, editor, **under(encode, *texts))
    lines = words.split("\n") * (1 if "\n" in words else 2)
    for index, (text, word) in enumerate(zip(texts, lines, strict=True)):
        own = make(word, text, mask_threshold=0.5)
        alone, same = edit(nodes, demo[0], demo_trajectory, own, **under(encode, text))
        assert relative(both[index, None], alone) < RUN
        assert relative(source, same) < RUN


@pytest.mark.parametrize(
    ("words", "settings", "named"),
    [
        ("kitten", {}, "kitten"),
        ("triangle", {}, r"mask_words \(target prompt\) .*'triangle'"),
        ("triangle, circle, star", {}, "mask_words"),
        ("yellow\nyellow", {}, "2 lines for 1 target prompts"),
        ("yellow", {"source": ""}, "the prompt is empty"),
    ],
)
def test_words_that_are_not_there_are_errors_with_the_nodes_name(
    make, library, words, settings, named
):
    with pytest.raises(library.InvalidInput, match=named) as error:
        make(words, **settings)
    assert str(error.value).startswith("MasaCtrl: ")


def test_words_want_a_clip_or_prompts_that_know_them_but_not_where_both_masks_are_given(
    nodes, node, library, model, trajectory
):
    texts = {"source_prompt": "a cat", "target_prompt": "a dog"}
    with pytest.raises(library.InvalidInput, match="^MasaCtrl: clip .*Got nothing"):
        node.execute(1, 10, mask_words="cat", **texts)
    editor = first(node.execute(1, 10, mask_words="cat"))
    with pytest.raises(library.InvalidInput, match="MasaCtrl was given no texts.*NMG Prompts"):
        edit(nodes, model, trajectory, editor)
    masks = {"source_mask": white(64), "target_mask": white(64)}
    assert first(node.execute(1, 10, mask_words="cat", **texts, **masks)).words == ()


def test_words_of_other_prompts_are_refused_before_anything_runs(
    nodes, demo, demo_trajectory, encode, make, library
):
    editor = make("yellow", f"{TARGET}\n{SOURCE}")
    with pytest.raises(library.InvalidInput, match="words for 2, and 1 in positive"):
        edit(nodes, demo[0], demo_trajectory, editor, **under(encode, TARGET))
