"""Advice on a node: a line where inputs run and seldom give what was meant, and else nothing."""

import importlib
import logging
from types import SimpleNamespace

import pytest
import torch
from host_models import conditioning, first, random_latent, random_prompt, random_tensor, relative
from host_nodes import guidance

pytestmark = pytest.mark.host_surface

SHAPE = (1, 4, 8, 8)
BLACK, WHITE = torch.zeros(1, 64, 64), torch.ones(1, 64, 64)
DOT = torch.zeros(1, 64, 64)
DOT[0, 30, 30] = 0.5
STEPS = 10


@pytest.fixture
def told(nodes, caplog):
    """What a node says beside its results, in its `ui` and in the log alike: a list of lines."""

    def call(node, **inputs):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            ui = nodes[node].execute(**inputs).ui or {}
        lines = list(ui.get("text", ()))
        name = nodes[node].define_schema().display_name
        assert [r.getMessage() for r in caplog.records] == [f"{name}: {line}" for line in lines]
        return lines

    return call


def inversion(model, **latent):
    return {
        "model": model,
        "positive": random_prompt(1),
        "latent_image": random_latent(SHAPE, **latent),
        "steps": 4,
        "schedule": "official-masactrl",
    }


@pytest.fixture
def trajectory(nodes, model):
    return first(nodes["NMGInvert"].execute(**inversion(model)))


@pytest.fixture
def sampling(model, vae, trajectory):
    """Inputs of NMG Sample and its kin, by node."""

    def inputs(node, **changed):
        given = {
            "model": model,
            "trajectory": trajectory,
            "positive": random_prompt(2),
            "negative": random_prompt(3),
            "text_scale": 3.0,
            "noise_map_scale": 1.5,
            "gradient_scale": 5.0,
            "mode": "fused",
            **changed,
        }
        if node == "NMGSweep":
            sweep = {"rows": "text_scale", "row_values": "3", "columns": "noise_map_scale"}
            given |= {"vae": vae, **sweep, "column_values": "0"}
        return given

    return inputs


KIN = pytest.mark.parametrize("node", ["NMGSample", "NMGGuider", "NMGSweep"])


# Masks.


@KIN
def test_a_mask_of_nothing_is_said(told, sampling, node):
    (line,) = told(node, **sampling(node, mask=BLACK))
    assert line.startswith("mask is black everywhere, so nothing changes.")
    for mask in (None, DOT, WHITE):
        assert told(node, **sampling(node, mask=mask)) == []


@KIN
def test_a_noise_mask_of_nothing_is_said_wherever_it_travels(nodes, told, model, sampling, node):
    for mask, count in ((BLACK, 1), (DOT, 0)):
        masked = first(nodes["NMGInvert"].execute(**inversion(model, noise_mask=mask)))
        lines = told(node, **sampling(node, trajectory=masked))
        assert len(lines) == count
        assert all(line.startswith("The noise mask of the latent is black") for line in lines)


@pytest.mark.parametrize("node", ["NMGInvert", "NMGEditFriendly"])
def test_a_noise_mask_of_nothing_is_said_where_the_picture_is_inverted(told, model, node):
    more = {}
    if node == "NMGEditFriendly":
        more = {"negative": random_prompt(3), "source_scale": 1.0, "skip": 1, "seed": 0}
    (line,) = told(node, **inversion(model, noise_mask=BLACK), **more)
    assert "black everywhere" in line
    assert told(node, **inversion(model, noise_mask=DOT), **more) == []
    assert told(node, **inversion(model), **more) == []


@pytest.mark.parametrize("name", ["source_mask", "target_mask"])
def test_a_mask_of_nothing_is_said_by_masactrl(told, name):
    settings = {"start_step": 1, "start_layer": 1}
    (line,) = told("NMGMasaCtrl", **settings, **{name: BLACK})
    assert line.startswith(f"{name} is black everywhere, so it parts nothing.")
    assert told("NMGMasaCtrl", **settings, **{name: DOT}) == []
    assert told("NMGMasaCtrl", **settings) == []


def composite(picture, **inputs):
    return {"original": picture, "edited": 1 - picture, "grow": 0, "feather": 0, **inputs}


PICTURE = random_tensor((1, 64, 64, 3), 5).sigmoid()


def test_a_mask_of_nothing_is_said_by_composite_original(told):
    (line,) = told("NMGCompositeOriginal", **composite(PICTURE, mask=BLACK))
    assert line.startswith("mask is black everywhere, so it takes nothing of the edit.")
    (line,) = told("NMGCompositeOriginal", **composite(PICTURE, mask=DOT, words=BLACK))
    assert line.startswith("words is black")
    assert told("NMGCompositeOriginal", **composite(PICTURE, mask=DOT, words=DOT)) == []


# Pictures.


