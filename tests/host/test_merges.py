"""A merge is another model, whatever it is made of; what a LoRA or a patch adds is not."""

import importlib

import pytest
import torch
from host_edits import RUN, edited, euler, guidance, invert
from host_models import (
    add_lora,
    first,
    make_patcher,
    parity_network,
    parity_weights,
    random_prompt,
    random_tensor,
    relative,
)

pytestmark = pytest.mark.host_surface


@pytest.fixture
def fingerprint(model_tools):
    return lambda model: model_tools.identify(model).fingerprint


@pytest.fixture
def load(pack):
    return importlib.import_module("comfy.model_management").load_models_gpu


@pytest.fixture
def a(pack):
    return parity_network("two")


@pytest.fixture
def b(pack):
    return other_network()


def other_network(dtype=torch.float32, seed=5):
    """A network like "two" with other weights, a negative zero among them."""
    config, weights = parity_weights("two")
    other = make_patcher(config, seed=seed).model.diffusion_model.state_dict()
    weights = {name: value.to(dtype) for name, value in other.items()}
    for value in weights.values():
        if value.ndim == 1:
            value[0] = -0.0
    return make_patcher(config, weights, dtype=dtype)


def merging(name):
    return getattr(importlib.import_module("comfy_extras.nodes_model_merging"), name)().merge


def simple(one, other, ratio):
    """ModelMergeSimple: `ratio` of the first model."""
    return merging("ModelMergeSimple")(one, other, ratio)[0]


def blocks(one, other, **ratios):
    """ModelMergeSD1 with all of the first model, but for the blocks that are named."""
    module = importlib.import_module("comfy_extras.nodes_model_merging_model_specific")
    node = module.ModelMergeSD1
    names = [name for name in node.INPUT_TYPES()["required"] if not name.startswith("model")]
    return node().merge(one, other, **{**dict.fromkeys(names, 1.0), **ratios})[0]


def add_to_vectors(model):
    """A clone with a patch on every vector, as full-rank adapters have."""
    patched = model.clone()
    state = model.model.state_dict()
    patches = {
        name: ("diff", (random_tensor(value.shape, 1),))
        for name, value in state.items()
        if name.startswith("diffusion_model.") and value.ndim == 1
    }
    assert patched.add_patches(patches)
    return patched


def saved(model, folder, dtype=torch.float32):
    """The model after a file of it, as the host's nodes that save models write it."""
    utils = importlib.import_module("comfy.utils")
    path = str(folder / "saved.safetensors")
    importlib.import_module("comfy.sd").save_checkpoint(path, model)
    prefix = "model.diffusion_model."
    state = utils.load_torch_file(path)
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    assert {value.dtype for value in weights.values()} == {dtype}
    return make_patcher(parity_weights("two")[0], weights, dtype=dtype)


def test_a_model_without_a_merge_keeps_the_fingerprint_that_trajectories_on_disk_have(
    fingerprint, a
):
    assert fingerprint(a) == "edf87ade5ba0be2b"


def test_a_merge_is_another_model_and_each_ratio_another_one(fingerprint, a, b):
    models = [a, b, *(simple(a, b, ratio) for ratio in (0.01, 0.3, 0.5, 0.99))]
    models += [merging("ModelAdd")(a, b)[0], merging("ModelSubtract")(a, b, 0.5)[0]]
    assert len({fingerprint(model) for model in models}) == len(models)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_merge_of_all_of_one_model_is_that_model(fingerprint, dtype):
    a, b = parity_network("two", dtype), other_network(dtype)
    assert fingerprint(simple(a, b, 1.0)) == fingerprint(a)
    assert fingerprint(simple(a, b, 0.0)) == fingerprint(b)
    assert fingerprint(simple(a, simple(a, b, 0.0), 0.0)) == fingerprint(b)


@pytest.mark.parametrize("compute", [torch.float32, torch.float16])
def test_a_merge_of_a_model_with_itself_is_that_model(fingerprint, monkeypatch, a, compute):
    compute_in(compute, monkeypatch, a)
    for ratio in (0.1, 0.3, 0.7):
        assert fingerprint(simple(a, parity_network("two"), ratio)) == fingerprint(a)


def test_a_merge_that_takes_nothing_of_a_model_without_some_blocks_is_the_first_model(
    fingerprint, a, b
):
    merge = simple(a, b, 1.0)
    for name in [name for name in merge.patches if "time_embed" in name]:
        del merge.patches[name]
    assert fingerprint(merge) == fingerprint(a)


