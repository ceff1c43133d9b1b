"""The fingerprint: the same for a checkpoint in all its states, different for another one."""

import importlib

import pytest
import torch
from host_models import (
    add_lora,
    make_patcher,
    parity_network,
    parity_weights,
    random_tensor,
)

pytestmark = pytest.mark.host_surface


@pytest.fixture
def identify(model_tools):
    return model_tools.identify


@pytest.fixture
def load(pack):
    """Loads a model as the host does before it samples."""
    return importlib.import_module("comfy.model_management").load_models_gpu


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


def test_loading_does_not_change_it(identify, load):
    model = parity_network("two")
    before = identify(model)
    load([model])
    assert identify(model) == before


@pytest.mark.parametrize("patch", [add_lora, add_to_vectors])
def test_patches_do_not_change_it(identify, load, patch):
    model = parity_network("two")
    before = identify(model)
    patched = patch(model)
    assert identify(patched) == before
    load([patched])
    assert identify(patched) == before
    assert identify(model) == before, "the patches are still in the shared weights"
    load([model])
    assert identify(model) == before


def test_a_partial_load_does_not_change_it(identify):
    model = add_to_vectors(parity_network("two"))
    before = identify(model)
    model.partially_load(torch.device("cpu"), model.model_size() // 4)
    assert model.model.model_lowvram
    assert identify(model) == before


def test_half_precision_does_not_change_it(identify):
    """The same checkpoint with --force-fp32 on one day and without on another."""
    assert identify(parity_network("two", torch.float16)) == identify(parity_network("two"))


def test_another_checkpoint_has_another_one(identify):
    config, weights = parity_weights("two")
    prints = {identify(make_patcher(config, seed=seed)).fingerprint for seed in (1, 2, 3)}
    prints.add(identify(make_patcher(config, weights)).fingerprint)
    assert len(prints) == 4


def test_one_changed_vector_of_many_is_seen_in_most_cases(identify):
    """A fine-tune moves all of them; a fingerprint reads some."""
    config, weights = parity_weights("two")
    before = identify(make_patcher(config, weights))
    moved = {n: v + 0.01 if v.ndim == 1 else v for n, v in weights.items()}
    assert identify(make_patcher(config, moved)) != before


def test_every_prediction_says_its_name(identify):
    assert identify(parity_network("two")).prediction == "eps"
    assert identify(parity_network("two", prediction="V_PREDICTION")).prediction == "v"


def test_a_prediction_that_a_node_of_the_host_set_is_the_one_that_counts(identify):
    node = importlib.import_module("comfy_extras.nodes_model_advanced").ModelSamplingDiscrete
    model = parity_network("two")
    patched = node().patch(model, "v_prediction", True)[0]
    assert identify(patched).prediction == "v"
    assert identify(model).prediction == "eps"
