"""A run leaves the model exactly as it was, however it ends."""

import copy
import hashlib
import importlib

import pytest
import torch
from host_models import parity_network, random_latent, random_prompt
from host_nodes import guidance

pytestmark = pytest.mark.host_surface

STEPS = 3
SHAPE = (1, 4, 8, 8)


@pytest.fixture
def model(pack):
    return parity_network("two")


@pytest.fixture
def management(pack):
    return importlib.import_module("comfy.model_management")


@pytest.fixture
def trajectory(nodes, model):
    """Made before the snapshot: after it the model is loaded and stays as the host left it."""
    output = nodes["NMGInvert"].execute(
        model, random_prompt(1), random_latent(SHAPE), steps=STEPS, schedule="official"
    )
    return output.result[0]


def edit(nodes, model, trajectory, mode="official"):
    """A run with the gradient through the network."""
    method = guidance(nodes, mode=mode, gradient="full")
    return nodes["NMGSample"].execute(
        model,
        trajectory,
        random_prompt(2),
        random_prompt(3),
        text_scale=5.0,
        noise_map_scale=1.0,
        gradient_scale=5000.0,
        mode=mode,
        guidance=method,
    )


class Snapshot:
    """Everything of a model that a run could change, with the objects themselves kept alive."""

    def __init__(self, patcher):
        self.patcher = patcher
        self.modules = dict(patcher.model.named_modules())
        self.attributes = {name: self.flat(module) for name, module in self.modules.items()}
        self.options = copy.deepcopy(patcher.model_options)
        self.own = {
            name: copy.copy(value)
            for name, value in vars(patcher).items()
            if isinstance(value, dict | list | set)
        }
        self.wanted = [p.requires_grad for p in patcher.model.parameters()]
        self.weights = self.hash()

    @staticmethod
    def flat(module):
        """Instance attributes, and one level below for the dictionaries PyTorch keeps there."""
        result = dict(vars(module))
        for name, value in vars(module).items():
            if isinstance(value, dict):
                result |= {f"{name}.{key}": item for key, item in value.items()}
        return result

    def hash(self):
        digest = hashlib.sha256()
        for name, value in sorted(self.patcher.model.state_dict().items()):
            digest.update(name.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def check(self):
        """Raises if anything differs now."""
        model = self.patcher.model
        now = dict(model.named_modules())
        assert now.keys() == self.modules.keys()
        for name, module in self.modules.items():
            assert now[name] is module
            before, after = self.attributes[name], self.flat(module)
            assert before.keys() == after.keys(), f"{name}: {before.keys() ^ after.keys()}"
            changed = [key for key in before if before[key] is not after[key]]
            assert not changed, f"{name}: {changed}"
        assert self.patcher.model_options == self.options
        for name, value in self.own.items():
            assert getattr(self.patcher, name) == value, name
        assert self.hash() == self.weights
        assert all(p.grad is None for p in model.parameters())
        assert [p.requires_grad for p in model.parameters()] == self.wanted
        assert model.current_patcher is None


class Disturbance:
    """A patch of another pack that acts once, in the n-th network evaluation.

    Args:
        action: called with the activations, in the middle of the network.
        when: condition on being in the gradient pass.
        evaluation: which one, counted from 1, among those that fulfil `when`.
    """

    def __init__(self, action, gradient_pass, evaluation=2):
        self.action, self.gradient_pass, self.evaluation = action, gradient_pass, evaluation
        self.seen = 0
        self.evaluations_after = 0

    def __call__(self, h, transformer_options):
        if self.seen >= self.evaluation:
            self.evaluations_after += 1
        elif torch.is_grad_enabled() == self.gradient_pass:
            self.seen += 1
            if self.seen == self.evaluation:
                return self.action(h)
        return h

    def on(self, patcher):
        """A clone of the model with this patch in its first block."""

        def patch(h, transformer_options):
            return self(h, transformer_options) if transformer_options["block"][1] == 1 else h

        patched = patcher.clone()
        patched.set_model_input_block_patch(patch)
        return patched


PASSES = pytest.mark.parametrize(
    "gradient_pass", [True, False], ids=["in the gradient pass", "in the text-guided pass"]
)


@pytest.mark.parametrize("mode", ["official", "fused"])
def test_a_run_to_the_end(nodes, model, trajectory, mode):
    snapshot = Snapshot(model)
    edit(nodes, model, trajectory, mode)
    snapshot.check()


def test_an_inversion(nodes, model, trajectory):
    snapshot = Snapshot(model)
    nodes["NMGInvert"].execute(
        model, random_prompt(1), random_latent(SHAPE), steps=STEPS, schedule="simple"
    )
    snapshot.check()


@PASSES
def test_a_cancel_in_the_middle_of_the_network(nodes, model, trajectory, management, gradient_pass):
    def cancel(h):
        management.interrupt_current_processing()
        return h

    disturbance = Disturbance(cancel, gradient_pass)
    patched = disturbance.on(model)
    snapshots = Snapshot(model), Snapshot(patched)
    with pytest.raises(management.InterruptProcessingException):
        edit(nodes, patched, trajectory)
    assert disturbance.seen == disturbance.evaluation
    assert disturbance.evaluations_after == 0, "the run went on into another evaluation"
    assert not management.processing_interrupted()
    for snapshot in snapshots:
        snapshot.check()


def test_a_cancel_between_two_steps_comes_before_the_next_evaluation(
    nodes, model, trajectory, management, monkeypatch
):
    utils = importlib.import_module("comfy.utils")
    evaluations, cancelled = [], []

    def count(apply, args):
        evaluations.append(args["input"].shape[0])
        return apply(args["input"], args["timestep"], **args["c"])

    def progress(value, total, preview, **_):
        if value == 1:
            management.interrupt_current_processing()
            cancelled.append(len(evaluations))

    patched = model.clone()
    patched.set_model_unet_function_wrapper(count)
    snapshot = Snapshot(model)
    monkeypatch.setattr(utils, "PROGRESS_BAR_HOOK", progress)
    with pytest.raises(management.InterruptProcessingException):
        edit(nodes, patched, trajectory)
    assert cancelled == [len(evaluations)]
    snapshot.check()


def test_a_cancel_during_the_inversion(nodes, model, trajectory, management):
    def cancel(h):
        management.interrupt_current_processing()
        return h

    disturbance = Disturbance(cancel, gradient_pass=False)
    snapshot = Snapshot(model)
    with pytest.raises(management.InterruptProcessingException):
        nodes["NMGInvert"].execute(
            disturbance.on(model),
            random_prompt(1),
            random_latent(SHAPE),
            steps=STEPS,
            schedule="official",
        )
    assert disturbance.evaluations_after == 0
    snapshot.check()


@PASSES
def test_an_exception_inside_the_network(nodes, model, trajectory, gradient_pass):
    def fail(_):
        raise ZeroDivisionError("another pack broke")

    patched = Disturbance(fail, gradient_pass).on(model)
    snapshots = Snapshot(model), Snapshot(patched)
    with pytest.raises(ZeroDivisionError, match="another pack broke"):
        edit(nodes, patched, trajectory)
    for snapshot in snapshots:
        snapshot.check()


@PASSES
def test_numbers_that_are_not_finite(nodes, library, model, trajectory, gradient_pass):
    patched = Disturbance(lambda h: h * float("nan"), gradient_pass).on(model)
    snapshots = Snapshot(model), Snapshot(patched)
    with pytest.raises(library.NotFinite):
        edit(nodes, patched, trajectory)
    for snapshot in snapshots:
        snapshot.check()


def test_a_model_that_cannot_be_differentiated(nodes, library, model, trajectory):
    layer = next(m for m in model.model.modules() if isinstance(m, torch.nn.Conv2d))
    layer.padding_mode = "circular"
    snapshot = Snapshot(model)
    with pytest.raises(library.NotDifferentiable):
        edit(nodes, model, trajectory)
    snapshot.check()


def test_after_a_broken_run_the_next_one_is_as_if_nothing_had_been(nodes, model, trajectory):
    expected = edit(nodes, model, trajectory).result[0]["samples"]

    def fail(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        edit(nodes, Disturbance(fail, gradient_pass=True).on(model), trajectory)
    assert torch.equal(edit(nodes, model, trajectory).result[0]["samples"], expected)


def test_the_inputs_of_the_nodes_are_not_written_to(nodes, model):
    latent = random_latent(SHAPE, noise_mask=torch.ones(1, 1, 64, 64), batch_index=[0])
    prompts = [random_prompt(seed, pooled_output=torch.ones(1, 3)) for seed in (1, 2, 3)]
    mask = torch.ones(1, 64, 64)
    inputs = latent, prompts, mask
    before = copy.deepcopy(inputs)
    method = guidance(nodes, mode="official", gradient="full")
    made, _ = (
        nodes["NMGInvert"]
        .execute(model, prompts[0], latent, steps=STEPS, schedule="official")
        .result
    )
    states = made.states.clone()
    nodes["NMGSample"].execute(
        model,
        made,
        prompts[1],
        prompts[2],
        text_scale=5.0,
        noise_map_scale=1.0,
        gradient_scale=1.0,
        mode="fused",
        guidance=method,
        editor=None,
        mask=mask,
    )
    assert torch.equal(made.states, states)
    assert_equal(inputs, before)


def assert_equal(got, expected):
    """Nested lists, tuples and dictionaries of tensors and values."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(got, expected)
    elif isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key, value in expected.items():
            assert_equal(got[key], value)
    elif isinstance(expected, list | tuple):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_equal(one, other)
    else:
        assert got == expected