def test_a_difference_that_is_added_back_is_the_model_it_came_from(fingerprint, a, b):
    difference = merging("ModelSubtract")(add_lora(a), a, 1.0)[0]
    assert fingerprint(merging("ModelAdd")(a, difference)[0]) == fingerprint(a)
    difference = merging("ModelSubtract")(b, a, 1.0)[0]
    assert fingerprint(merging("ModelAdd")(a, difference)[0]) != fingerprint(a)


def test_an_added_difference_and_the_file_of_it_are_one_model(fingerprint, tmp_path, a, b):
    difference = merging("ModelSubtract")(b, other_network(seed=9), 1.0)[0]
    merge = merging("ModelAdd")(a, difference)[0]
    assert fingerprint(merge) not in (fingerprint(a), fingerprint(b))
    assert fingerprint(saved(merge, tmp_path)) == fingerprint(merge)


def test_one_model_is_another_where_all_of_it_is_rounded_further(fingerprint, a):
    """To half precision it is the same: files of trajectories have no more."""
    config, weights = parity_weights("two")
    rounded = torch.float8_e4m3fn
    known = fingerprint(a)
    assert fingerprint(parity_network("two", torch.float16)) == known
    assert fingerprint(parity_network("two", torch.bfloat16)) != known
    assert fingerprint(parity_network("two", rounded)) != known
    # As most files of 8 bits are: matrices alone.
    matrices = {k: v.to(rounded).float() if v.ndim > 1 else v for k, v in weights.items()}
    assert fingerprint(make_patcher(config, matrices)) == known


def test_loading_does_not_change_the_identity_of_a_merge(fingerprint, load, a, b):
    patched = add_to_vectors(a)
    merge = simple(patched, b, 0.3)
    expected = [fingerprint(model) for model in (merge, a, b)]
    for model in (merge, b, add_to_vectors(b), patched, a):
        load([model])
        assert [fingerprint(model) for model in (merge, a, b)] == expected
        assert fingerprint(simple(a, b, 0.3)) == expected[0], "a merge of what is loaded"


