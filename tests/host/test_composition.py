"""A LoRA file, a ControlNet and an adapter like IPAdapter at once, on every part of the pack."""

import copy
import importlib
from dataclasses import replace

import pytest
import torch
from host_models import (
    LORA,
    first,
    parity_weights,
    random_controlnet,
    random_latent,
    random_prompt,
    random_tensor,
    relative,
)
from host_nodes import guidance
from safetensors.torch import save_file

pytestmark = pytest.mark.host_surface

SHAPE = (1, 4, 8, 8)
STEPS = 3
FELT = 1e-2  # a hundred times what float32 rounding makes of a whole run
PARTS = ("lora", "control", "adapter")
HOLDS = {
    "official full": ("official", "full"),
    "fused full": ("fused", "full"),
    "fused direct": ("fused", "direct"),
}
parts = pytest.mark.parametrize("part", PARTS)
holds = pytest.mark.parametrize("hold", HOLDS.values(), ids=HOLDS)


def lora_file(path):
    """A LoRA of rank 2 as trainers write it, on three weights of the network "two"."""
    _, weights = parity_weights("two")
    tensors = {}
    for seed, name in enumerate(LORA):
        rows, columns = weights[name].flatten(1).shape
        key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        shape = weights[name].shape[2:]
        tensors[f"{key}.lora_up.weight"] = random_tensor((rows, 2), seed).unflatten(
            1, (2, *[1] * len(shape))
        )
        tensors[f"{key}.lora_down.weight"] = (
            random_tensor((2, columns), seed + 1).reshape(2, *weights[name].shape[1:])
            / columns**0.5
        )
        tensors[f"{key}.alpha"] = torch.tensor(2.0)
    save_file(tensors, path)


def with_adapter(model):
    """A clone that attends to four tokens of a picture beside the text; unconditionally not."""
    attention = importlib.import_module("comfy.ldm.modules.attention").optimized_attention
    picture = random_tensor((2, 1, 4, 128), 21)

    def adds(q, k, v, options):
        rows = len(q) // len(options["cond_or_uncond"])
        keys, values = picture[..., : q.shape[-1]].expand(-1, len(q), -1, -1)
        seen = attention(q, keys.clone(), values.clone(), options["n_heads"])
        weights = torch.tensor([0.0 if which else 0.8 for which in options["cond_or_uncond"]])
        text = attention(q, k, v, options["n_heads"])
        return text + weights.repeat_interleave(rows)[:, None, None] * seen

    patched = model.clone()
    for place in (("input", 1), ("middle", 0), ("output", 0)):
        patched.set_model_attn2_replace(adds, *place)
    return patched