def emptied(channels=3, value=0.0):
    """The picture as the mask editor may leave it, and its mask."""
    mask = torch.zeros(1, 64, 64)
    mask[:, 8:30, 8:40] = 1
    picture = PICTURE.clone()
    picture[mask == 1] = value
    if channels == 4:
        picture = torch.cat([picture, 1 - mask[..., None]], -1)
    return picture, mask


def pairs(picture, mask):
    return {
        "NMGPadToGrid": {"image": picture, "multiple": 8, "mask": mask},
        "NMGCompositeOriginal": composite(picture, mask=mask),
    }


BOTH = pytest.mark.parametrize("node", ["NMGPadToGrid", "NMGCompositeOriginal"])


@BOTH
@pytest.mark.parametrize("channels", [3, 4])
def test_a_picture_that_the_mask_editor_emptied_is_said(told, node, channels):
    (line,) = told(node, **pairs(*emptied(channels))[node])
    assert "is black (exactly 0) everywhere under the mask" in line
    # One of a batch is enough.
    picture, mask = emptied()
    batch = torch.cat([PICTURE, picture]), torch.cat([mask, mask])
    assert len(told(node, **pairs(*batch)[node])) == 1


@BOTH
def test_a_picture_that_is_there_under_the_mask_is_not(told, node):
    nearly, mask = emptied(value=1 / 255)
    spared, _ = emptied()
    spared[0, 20, 20] = 0.5
    dark = torch.zeros_like(PICTURE)
    for picture in (PICTURE, nearly, spared, dark):
        assert told(node, **pairs(picture, mask)[node]) == []
    assert told(node, **pairs(PICTURE, DOT)[node]) == []


def test_without_a_mask_nothing_is_said_of_a_picture(told):
    assert told("NMGPadToGrid", image=emptied()[0], multiple=8) == []


# Scales, and the demo model as the judge of them.


@pytest.fixture(scope="module")
def scene(nodes, demo, encode):
    """(trajectory of a demo picture, its caption, its latent)"""
    picture, caption = nodes["NMGDemoPicture"].execute(24).result
    with torch.inference_mode():
        latent = {"samples": demo[2].encode(picture[..., :3])}
        made = nodes["NMGInvert"].execute(
            demo[0], encode(caption), latent, steps=STEPS, schedule="official-masactrl"
        )
    return first(made), caption, latent["samples"]


@pytest.fixture
def back(nodes, demo, encode, scene):
    """The picture under its own prompt: (how far it is from the picture, lines of advice)."""
    trajectory, caption, latent = scene

    def call(text_scale, noise_map_scale, mode="official"):
        output = nodes["NMGSample"].execute(
            *(demo[0], trajectory, encode(caption), encode("")),
            text_scale=float(text_scale),
            noise_map_scale=float(noise_map_scale),
            gradient_scale=5000.0,
            mode=mode,
        )
        return relative(first(output)["samples"], latent), list(output.ui.get("text", ()))

    return call


def test_a_noise_map_scale_that_breaks_the_picture_is_said_and_one_that_holds_it_is_not(back):
    error, lines = back(3, 2 * STEPS)
    assert error < 0.5
    assert lines == []
    error, (line,) = back(3, 8 * STEPS)
    assert error > 5
    assert line.startswith("noise_map_scale 80 overshoots at 10 steps")


def test_a_text_scale_that_breaks_the_picture_is_said_and_one_that_does_not_is_not(back):
    error, lines = back(5, 0, "fused")
    assert error < 1
    assert lines == []
    error, (line,) = back(50, 0, "fused")
    assert error > 3
    assert line.startswith("text_scale 50 is much for 10 steps")


@pytest.fixture(scope="module")
def advice(pack):
    return importlib.import_module("nmg_pack.nodes.host.runs.advice")


def of_steps(steps):
    """As much of a trajectory as the advice on scales reads."""
    return SimpleNamespace(schedule=SimpleNamespace(descent=lambda: range(steps)))


MOST = [  # steps, mode, masked, the most noise_map_scale without a word
    (20, "fused", False, 60),
    (50, "fused", False, 150),
    (50, "official", False, 250),
    (20, "fused", True, 6),
    (50, "official", True, 25),
]


@pytest.mark.parametrize(("steps", "mode", "masked", "most"), MOST)
def test_the_most_hold_of_a_step(nodes, advice, steps, mode, masked, most):
    def lines(scale, editor=None, **more):
        method = guidance(nodes, mode=mode, noise_map_scale=float(scale), **more)
        mask = DOT if masked else None
        return advice.about_scales(of_steps(steps), method, 3.0, mask, editor)

    assert lines(most) == []
    (line,) = lines(1.1 * most)
    assert f"at most {most:.3g} here" in line
    assert lines(1.1 * most, gradient_scale=2500.0) == []
    # With an editor the source branch is held, and the edit is not; l2 pushes by other numbers.
    assert lines(1000, editor=object()) == []
    assert lines(1000, loss="l2") == []


