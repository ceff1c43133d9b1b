"""The memory of gradient passes: every plan gives the same bits, and no run is lost to one."""

import importlib
import logging
from contextlib import contextmanager

import pytest
import torch
from host_models import (
    STATE,
    Differentiation,
    make_patcher,
    parity_network,
    parity_weights,
    random_controlnet,
    random_prompt,
    random_tensor,
    sdxl_network,
)
from memory import peak_bytes

pytestmark = pytest.mark.host_surface


@pytest.fixture
def keep(pack):
    return Differentiation("keep")


@pytest.fixture
def blocks(pack):
    return Differentiation("blocks")


@pytest.fixture(scope="module")
def plans(pack):
    return importlib.import_module("nmg_pack.nodes.host.gradient.plans")


def same(got, expected):
    return all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("kind", ["ResBlock", "BasicTransformerBlock"])
@pytest.mark.parametrize(("plan", "times"), [("keep", 1), ("blocks", 2)])
def test_blocks_run_twice_if_and_only_if_the_plan_says_so(pack, kind, plan, times):
    model = parity_network("two")
    blocks = [m for m in model.model.modules() if type(m).__name__ == kind]
    ran = []
    for block in blocks:
        next(block.children()).register_forward_pre_hook(lambda *_: ran.append(1))
    Differentiation(plan).ours(model)
    assert len(ran) == times * len(blocks) > 0


def test_a_network_with_pooled_text_has_the_same_gradient(keep, blocks):
    pooled = random_prompt(2, pooled_output=random_tensor((1, 1280), 3))
    model = sdxl_network()
    assert same(blocks.ours(model, pooled), keep.ours(model, pooled))


def test_a_controlnet_has_the_same_gradient(keep, blocks):
    """It writes into the activations of the model, among them what blocks got as their input."""
    prompt = random_controlnet()(random_prompt(2))
    model = parity_network("two")
    assert same(blocks.ours(model, prompt), keep.ours(model, prompt))


def writes_into_skips(h, skip, _options):
    """As FreeU has it, but in place."""
    skip.mul_(0.5)
    return h, skip


class EveryOtherTime:
    """A patch that counts its calls: a second pass through it would be another function."""

    def __init__(self):
        self.calls = 0

    def __call__(self, q, k, v, _options):
        self.calls += 1
        return q * (1 + 0.1 * self.calls), k, v


def patched(number):
    """The network with one of the patches that other packs put on it."""
    model = parity_network("two")
    attention = importlib.import_module("comfy.ldm.modules.attention")

    def replaced(q, k, v, options):
        return 0.7 * attention.attention_pytorch(q, k, v, options["n_heads"])

    [
        lambda: model.set_model_output_block_patch(writes_into_skips),
        lambda: model.set_model_attn1_patch(EveryOtherTime()),
        lambda: model.set_model_attn2_patch(EveryOtherTime()),
        lambda: model.set_model_attn1_replace(replaced, "input", 1),
        lambda: model.set_model_attn2_output_patch(lambda n, options: n.mul_(2.0)),
        lambda: model.set_model_input_block_patch(lambda h, options: h.mul_(0.9)),
    ][number]()
    return model


@pytest.mark.parametrize("number", range(6))
def test_a_patch_of_another_pack_runs_once_and_has_the_same_gradient(keep, blocks, number):
    assert same(blocks.ours(patched(number)), keep.ours(patched(number)))


def test_an_attention_override_of_another_pack_has_the_same_gradient(keep, blocks):
    model = parity_network("two")
    model.model_options["transformer_options"]["optimized_attention_override"] = (
        lambda chosen, *args, **kwargs: 0.5 * chosen(*args, **kwargs)
    )
    assert same(blocks.ours(model), keep.ours(model))