def test_a_partial_load_does_not_change_the_identity_of_a_merge(fingerprint, a, b):
    merge = simple(a, b, 0.3)
    expected = fingerprint(merge)
    merge.partially_load(torch.device("cpu"), merge.model_size() // 4)
    assert merge.model.model_lowvram
    assert fingerprint(merge) == expected


def in_full(model):
    weights = model.model.diffusion_model.state_dict()
    return make_patcher(parity_weights("two")[0], {k: v.float() for k, v in weights.items()})


def test_half_precision_does_not_change_the_identity_of_a_merge(fingerprint):
    half = [parity_network("two", torch.float16), other_network(torch.float16)]
    full = [in_full(model) for model in half]
    assert fingerprint(simple(*half, 0.3)) == fingerprint(simple(*full, 0.3))


def compute_in(dtype, monkeypatch, model):
    """What patches are computed in: the host takes half precision on most cards."""
    management = importlib.import_module("comfy.model_management")
    monkeypatch.setitem(management.LORA_COMPUTE_DTYPES, model.load_device, dtype)


@pytest.mark.parametrize("compute", [torch.float32, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_merge_and_the_file_of_it_are_one_model(
    fingerprint, monkeypatch, tmp_path, dtype, compute
):
    a, b = parity_network("two", dtype), other_network(dtype)
    compute_in(compute, monkeypatch, a)
    merge = simple(simple(a, b, 0.3), other_network(dtype, seed=6), 0.8)
    expected = fingerprint(merge)
    assert fingerprint(saved(merge, tmp_path, dtype)) == expected
    assert fingerprint(merge) == expected


def test_a_merge_is_of_the_precision_that_the_host_merges_in(fingerprint, monkeypatch, a, b):
    """Two machines may round a merge differently: its file is the same on both."""
    merge = simple(a, b, 0.3)
    expected = fingerprint(merge)
    compute_in(torch.float16, monkeypatch, a)
    assert fingerprint(merge) != expected


def test_a_merge_of_halves_of_the_network_and_the_file_of_it_are_one_model(
    fingerprint, tmp_path, a, b
):
    merge = merging("ModelMergeBlocks")(a, b, input=1.0, middle=1.0, out=0.5)[0]
    assert fingerprint(merge) not in (fingerprint(a), fingerprint(b))
    assert fingerprint(saved(merge, tmp_path)) == fingerprint(merge)


def test_a_merge_of_any_single_block_is_seen(fingerprint, a, b):
    weights = [name for name, _ in a.model.diffusion_model.named_parameters()]
    module = importlib.import_module("comfy_extras.nodes_model_merging_model_specific")
    inputs = module.ModelMergeSD1.INPUT_TYPES()["required"]
    found = [block for block in inputs if any(name.startswith(block) for name in weights)]
    assert len(found) > 10
    merges, whole = [], simple(a, b, 0.5)
    for block in found:
        merges.append(a.clone())
        merges[-1].patches = {
            name: patches
            for name, patches in whole.patches.items()
            if name.startswith(f"diffusion_model.{block}")
        }
    merges += [blocks(a, b, **{"time_embed.": ratio}) for ratio in (0.0, 0.4)]
    assert len({fingerprint(model) for model in (a, b, *merges)}) == 2 + len(merges)
    assert fingerprint(blocks(a, b, **{"time_embed.": 0.5})) in map(fingerprint, merges)


def test_a_merge_of_one_block_alone_may_be_another_model_than_the_file_of_it(
    fingerprint, tmp_path, a, b
):
    """Of a file that block is not read: trajectories of its first model fit it, as ever."""
    merge = blocks(a, b, **{"time_embed.": 0.5})
    assert fingerprint(saved(merge, tmp_path)) == fingerprint(a) != fingerprint(merge)


def test_a_merge_of_weights_without_a_vector_is_seen(fingerprint, a, b):
    """Some networks have blocks without one."""
    fingerprints = {fingerprint(a)}
    for ratio in (0.4, 0.5):
        merge, whole = a.clone(), simple(a, b, ratio)
        name = next(name for name in whole.patches if name.endswith("to_q.weight"))
        merge.patches[name] = whole.patches[name]
        fingerprints.add(fingerprint(merge))
    assert len(fingerprints) == 3


def attention_multiply(model):
    """It scales weights and biases, and brings nothing."""
    module = importlib.import_module("comfy_extras.nodes_attention_multiply")
    return first(module.UNetSelfAttentionMultiply.execute(model, 1.1, 0.9, 1.0, 1.2))


def lora_file():
    """A file of a LoRA with all that the host reads from one, for vectors as well."""
    _, weights = parity_weights("two")
    file = {}
    for name in ("input_blocks.0.0", "middle_block.0.emb_layers.1", "time_embed.0"):
        rows, columns = weights[f"{name}.weight"].flatten(1).shape
        file[f"diffusion_model.{name}.lora_up.weight"] = random_tensor((rows, 2), 1)
        file[f"diffusion_model.{name}.lora_down.weight"] = random_tensor((2, columns), 2)
    for name, value in weights.items():
        layer, _, kind = f"diffusion_model.{name}".rpartition(".")
        if kind == "bias":
            file[f"{layer}.diff_b"] = random_tensor(value.shape, 3)
        elif value.ndim == 1:
            kind = "set_weight" if "norm1" in name else "diff"
            file[f"{layer}.{kind}"] = random_tensor(value.shape, 4)
    return file


def with_lora_file(model):
    return importlib.import_module("comfy.sd").load_lora_for_models(
        model, None, lora_file(), 0.8, 0.0
    )[0]


def with_lora_file_beside_the_weights(model):
    return importlib.import_module("comfy.sd").load_bypass_lora_for_models(
        model, None, lora_file(), 0.8, 0.0
    )[0]


def with_lora_file_taken_off(model):
    return importlib.import_module("comfy.sd").load_lora_for_models(
        model, None, lora_file(), -0.8, 0.0
    )[0]


def with_dora_file(model):
    """The same with magnitudes of its own for each row."""
    file, weights = lora_file(), model.model.diffusion_model.state_dict()
    layers = [name.partition(".lora_up")[0] for name in file if ".lora_up" in name]
    for layer in layers:
        weight = weights[f"{layer.removeprefix('diffusion_model.')}.weight"]
        norms = weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.ndim - 1))
        file[f"{layer}.dora_scale"] = 1.3 * norms
    return importlib.import_module("comfy.sd").load_lora_for_models(model, None, file, 0.8, 0.0)[0]


def with_itself_in_blocks(model):
    """Blocks of a LoRA, by a merge with the model it is on."""
    return blocks(model, add_lora(model), **{"input_blocks.2.": 0.5, "middle_block.1.": 0.2})


def with_itself(model):
    return simple(model, add_to_vectors(add_lora(model)), 0.4)


NO_MERGES = [
    add_to_vectors,
    with_lora_file,
    with_lora_file_beside_the_weights,
    with_lora_file_taken_off,
    with_dora_file,
    attention_multiply,
    with_itself,
    with_itself_in_blocks,
]


@pytest.mark.parametrize("patch", NO_MERGES)
def test_what_adds_to_a_model_leaves_it_that_model(fingerprint, load, a, patch):
    expected = fingerprint(a)
    patched = patch(a)
    assert fingerprint(patched) == expected
    load([patched])
    assert fingerprint(patched) == expected


@pytest.mark.parametrize("add", [add_lora, with_lora_file, attention_multiply])
def test_a_lora_before_or_after_a_merge_leaves_it_that_merge(fingerprint, a, b, add):
    expected = fingerprint(simple(a, b, 0.3))
    assert fingerprint(add(simple(a, b, 0.3))) == expected
    assert fingerprint(simple(add(a), b, 0.3)) == expected
    assert fingerprint(simple(a, add(b), 0.3)) == expected


def test_a_compiled_merge_is_that_merge(fingerprint, load, a, b):
    """Nodes of other packs put a compiled network in the place of the network."""
    merge = simple(a, b, 0.3)
    expected = fingerprint(merge)
    merge.add_object_patch("diffusion_model", torch.compile(a.model.diffusion_model))
    assert fingerprint(merge) == expected
    load([merge])
    assert any("_orig_mod" in name for name, _ in merge.model.named_parameters())
    assert fingerprint(merge) == expected
    merge.unpatch_model()


def test_weights_blended_by_nodes_of_other_packs_are_a_merge(fingerprint, a, b):
    """They bring the weight itself, as a difference that leaves a part of the model's own."""
    merge = a.clone()
    state = b.model.state_dict()
    for name in (name for name in state if name.startswith("diffusion_model.")):
        merge.add_patches({name: (state[name],)}, 0.7, 0.3)
    assert fingerprint(merge) not in (fingerprint(a), fingerprint(b))


# End to end.


def test_a_lora_on_a_prompt_leaves_a_merge_that_merge(nodes, fingerprint, a, b):
    """The host changes the weights for the evaluations of that prompt."""
    merge = simple(a, b, 0.5)
    hooks = importlib.import_module("comfy.hooks")
    group = hooks.create_hook_lora(lora_file(), 0.8, 0.0)
    trajectory, latent = invert(nodes, merge).result
    positive = random_prompt(2, hooks=group)
    got = edited(nodes, merge, trajectory, text_scale=4.0, positive=positive)
    assert relative(got, euler(merge, latent, trajectory, 4.0, positive)) < RUN
    assert relative(got, euler(merge, latent, trajectory, 4.0)) > 100 * RUN
    assert fingerprint(merge) == trajectory.model.fingerprint


def test_a_merge_is_refused_for_a_trajectory_of_its_first_model(nodes, library, a, b):
    trajectory = first(invert(nodes, a))
    for ratio in (0.0, 0.5):
        merge = simple(a, b, ratio)
        with pytest.raises(library.TrajectoryMismatch, match="fingerprint: trajectory") as error:
            edited(nodes, merge, trajectory, guidance(nodes))
        assert trajectory.model.fingerprint in str(error.value)
        assert "merge" in str(error.value)
        with pytest.raises(library.TrajectoryMismatch, match="fingerprint: trajectory"):
            edited(nodes, a, first(invert(nodes, merge)), guidance(nodes))


def test_a_trajectory_of_a_merge_is_of_that_merge_with_and_without_a_lora(nodes, a, b):
    merge = simple(a, b, 0.5)
    trajectory, latent = invert(nodes, merge).result
    for model in (simple(a, b, 0.5), add_lora(merge)):
        expected = euler(model, latent, trajectory, 4.0)
        got = edited(nodes, model, trajectory, text_scale=4.0, positive=random_prompt(2))
        assert relative(got, expected) < RUN


def test_a_merge_of_all_of_the_second_model_edits_as_that_model(nodes, a, b):
    merge = simple(a, b, 0.0)
    expected = edited(nodes, b, first(invert(nodes, b)), guidance(nodes))
    got = edited(nodes, b, first(invert(nodes, merge)), guidance(nodes))
    assert relative(got, expected) < RUN
    got = edited(nodes, merge, first(invert(nodes, b)), guidance(nodes))
    assert relative(got, expected) < RUN