@pytest.mark.parametrize(("steps", "most"), [(4, 5), (10, 8), (20, 16), (50, 40), (64, 51.2)])
def test_the_most_text_of_a_step(nodes, advice, steps, most):
    plain = first(nodes["NMGPlainGuidance"].execute())

    def lines(text_scale):
        return advice.about_scales(of_steps(steps), plain, text_scale, None, None)

    assert lines(most) == []
    assert f"{most:g} about the most" in lines(1.01 * most)[0]


@KIN
def test_what_the_nodes_ship_with_is_no_matter_of_advice(nodes, advice, node):
    defaults = {one.id: getattr(one, "default", None) for one in nodes[node].GET_SCHEMA().inputs}
    method = guidance(
        nodes, mode=defaults["mode"], noise_map_scale=defaults["noise_map_scale"], loss="l1"
    )
    for steps in (8, 20, 50):
        for mask in (None, DOT):
            found = advice.about_scales(of_steps(steps), method, defaults["text_scale"], mask, None)
            assert found == []


# Prompts.


@pytest.fixture
def exchanged(advice, nodes, encode):
    """The lines about three texts."""
    plain = first(nodes["NMGPlainGuidance"].execute())

    def call(source, positive, negative, text_scale=3.0, method=None):
        texts = (encode(text) for text in (source, positive, negative))
        return advice.about_prompts(*texts, method or plain, text_scale)

    return call


SOURCE = "a yellow triangle on a striped blue background"
TARGET = "a green triangle on a striped blue background"
OTHER = "there is a white cross on a plain purple background"


@pytest.mark.parametrize("negative", [SOURCE, TARGET])
def test_prompts_that_look_exchanged_are_said(exchanged, negative):
    (line,) = exchanged(SOURCE, "", negative)
    assert "If the two are exchanged" in line


@pytest.mark.parametrize("positive", [SOURCE, TARGET, OTHER, ""])
@pytest.mark.parametrize("negative", ["", "ugly, blurry"])
def test_prompts_as_they_should_be_are_not(exchanged, positive, negative):
    assert exchanged(SOURCE, positive, negative) == []


def test_the_source_prompt_on_both_is_a_reconstruction(exchanged):
    assert exchanged(SOURCE, SOURCE, SOURCE) == []


def test_a_negative_prompt_that_does_nothing_is_not_spoken_of(exchanged, nodes):
    assert exchanged(SOURCE, "", TARGET, text_scale=1.0) == []
    method = first(nodes["NMGNegativePrompt"].execute(0.0))
    assert exchanged(SOURCE, "", TARGET, method=method) == []


def test_prompts_that_cannot_be_compared_are_not(advice, nodes):
    plain = first(nodes["NMGPlainGuidance"].execute())
    source, other = random_prompt(1), random_prompt(2)
    longer = random_prompt(1, tokens=14)
    for negative in (longer, source + other, [], conditioning(None)):
        assert advice.about_prompts(source, other, negative, plain, 3.0) == []


@KIN
def test_exchanged_prompts_are_said_on_the_node(told, sampling, node):
    swapped = {"positive": random_prompt(3), "negative": random_prompt(1)}
    (line,) = told(node, **sampling(node, **swapped))
    assert line.startswith("negative is nearer to the source prompt")
    assert told(node, **sampling(node)) == []


# Where it is shown.


@pytest.fixture
def speaking(pack, monkeypatch):
    """(advise, what it showed): of a node with an id in the interface."""
    module = importlib.import_module("nmg_pack.nodes.host.api.advice")
    shown = []
    monkeypatch.setattr(module, "show_text", lambda node, text: shown.append(text))
    monkeypatch.setattr(module, "_SHOWING", set())
    return module, shown


def node_of(unique_id, prompt=None):
    return SimpleNamespace(hidden=SimpleNamespace(unique_id=unique_id, prompt=prompt))


def test_advice_leaves_the_node_when_it_no_longer_holds(speaking):
    module, shown = speaking
    module.advise(node_of("1"), "NMG Sample", [])
    assert shown == []
    assert module.advise(node_of("1"), "NMG Sample", ["one", "two"]) == {"text": ("one", "two")}
    assert module.advise(node_of("2"), "NMG Sample", []) == {}
    assert shown == ["one\ntwo"]
    for _ in range(2):
        module.advise(node_of("1"), "NMG Sample", [])
    assert shown == ["one\ntwo", " "]


def test_a_wire_into_vae_decode_is_found(speaking):
    module, _ = speaking
    graph = {
        "7": {"class_type": "NMGInvert", "inputs": {"steps": 4}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["7", 1], "vae": ["1", 2]}},
    }
    kinds = ("VAEDecode",)
    assert module.is_fed_to(node_of("7", graph), 1, kinds)
    assert not module.is_fed_to(node_of("7", graph), 0, kinds)
    assert not module.is_fed_to(node_of("8", graph), 1, kinds)
    assert not module.is_fed_to(node_of("7", graph), 1, ("KSamplerAdvanced",))
    assert not module.is_fed_to(SimpleNamespace(hidden=None), 1, kinds)