def test_a_block_that_another_pack_has_taken_over_is_left_alone(blocks, keep):
    model = parity_network("two")
    block = model.model.diffusion_model.middle_block[1].transformer_blocks[0]
    original, calls = block.forward, []

    def counting(x, *args, **kwargs):
        calls.append(1)
        return original(x, *args, **kwargs) * len(calls)

    block.forward = counting
    first = blocks.ours(model)
    assert len(calls) == 1
    assert block.forward is counting
    calls.clear()
    assert same(first, keep.ours(model))


def test_the_options_of_a_block_are_those_of_its_turn(blocks):
    """The host's one dictionary says at the end of a pass that it is the last block's turn."""
    model = parity_network("two")
    seen = []

    def watch(chosen, *args, **kwargs):
        options = kwargs["transformer_options"]
        told = options["block"], options["transformer_index"], options["block_index"]
        seen.append((*told, tuple(args[0].shape)))
        return chosen(*args, **kwargs)

    model.model_options["transformer_options"]["optimized_attention_override"] = watch
    blocks.ours(model)
    half = len(seen) // 2
    assert len(set(seen[:half])) > 2
    assert sorted(seen[:half]) == sorted(seen[half:])


def test_no_random_number_is_drawn_and_no_module_is_changed(blocks):
    model = parity_network("two")
    blocks.ours(model)  # the host puts its own marks on a network that it loads
    before = {name: dict(vars(m)) for name, m in model.model.diffusion_model.named_modules()}
    state = torch.get_rng_state()
    blocks.ours(model)
    assert torch.equal(torch.get_rng_state(), state)
    for name, module in model.model.diffusion_model.named_modules():
        assert vars(module) == before[name]


def test_a_changed_network_is_put_back_when_the_pass_fails(blocks, library):
    model = parity_network("two")
    network = model.model.diffusion_model

    def fail(*_):
        raise ValueError("on purpose")

    watch = network.out.register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="on purpose"):
        blocks.ours(model)
    watch.remove()
    assert not any("forward" in vars(module) for module in network.modules())


@pytest.fixture(scope="module")
def wide(pack):
    """A network in which activations outweigh everything else."""
    config, _ = parity_weights("two")
    with torch.inference_mode():
        return make_patcher({**config, "model_channels": 64})


def test_a_smaller_plan_takes_less_memory(wide, keep, blocks):
    peaks = {}
    for one in (keep, blocks):
        one.x, one.cotangent = (random_tensor((2, 4, 32, 32), seed) for seed in (1, 3))
        peaks[one.plan] = peak_bytes(lambda one=one: one.ours(wide))
    assert peaks["blocks"] < 0.6 * peaks["keep"]


@contextmanager
def out_of_memory(model, call, where="forward", layer=None):
    """The `call`-th pass of a layer fails as a full card does; 1 is the first."""
    layer = layer or model.model.diffusion_model.output_blocks[0][0].out_layers[3]
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    def watch(_module, _args, output):
        if where == "forward":
            fail()
        elif output.requires_grad:
            output.register_hook(lambda _: fail())

    handle = layer.register_forward_hook(watch)
    try:
        yield calls
    finally:
        handle.remove()


@pytest.fixture
def lines(caplog):
    """What the log says of plans."""
    caplog.set_level(logging.INFO)
    return lambda: [r.getMessage() for r in caplog.records if "gradient pass" in r.getMessage()]


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_state_gradient_goes_on_by_the_next_plan(keep, lines, where):
    model = parity_network("two")
    expected = keep.ours(model)
    with out_of_memory(model, 1, where) as calls:
        got = keep.ours(model)
    assert len(calls) > 1
    assert same(got, expected)
    first, second, third = lines()
    assert "'keep'" in first
    assert "'keep'" in second
    assert "'blocks'" in third
    assert "memory ran out" in third


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_when_no_plan_is_left_the_hosts_error_says_what_to_do(blocks, where):
    model = parity_network("two")
    management = importlib.import_module("comfy.model_management")
    with (
        out_of_memory(model, 1, where),
        pytest.raises(management.OOM_EXCEPTION, match="(?s)out of memory.*gradient 'direct'"),
    ):
        blocks.ours(model)
    assert not any("forward" in vars(m) for m in model.model.modules())


