"""How often the network is called, and that nothing but the inputs decides what comes of it."""

import random

import numpy
import pytest
import torch
from host_edits import RUN, SHAPE, edit, edited, guidance, invert
from host_models import first, relative

pytestmark = pytest.mark.host_surface


@pytest.fixture
def calls(model):
    """What reaches the network: (rows, in a gradient pass) of each call. No patch of the model: on
    a patched one other calls are made."""
    found = []

    def count(_, inputs):
        found.append((inputs[0].shape[0], torch.is_grad_enabled()))

    hook = model.model.diffusion_model.register_forward_pre_hook(count)
    yield found
    hook.remove()


def test_text_guidance_in_two_calls_gives_the_same(nodes, model, calls, monkeypatch):
    """The host splits a batch that does not fit into memory."""
    trajectory = first(invert(nodes, model))
    expected = [edited(nodes, model, trajectory, guidance(nodes, m)) for m in ("official", "fused")]
    monkeypatch.setattr(type(model.model), "memory_required", lambda *_, **__: 1e30)
    for mode, whole in zip(("official", "fused"), expected, strict=True):
        calls.clear()
        split = edited(nodes, model, trajectory, guidance(nodes, mode))
        assert {rows for rows, _ in calls} == {1}
        assert relative(split, whole) < RUN


def per_step(calls, steps):
    assert len(calls) % steps == 0
    size = len(calls) // steps
    chunks = [calls[start : start + size] for start in range(0, len(calls), size)]
    assert all(chunk == chunks[0] for chunk in chunks)
    return chunks[0]


FULL, ONE, TWO = (1, True), (1, False), (2, False)
BOTH = (2, True)


@pytest.mark.parametrize(
    ("mode", "gradient", "text_scale", "expected"),
    [
        ("official", "full", 5.0, [FULL, TWO]),
        ("official", "direct", 5.0, [ONE, TWO]),
        ("fused", "full", 5.0, [FULL, ONE]),
        ("fused", "direct", 5.0, [TWO]),
        ("official", "full", 1.0, [FULL, ONE]),
        ("fused", "direct", 1.0, [TWO]),
    ],
)
def test_a_step_costs_what_the_method_needs(
    nodes, model, calls, mode, gradient, text_scale, expected
):
    check_cost(nodes, model, calls, mode, gradient, text_scale, expected)


@pytest.mark.parametrize(
    ("mode", "gradient", "text_scale", "expected"),
    [
        ("official", "full", 5.0, [BOTH, TWO]),
        ("official", "direct", 5.0, [TWO, TWO]),
        ("fused", "full", 5.0, [BOTH, TWO]),
        ("fused", "direct", 5.0, [TWO]),
        ("official", "full", 1.0, [BOTH, ONE]),
        ("fused", "direct", 1.0, [ONE, TWO]),
    ],
)
def test_a_patch_of_the_network_is_shown_both_prompts(
    nodes, model, calls, mode, gradient, text_scale, expected
):
    patched = model.clone()
    patched.set_model_attn2_output_patch(lambda out, options: out)
    check_cost(nodes, patched, calls, mode, gradient, text_scale, expected)


def check_cost(nodes, model, calls, mode, gradient, text_scale, expected):
    """What a step costs, and that the node reports it."""
    trajectory = first(invert(nodes, model, steps=4, schedule="official"))
    assert calls == [ONE] * 4
    calls.clear()
    output = edit(nodes, model, trajectory, guidance(nodes, mode, gradient), text_scale)
    # The reference's last step goes from level 0 to level 0: it is left out.
    assert per_step(calls, 3) == expected
    (cost,) = output.ui["nmg"]
    assert cost["forward_calls"] == len(calls)
    assert cost["forward_rows"] == sum(rows for rows, _ in calls)
    assert cost["backward_rows"] == sum(rows for rows, graph in calls if graph)


@pytest.mark.parametrize("mode", ["official", "fused"])
@pytest.mark.parametrize("gradient", ["full", "direct"])
def test_a_text_scale_of_one_is_the_limit_of_scales_near_it(nodes, model, mode, gradient):
    trajectory = first(invert(nodes, model))
    method = guidance(nodes, mode, gradient)
    one = edited(nodes, model, trajectory, method, 1.0)
    # The second of these is 1 for the host, which then leaves the negative prompt out.
    for scale in (1.0 + 1e-5, 1.0 + 1e-11):
        assert relative(edited(nodes, model, trajectory, method, scale), one) < RUN


@pytest.mark.parametrize("mode", ["official", "fused"])
@pytest.mark.parametrize("gradient", ["full", "direct"])
def test_a_scale_of_one_computed_in_full_is_the_same(nodes, model, mode, gradient):
    trajectory = first(invert(nodes, model))
    method = guidance(nodes, mode, gradient)
    expected = edited(nodes, model, trajectory, method, 1.0)
    full = model.clone()
    full.disable_model_cfg1_optimization()
    assert relative(edited(nodes, full, trajectory, method, 1.0), expected) < RUN


@pytest.mark.parametrize("mode", ["official", "fused"])
def test_a_second_run_is_the_same_bit_for_bit(nodes, model, mode):
    results = []
    for _ in range(2):
        trajectory, latent = invert(nodes, model).result
        output = edit(nodes, model, trajectory, guidance(nodes, mode, loss="l1"))
        results.append((trajectory.states, latent["samples"], output[0]["samples"]))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_no_global_random_state_is_touched(nodes, model):
    random.seed(5)
    generator = numpy.random.mtrand._rand  # what numpy.random.rand and its kin draw from
    states = torch.get_rng_state(), random.getstate(), str(generator.get_state())
    trajectory = first(invert(nodes, model))
    edit(nodes, model, trajectory, guidance(nodes))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert str(generator.get_state()) == states[2]


@pytest.mark.parametrize("mode", ["official", "fused"])
def test_bar_and_preview_move_once_per_step(nodes, model, host, monkeypatch, mode):
    previews, progress = [], []

    class Previewer:
        def decode_latent_to_preview_image(self, _format, x0):
            assert x0.shape == SHAPE
            assert torch.isfinite(x0).all()
            previews.append(x0)
            return b""

    monkeypatch.setattr(host("latent_preview"), "get_previewer", lambda *_: Previewer())
    monkeypatch.setattr(
        host("comfy.utils"),
        "PROGRESS_BAR_HOOK",
        lambda value, total, *_, **__: progress.append((value, total)),
    )
    trajectory = first(invert(nodes, model, steps=4, schedule="official"))
    assert [step for step in progress if step[0]] == [(step, 4) for step in range(1, 5)]
    assert len(previews) == 4
    previews.clear()
    progress.clear()
    result = edited(nodes, model, trajectory, guidance(nodes, mode))
    assert [step for step in progress if step[0]] == [(step, 3) for step in range(1, 4)]
    # The last preview is of the result: at the lowest level of the schedule hardly any noise is.
    assert relative(previews[-1], model.model.process_latent_in(result)) < 0.1
