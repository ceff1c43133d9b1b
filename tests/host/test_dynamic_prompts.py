"""Choices and comments: drawn by the interface where a node encodes, refused where nobody drew."""

import importlib

import pytest
import torch
from host_models import first

pytestmark = pytest.mark.host_surface

PLAIN = "a red triangle"
# What ComfyUI's interface changes in the box of CLIP Text Encode.
CHANGED = {
    "a {red|green} triangle": "a choice in braces",
    "a {red triangle|{big} star": "a choice in braces",
    "{{big}|small} triangle": "a choice in braces",
    "a {red|green": "a choice in braces",
    "a red triangle // as in the paper": "a comment",
    "// the first\na red triangle": "a comment",
    "a red /* not\ngreen */ triangle": "a comment",
    r"a \{red\} triangle": "an escaped brace",
    r"a red\|green triangle": "an escaped brace",
}
# What it leaves as it is, or makes of an escaped brace.
KEPT = ["a red|green triangle", "red } triangle", "1/2 triangle /*", "(red:1.2) /\\ triangle"]
BRACES = "a {red} triangle"


@pytest.fixture(params=["NMGPrompts", "NMGEditDirection"])
def encode(request, nodes, demo):
    """A node that encodes a text."""
    inputs = {
        "NMGPrompts": lambda text: {"text": text},
        "NMGEditDirection": lambda text: {"source_sentences": PLAIN, "target_sentences": text},
    }[request.param]
    return lambda text: nodes[request.param].execute(clip=demo[1], **inputs(text))


@pytest.fixture(params=["Prompt-to-Prompt", "MasaCtrl"])
def told(request, nodes, demo):
    """A node whose texts must be those of another node, as (source text, target text)."""

    def prompt_to_prompt(source, target):
        return nodes["NMGPromptToPrompt"].execute(
            clip=demo[1],
            source_prompt=source,
            target_prompt=target,
            mode="auto",
            cross_replace=0.8,
            self_replace=0.5,
            blend_words="",
            reweight="",
        )

    def masactrl(source, target):
        texts = {"source_prompt": source, "target_prompt": target, "clip": demo[1]}
        return nodes["NMGMasaCtrl"].execute(4, 10, mask_words="triangle", **texts)

    return {"Prompt-to-Prompt": prompt_to_prompt, "MasaCtrl": masactrl}[request.param]


@pytest.mark.parametrize("node", ["NMGPrompts", "NMGEditDirection"])
def test_what_a_node_encodes_the_interface_resolves_as_for_clip_text_encode(nodes, node):
    theirs = importlib.import_module("nodes").CLIPTextEncode.INPUT_TYPES()["required"]["text"][1]
    described = nodes[node].GET_NODE_INFO_V1()["input"]["required"]
    texts = [options for kind, options in described.values() if kind == "STRING"]
    assert texts
    for options in texts:
        assert theirs["dynamicPrompts"] is options["dynamicPrompts"] is True


@pytest.mark.parametrize("node", ["NMGPromptToPrompt", "NMGMasaCtrl", "NMGAttentionMaps"])
def test_what_must_be_another_nodes_text_is_not_drawn_a_second_time(nodes, node):
    described = nodes[node].GET_NODE_INFO_V1()["input"]
    texts = [
        each
        for group in described.values()
        for each in group.values()
        if isinstance(each, (list, tuple)) and each[0] == "STRING"
    ]
    assert texts
    assert not any(options.get("dynamicPrompts") for _, options in texts)


@pytest.mark.parametrize(("text", "found"), CHANGED.items())
def test_what_nothing_resolved_is_refused_where_it_is_encoded(encode, library, text, found):
    with pytest.raises(library.InvalidInput, match=f"has {found} that nothing has resolved") as got:
        encode(text)
    assert repr(text) in str(got.value)


@pytest.mark.parametrize("text", [*KEPT, BRACES])
def test_what_the_interface_leaves_is_encoded_as_clip_text_encode_does(nodes, demo, text):
    ((ours, _),) = first(nodes["NMGPrompts"].execute(demo[1], text))
    ((theirs, _),) = importlib.import_module("nodes").CLIPTextEncode().encode(demo[1], text)[0]
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("text", "found"), [*CHANGED.items(), (BRACES, "a brace")])
@pytest.mark.parametrize("place", ["source_prompt", "target_prompt"])
def test_a_text_that_the_encoding_node_changes_is_refused(told, library, text, found, place):
    texts = (text, PLAIN) if place == "source_prompt" else (PLAIN, text)
    with pytest.raises(library.InvalidInput, match=f"{place} has {found}.*NMG Prompts") as got:
        told(*texts)
    assert repr(text) in str(got.value)


@pytest.mark.parametrize("text", KEPT)
def test_a_text_that_no_node_changes_is_taken(told, text):
    assert told(text, text)


def test_attention_maps_take_braces_that_are_in_the_prompt_itself(nodes, demo, library):
    """NMG Prompts keeps what it encoded, so here it is known what the text was."""
    model, clip, vae = demo
    with torch.inference_mode():
        picture, _ = nodes["NMGDemoPicture"].execute(11).result
        latent = {"samples": vae.encode(picture[..., :3])}
        prompt = first(nodes["NMGPrompts"].execute(clip, BRACES))
        trajectory = first(nodes["NMGInvert"].execute(model, prompt, latent, 2, "normal"))
        look = nodes["NMGAttentionMaps"].execute
        inputs = {"words": "red", "levels": 1, "clip": clip, "trajectory": trajectory}
        assert look(model, prompt=BRACES, **inputs).result[2] == "red"
        for text in ("a {red|green} triangle", "// a {red} triangle"):
            with pytest.raises(library.InvalidInput, match="prompt has a c.*NMG Prompts"):
                look(model, prompt=text, **inputs)