@pytest.fixture
def compose(pack, tmp_path, monkeypatch):
    """(model, seed -> prompt) with the named parts on them, by the host's own nodes."""
    host = importlib.import_module("nodes")
    folder_paths = importlib.import_module("folder_paths")
    lora_file(tmp_path / "style.safetensors")
    folders = ([str(tmp_path)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", folders)
    control = random_controlnet()

    def call(model, names=PARTS):
        if "lora" in names:
            loader = host.LoraLoaderModelOnly()
            (model,) = loader.load_lora_model_only(model, "style.safetensors", 0.8)
        if "adapter" in names:
            model = with_adapter(model)

        def prompt(seed):
            return control(random_prompt(seed)) if "control" in names else random_prompt(seed)

        return model, prompt

    return call


@pytest.fixture(scope="module")
def beside(library):
    """An editor that changes nothing: the source branch runs beside the edit."""

    class Beside(library.Editor):
        def begin(self, run):
            return library.EditorRun(run)

    return Beside()


def invert(nodes, model, prompt):
    return nodes["NMGInvert"].execute(
        model, prompt(1), random_latent(SHAPE), steps=STEPS, schedule="official-masactrl"
    )[0]


def settings(nodes, trajectory, prompt, hold, editor=None):
    """Inputs that NMG Sample and NMG Guider share; l2 has no sign that rounding could flip."""
    mode, gradient = hold
    method = guidance(nodes, mode=mode, gradient=gradient, loss="l2", gradient_scale=200.0)
    prompts = {"positive": prompt(2), "negative": prompt(3), "guidance": method, "editor": editor}
    scales = {"text_scale": 4.0, "noise_map_scale": 1.0, "gradient_scale": 1.0, "mode": "fused"}
    return {"trajectory": trajectory, **prompts, **scales}


def sample(nodes, model, trajectory, prompt, hold, editor=None):
    """(edit, source)"""
    given = settings(nodes, trajectory, prompt, hold, editor)
    output = nodes["NMGSample"].execute(model, **given)
    return [latent["samples"] for latent in output.result]


def others(part):
    return [name for name in PARTS if name != part]


@parts
def test_each_is_felt_in_the_inversion(nodes, model, compose, part):
    whole = invert(nodes, *compose(model))
    without = invert(nodes, *compose(model, others(part)))
    assert relative(without.states[-1], whole.states[-1]) > FELT


@holds
@parts
def test_each_is_felt_in_the_edit_and_in_the_source_branch(
    nodes, model, compose, beside, part, hold
):
    patched, prompt = compose(model)
    trajectory = invert(nodes, patched, prompt)
    whole = sample(nodes, patched, trajectory, prompt, hold, beside)
    patched, prompt = compose(model, others(part))
    # The same noise maps: what differs then is this run's doing.
    trajectory = replace(trajectory, source=prompt(1))
    without = sample(nodes, patched, trajectory, prompt, hold, beside)
    for one, other in zip(whole, without, strict=True):
        assert relative(other, one) > FELT


@parts
def test_each_is_felt_in_the_edit_alone(nodes, model, compose, part):
    trajectory = invert(nodes, *compose(model))
    hold = HOLDS["official full"]
    whole, without = (
        sample(nodes, patched, trajectory, prompt, hold)[0]
        for patched, prompt in (compose(model), compose(model, others(part)))
    )
    assert relative(without, whole) > FELT


def test_the_gradient_is_that_of_all_of_them(model, compose, differentiation):
    patched, prompt = compose(model)
    differentiation.followed(patched, prompt(3))
    bare = differentiation.ours(model, random_prompt(3))[1]
    assert relative(differentiation.ours(patched, prompt(3))[1], bare) > FELT


@holds
@pytest.mark.parametrize("with_editor", [False, True])
def test_the_guider_in_the_hosts_sampler_node_takes_all_of_them(
    nodes, model, compose, beside, hold, with_editor
):
    custom = importlib.import_module("comfy_extras.nodes_custom_sampler")
    patched, prompt = compose(model)
    trajectory = invert(nodes, patched, prompt)
    editor = beside if with_editor else None
    expected, _ = sample(nodes, patched, trajectory, prompt, hold, editor)
    given = settings(nodes, trajectory, prompt, hold, editor)
    output = custom.SamplerCustomAdvanced.execute(
        first(custom.DisableNoise.execute()),
        first(nodes["NMGGuider"].execute(patched, **given)),
        *nodes["NMGSampler"].execute(trajectory).result,
        random_latent(SHAPE),
    )
    assert torch.equal(first(output)["samples"], expected)


@holds
def test_nothing_of_them_stays(nodes, model, compose, beside, hold):
    def bare():
        trajectory = invert(nodes, model, random_prompt)
        return [trajectory.states, *sample(nodes, model, trajectory, random_prompt, hold, beside)]

    before = bare()
    weights = {name: value.clone() for name, value in model.model.state_dict().items()}
    options = copy.deepcopy(model.model_options)
    patched, prompt = compose(model)
    theirs = copy.copy(patched.model_options["transformer_options"])
    trajectory = invert(nodes, patched, prompt)
    once, twice = (sample(nodes, patched, trajectory, prompt, hold, beside)[0] for _ in range(2))
    assert torch.equal(once, twice)
    assert patched.model_options["transformer_options"] == theirs
    assert model.model_options == options
    # The host takes a LoRA off when it loads the model without it.
    after = bare()
    assert all(torch.equal(one, other) for one, other in zip(after, before, strict=True))
    now = model.model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in weights.items())