def test_any_other_error_is_no_reason_to_try_again(keep, lines):
    model = parity_network("two")
    layer = model.model.diffusion_model.out[2]

    def fail(*_):
        raise RuntimeError("a defect")

    layer.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="a defect"):
        keep.ours(model)
    assert len(lines()) == 1


def test_what_the_failed_pass_made_is_gone_before_the_next_begins(keep, wide):
    """A traceback holds every activation of a pass; two at once would fill the card again."""
    keep.x, keep.cotangent = (random_tensor((2, 4, 32, 32), seed) for seed in (1, 3))
    whole = peak_bytes(lambda: keep.ours(wide))
    # All of it is there when the backward pass begins.
    with out_of_memory(wide, 1, "backward", wide.model.diffusion_model.out[2]):
        failed = peak_bytes(lambda: keep.ours(wide))
    assert failed < 1.1 * whole


def sampled(nodes, model, **options):
    """NMG's official mode, three steps, through the nodes; the model has its plan in it."""
    prompt, negative = random_prompt(2), random_prompt(5)
    latent = {"samples": random_tensor((1, 4, 8, 8), 1)}
    trajectory = (
        nodes["NMGInvert"].execute(model, prompt, latent, steps=3, schedule="official").result[0]
    )
    inputs = {"text_scale": 3.0, "noise_map_scale": 10.0, "gradient_scale": 100.0}
    inputs |= {"mode": "official", **options}
    result = nodes["NMGSample"].execute(model, trajectory, prompt, negative, **inputs)
    return result.result[0]["samples"], trajectory


@pytest.fixture
def with_plan(nodes):
    """What the node does: a model that has the plan in it."""
    return lambda model, plan: nodes["NMGGradientMemory"].execute(model, plan).result[0]


def test_a_run_goes_on_from_the_step_and_stays_with_the_plan(nodes, with_plan, lines):
    model = with_plan(parity_network("two"), "keep")
    expected, _ = sampled(nodes, model)
    undisturbed = len(lines())
    # The second step's backward pass.
    with out_of_memory(model, 2, "backward"):
        got, _ = sampled(nodes, model)
    assert torch.equal(got, expected)
    first, second = lines()[undisturbed:]
    assert "'keep'" in first
    assert "'blocks'" in second


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_null_text_goes_on_by_the_next_plan(nodes, with_plan, lines, where):
    model = with_plan(parity_network("two"), "keep")
    _, trajectory = sampled(nodes, model)

    def run():
        guidance = nodes["NMGNullText"].execute(
            model,
            trajectory,
            random_prompt(5),
            text_scale=3.0,
            inner_steps=2,
            learning_rate=0.01,
            early_stop=0.0,
        )
        return guidance.result[0].embeddings.clone()

    expected, before = run(), len(lines())
    with out_of_memory(model, 2 if where == "backward" else 3, where):
        got = run()
    assert torch.equal(got, expected)
    assert any("'blocks'" in line for line in lines()[before:])


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_attention_guidance_goes_on_by_the_next_plan(nodes, with_plan, lines, where):
    """Its loss is taken out of the middle of the pass: it is made again with a new one."""
    model = with_plan(parity_network("two"), "keep")
    editor = nodes["NMGPix2PixZero"].execute(0.1).result[0]
    expected, _ = sampled(nodes, model, noise_map_scale=0.0, editor=editor)
    before = len(lines())
    calls = {"forward": 6, "backward": 2}[where]
    with out_of_memory(model, calls, where):
        got, _ = sampled(nodes, model, noise_map_scale=0.0, editor=editor)
    assert torch.equal(got, expected)
    assert any("'blocks'" in line for line in lines()[before:])


