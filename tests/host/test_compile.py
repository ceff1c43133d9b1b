"""Models behind the host's TorchCompileModel: the same numbers, compiled once per shape.

The backend here is one that counts and changes nothing; the rest is as that node has it.
"""

import importlib

import pytest
import torch
from host_models import calm_network, first, random_latent, random_prompt, relative
from host_nodes import PLAIN, guidance

pytestmark = pytest.mark.host_surface

SHAPE = (1, 4, 8, 8)
# The compiler may sum in another order.
RUN = 1e-5


class CountingBackend:
    """A backend of torch.compile: how many graphs it was given, and how often they ran."""

    def __init__(self):
        self.compiled = self.ran = 0

    def __call__(self, graph, _inputs):
        self.compiled += 1

        def run(*inputs):
            self.ran += 1
            return graph(*inputs)

        return run


@pytest.fixture(scope="module")
def model(pack):
    """A network in which nothing stops the compiler: the host's own attention for CPUs does."""
    attention = importlib.import_module("comfy.ldm.modules.attention").attention_pytorch
    with torch.inference_mode():
        model = calm_network()
    options = model.model_options["transformer_options"]
    options["optimized_attention_override"] = lambda _, *given, **named: attention(*given, **named)
    return model


@pytest.fixture(scope="module")
def backend():
    torch.compiler.reset()
    yield CountingBackend()
    torch.compiler.reset()


@pytest.fixture(scope="module")
def compiled(model, backend):
    node = importlib.import_module("comfy_extras.nodes_torch_compile")
    clone = model.clone(disable_dynamic=True)
    options = {"guard_filter_fn": node.skip_torch_compile_dict}
    node.set_torch_compile_wrapper(model=clone, backend=backend, options=options)
    return clone


def invert(nodes, model, steps=3):
    node = nodes["NMGInvert"]
    return first(
        node.execute(
            model, random_prompt(1), random_latent(SHAPE), steps=steps, schedule="official-masactrl"
        )
    )


def edit(nodes, model, trajectory, mode="fused", gradient="direct", editor=None, scale=5.0):
    output = nodes["NMGSample"].execute(
        *(model, trajectory, random_prompt(2), random_prompt(3)),
        text_scale=scale,
        **PLAIN,
        guidance=guidance(nodes, mode=mode, gradient=gradient),
        editor=editor,
    )
    return first(output)["samples"]


def test_inversion_and_sampling_are_compiled_once_and_give_the_same(
    nodes, model, compiled, backend
):
    trajectory = invert(nodes, compiled)
    once = backend.compiled
    assert backend.ran == 3 * once > 0  # every step ran all of what was compiled
    assert relative(trajectory.states, invert(nodes, model).states) < RUN
    ran = backend.ran
    invert(nodes, compiled, steps=6)
    assert backend.ran == 3 * ran
    assert backend.compiled == once
    edited = edit(nodes, compiled, trajectory)
    once = backend.compiled  # two rows are another shape than one
    assert relative(edited, edit(nodes, model, trajectory)) < RUN
    edit(nodes, compiled, invert(nodes, compiled, steps=6))
    assert backend.compiled == once


@pytest.mark.parametrize("mode", ["official", "fused"])
def test_the_gradient_pass_runs_as_without_compilation(nodes, model, compiled, backend, mode):
    trajectory = invert(nodes, compiled)
    expected = edit(nodes, model, trajectory, mode, "full", scale=1.0)
    assert relative(edit(nodes, compiled, trajectory, mode, "full", scale=1.0), expected) < RUN
    # One row at a time, as the inversion: nothing was to be compiled, and half of it ran compiled.
    once, ran = backend.compiled, backend.ran
    edit(nodes, compiled, trajectory, mode, "full", scale=1.0)
    assert backend.compiled == once
    with_gradient = backend.ran - ran
    edit(nodes, compiled, trajectory, "official", "direct", scale=1.0)
    assert backend.ran - ran - with_gradient == 2 * with_gradient


@pytest.mark.parametrize(
    ("node", "settings"),
    [
        ("NMGMasaCtrl", {"start_step": 0, "start_layer": 0}),
        ("NMGPix2PixZero", {"attention_scale": 0.1}),
    ],
    ids=["NMGMasaCtrl", "NMGPix2PixZero"],
)
def test_an_editor_acts_on_a_compiled_model(nodes, model, compiled, backend, node, settings):
    # Compiled without it: a pass with an editor must not go on with that code.
    trajectory = invert(nodes, compiled)
    editor = first(nodes[node].execute(**settings))
    edited = edit(nodes, compiled, trajectory, editor=editor)
    assert relative(edited, edit(nodes, model, trajectory, editor=editor)) < RUN
    assert relative(edited, edit(nodes, model, trajectory)) > 100 * RUN
