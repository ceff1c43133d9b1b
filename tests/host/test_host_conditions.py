"""Conditions, LoRA and ControlNet act in inversion and sampling as in the host's sampler."""

import pytest
import torch
from host_edits import RUN, SHAPE, edited, euler, guidance, invert
from host_models import (
    add_lora,
    first,
    random_controlnet,
    random_latent,
    random_prompt,
    random_tensor,
    relative,
    with_lora_in_the_weights,
)

pytestmark = pytest.mark.host_surface


def _mask(top, left):
    mask = torch.zeros(1, 64, 64)
    mask[:, top:48, left:] = 0.75
    return mask


# A narrower condition as the host's nodes make it: function of (the host's nodes, CONDITIONING).
CONDITIONS = {
    "area": lambda host, prompt: host.ConditioningSetArea().append(prompt, 32, 40, 16, 8, 0.9)[0],
    "mask": lambda host, prompt: host.ConditioningSetMask().append(
        prompt, _mask(0, 24), "default", 0.8
    )[0],
    "mask_bounds": lambda host, prompt: host.ConditioningSetMask().append(
        prompt, _mask(16, 16), "mask bounds", 1.0
    )[0],
    "late": lambda host, prompt: host.ConditioningSetTimestepRange().set_range(prompt, 0.5, 1.0)[0],
}


@pytest.mark.parametrize("kind", CONDITIONS)
def test_a_condition_acts_as_in_the_hosts_sampler(nodes, model, host, kind):
    trajectory, latent = invert(nodes, model).result
    narrow = CONDITIONS[kind](host("nodes"), random_prompt(4))
    positive = random_prompt(2) + narrow
    expected = euler(model, latent, trajectory, 4.0, positive)
    got = edited(nodes, model, trajectory, text_scale=4.0, positive=positive)
    assert relative(got, expected) < RUN
    assert relative(expected, euler(model, latent, trajectory, 4.0)) > 100 * RUN


@pytest.mark.parametrize("kind", CONDITIONS)
def test_a_condition_on_the_unconditional_prompt_is_in_the_gradient(
    differentiation, model, host, kind
):
    narrow = CONDITIONS[kind](host("nodes"), random_prompt(4))
    differentiation.followed(model, random_prompt(3) + narrow)


def test_conditioning_of_a_whole_batch_gives_each_sample_its_own(nodes, model):
    embeddings = random_tensor((2, 7, 48), 5)
    latent = random_latent((2, *SHAPE[1:]))
    both = edited(
        nodes,
        model,
        first(invert(nodes, model, latent)),
        guidance(nodes),
        positive=[[embeddings, {}]],
    )
    for index in range(2):
        one = {"samples": latent["samples"][index : index + 1]}
        trajectory = first(invert(nodes, model, one))
        single = edited(
            nodes, model, trajectory, guidance(nodes), positive=[[embeddings[index, None], {}]]
        )
        assert relative(both[index, None], single) < RUN


@pytest.mark.parametrize("mode", ["official", "fused"])
def test_a_lora_is_the_same_as_its_weights_merged(nodes, model, mode):
    results = []
    for patched in (add_lora(model), with_lora_in_the_weights()):
        trajectory = first(invert(nodes, patched))
        results.append(edited(nodes, patched, trajectory, guidance(nodes, mode)))
    assert relative(*results) < RUN


def test_a_trajectory_fits_the_model_with_a_lora_added(nodes, model):
    trajectory = first(invert(nodes, model))
    plain = edited(nodes, model, trajectory, guidance(nodes))
    with_lora = edited(nodes, add_lora(model), trajectory, guidance(nodes))
    assert relative(with_lora, plain) > 100 * RUN
    assert torch.equal(edited(nodes, model, trajectory, guidance(nodes)), plain)


@pytest.fixture
def control(pack):
    return random_controlnet()


def test_a_controlnet_acts_as_in_the_hosts_sampler(nodes, model, control):
    trajectory, latent = invert(nodes, model).result
    prompts = {"positive": control(random_prompt(2)), "negative": control(random_prompt(3))}
    expected = euler(model, latent, trajectory, 4.0, **prompts)
    got = edited(nodes, model, trajectory, text_scale=4.0, **prompts)
    assert relative(got, expected) < RUN
    assert relative(expected, euler(model, latent, trajectory, 4.0)) > 100 * RUN


def test_a_controlnet_is_in_the_gradient(differentiation, model, control):
    assert next(iter(model.model.parameters())).is_inference()
    differentiation.followed(model, control(random_prompt(3)))


def test_a_controlnet_leaves_no_trace_on_its_network(differentiation, model, control):
    prompt = control(random_prompt(3))
    network = prompt[0][1]["control"].control_model
    differentiation.ours(model, prompt)
    before = [dict(vars(module)) for module in network.modules()]
    differentiation.ours(model, prompt)
    assert [dict(vars(module)) for module in network.modules()] == before


def test_a_controlnet_in_the_inversion_and_the_edit_runs_to_the_end(nodes, model, control):
    trajectory = first(invert(nodes, model, prompt=control(random_prompt(1))))
    result = edited(
        nodes,
        model,
        trajectory,
        guidance(nodes),
        positive=control(random_prompt(2), end=0.5),
        negative=control(random_prompt(3), end=0.5),
    )
    assert torch.isfinite(result).all()