def test_the_users_plan_is_on_a_clone_and_can_be_taken_back(with_plan, lines):
    model = parity_network("two")
    differentiation = Differentiation()
    for plan in ("blocks", "keep"):
        chosen = with_plan(model, plan)
        differentiation.ours(chosen)
        assert f"'{plan}' (as NMG Gradient Memory says)" in lines()[-1]
    for left_to_the_pack in (model, with_plan(chosen, "auto")):
        differentiation.ours(left_to_the_pack)
        assert "GB free" in lines()[-1]
    assert "nmg_gradient_memory" in chosen.model_options
    assert "nmg_gradient_memory" not in model.model_options


def test_the_plan_is_chosen_from_the_free_memory(plans, lines, monkeypatch):
    management = importlib.import_module("comfy.model_management")
    model = parity_network("two")
    free = Differentiation()
    wanted = plans.kept_bytes(model.model, STATE, [{}])
    assert wanted > 0
    results = {}
    for plan, amount in (("keep", 1.01 * wanted), ("blocks", 0.99 * wanted)):
        with monkeypatch.context() as patch:
            patch.setattr(management, "get_free_memory", lambda *_, a=amount, **__: a)
            results[plan] = free.ours(model)
        assert f"'{plan}'" in lines()[-1]
        assert "GB free" in lines()[-1]
    assert same(results["keep"], results["blocks"])


def test_the_estimate_is_the_hosts_and_knows_what_adds_up(plans, monkeypatch):
    management = importlib.import_module("comfy.model_management")
    model = parity_network("two").model
    one = plans.kept_bytes(model, (1, 4, 64, 64), [{}])
    assert plans.kept_bytes(model, (2, 4, 64, 64), [{}]) == 2 * one
    assert plans.kept_bytes(model, (1, 4, 64, 64), [{}, {}]) == 2 * one
    assert plans.kept_bytes(model, (1, 4, 64, 64), [{"control": object()}]) > one
    # Whatever attention the user chose: the gradient pass has its own.
    for flash in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr(management, "pytorch_attention_flash_attention", lambda f=flash: f)
            assert plans.kept_bytes(model, (1, 4, 64, 64), [{}]) == pytest.approx(one)


@pytest.fixture
def checkpointed(pack):
    """(gradient at a vector of a function of one tensor, its activations computed again)."""
    module = importlib.import_module("nmg_pack.nodes.host.gradient.checkpoint")

    def gradient(function, again=None, copy=None):
        with torch.inference_mode(False), torch.enable_grad():
            leaf = torch.arange(1.0, 5.0).requires_grad_()
            x = leaf * 1.0
            result = module.checkpointed(lambda: function(x), again or function, [x], copy)
            return torch.autograd.grad(result.sum(), leaf)[0]

    return gradient


def test_a_second_pass_with_other_or_fewer_activations_is_refused(checkpointed, library):
    for again in (lambda x: x.repeat(2).sin(), lambda x: x + 1):
        with pytest.raises(library.NotDifferentiable, match="something else when asked again"):
            checkpointed(lambda x: x.sin().sin(), again)


def writes_into_itself(x):
    y = x.sin()
    z = y * y
    y += 1.0  # what z was made of
    return (z + y).tanh()


def test_a_write_into_an_activation_is_found_or_does_no_harm(checkpointed, library):
    with pytest.raises(library.NotDifferentiable, match="inplace"):
        checkpointed(writes_into_itself)
    expected = checkpointed(lambda x: (x.sin().square() + x.sin() + 1.0).tanh())
    torch.testing.assert_close(checkpointed(writes_into_itself, copy=torch.clone), expected)


def test_a_write_into_what_a_block_got_is_found(checkpointed):
    with pytest.raises(RuntimeError, match="inplace operation"):
        checkpointed(lambda x: x.sin() + x.mul_(2.0))


def test_only_what_is_needed_is_computed_again(checkpointed):
    calls = []

    def function(x):
        y = x.sin()
        calls.append("needed")
        y = y + 1.0
        calls.append("not")
        return y

    checkpointed(function)
    assert calls == ["needed", "not"]
    calls.clear()
    checkpointed(lambda x: function(x).exp())
    assert calls == ["needed", "not", "needed", "not"]
