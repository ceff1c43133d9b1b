"""The gradient through the host's network: right whatever way its weights take, or refused."""

import gc
import importlib
import json
from functools import cache

import pytest
import torch
from host_models import (
    FLOAT32,
    LORA,
    STATE,
    Differentiation,
    add_lora,
    make_patcher,
    parity_network,
    parity_weights,
    random_prompt,
    random_tensor,
    relative,
    with_lora_in_the_weights,
)

pytestmark = pytest.mark.host_surface

# A weight or an activation of fp16 is off by 5e-4, of bf16 by 4e-3; it adds up over the layers.
HALF = {torch.float16: 1e-2, torch.bfloat16: 8e-2}


@cache
def two():
    """The network most tests share, made in inference mode as the host makes its models."""
    return parity_network("two")


@pytest.fixture(params=["keep", "blocks"])
def differentiation(pack, request):
    """Each test here is one for either plan of memory."""
    return Differentiation(request.param)


@pytest.fixture
def plain(differentiation):
    """What PyTorch alone says about the shared network."""
    return differentiation.plain(two())


@pytest.fixture
def attention(pack):
    return importlib.import_module("comfy.ldm.modules.attention")


@pytest.fixture
def ops(pack):
    return importlib.import_module("comfy.ops")


def agrees(got, expected, tolerance=FLOAT32):
    eps, gradient = got
    assert torch.isfinite(gradient).all()
    assert relative(eps, expected[0]) < tolerance
    assert relative(gradient, expected[1]) < tolerance


def test_the_model_of_these_tests_is_one_that_plain_autograd_refuses(pack):
    """Otherwise every test below would pass without the pack's layers."""
    model = two()
    weight = next(model.model.diffusion_model.parameters())
    assert weight.is_inference()
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.ones(STATE, requires_grad=True)
        context = torch.ones(2, 7, 48)
        with pytest.raises(RuntimeError, match="nference tensor"):
            model.model.apply_model(x, torch.ones(2), c_crossattn=context)


def test_it_is_the_gradient_of_plain_autograd_on_an_ordinary_copy(differentiation, plain):
    agrees(differentiation.ours(two()), plain)


def test_it_is_the_slope_of_finite_differences(differentiation):
    _, gradient = differentiation.ours(two())
    differentiation.check_slope(two(), gradient)


def test_the_prediction_is_the_one_without_gradients(differentiation):
    eps, _ = differentiation.ours(two())
    (expected,) = differentiation.predictions(two(), [differentiation.x])
    assert relative(eps, expected) < FLOAT32


def test_v_prediction_has_its_own_gradient(differentiation):
    model = parity_network("two", prediction="V_PREDICTION")
    got = differentiation.ours(model)
    agrees(got, differentiation.plain(model))
    differentiation.check_slope(model, got[1])


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_weights_of_half_precision_give_it_within_their_precision(differentiation, dtype):
    model = parity_network("two", dtype)
    agrees(differentiation.ours(model), differentiation.plain(model), HALF[dtype])


@pytest.mark.parametrize("dtype", [*HALF, torch.float8_e4m3fn], ids=str)
def test_weights_cast_to_float32_on_the_fly_give_it_exactly(differentiation, dtype):
    model = parity_network("two", dtype, compute_dtype=torch.float32)
    assert next(model.model.diffusion_model.parameters()).dtype == dtype
    agrees(differentiation.ours(model), differentiation.plain(model))


def test_float8_weights_in_a_float16_network_give_it_within_its_precision(differentiation):
    model = parity_network("two", torch.float8_e4m3fn, compute_dtype=torch.float16)
    expected = differentiation.plain(model)
    agrees(differentiation.ours(model), expected, HALF[torch.float16])


def quantized(weights, layout):
    """The weights with every linear layer of the attention quantised as the host stores it."""
    module = importlib.import_module("comfy.quant_ops")
    result = {}
    for name, value in weights.items():
        if value.ndim == 2 and ("attn" in name or ".ff." in name):
            whole = module.QuantizedTensor.from_float(value, layout, scale="recalculate")
            parts = whole.state_dict(name)
            result |= {key: part.clone() for key, part in parts.items()}
            text = json.dumps({"format": "float8_e4m3fn"}).encode()
            key = name.removesuffix("weight") + "comfy_quant"
            result[key] = torch.tensor(list(text), dtype=torch.uint8)
        else:
            result[name] = value
    return result


def test_weights_that_stay_quantised_give_it(differentiation, ops):
    """Of the dequantised weights: the host also rounds the layers' inputs, which has no slope."""
    config, weights = parity_weights("two")
    model = make_patcher(
        config,
        quantized(weights, "TensorCoreFP8E4M3Layout"),
        quantized={"mixed_ops": True},
        compute_dtype=torch.float32,
    )
    layers = [m for m in model.model.modules() if isinstance(getattr(m, "weight", None), object)]
    kept = [m for m in layers if type(getattr(m, "weight", None)).__name__ == "QuantizedTensor"]
    assert kept
    restored = {
        name: value.dequantize() if hasattr(value, "dequantize") and value in kept else value
        for name, value in weights.items()
    }
    for name, module in model.model.diffusion_model.named_modules():
        if module in kept:
            restored[f"{name}.weight"] = module.weight.dequantize().float().clone()
    expected = differentiation.plain(make_patcher(config, restored))
    agrees(differentiation.ours(model), expected)


@pytest.fixture
def partial_load(pack, monkeypatch):
    """The host's own low-VRAM mode: half of the layers cast and patched at every call."""
    patcher = importlib.import_module("comfy.model_patcher").ModelPatcher
    original = patcher.partially_load

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        return original(self, device_to, self.model_size() // 4, force_patch_weights)

    monkeypatch.setattr(patcher, "partially_load", partially_load)


def test_a_lora_that_is_applied_on_the_fly_is_the_same_as_one_in_the_weights(
    differentiation, partial_load
):
    model = parity_network("two")
    patched = add_lora(model)
    got = differentiation.ours(patched)
    assert model.model.model_lowvram
    on_the_fly = [m for m in model.model.modules() if getattr(m, "weight_function", None)]
    assert on_the_fly, "the test did not reach the host's low-VRAM path"
    agrees(got, differentiation.plain(with_lora_in_the_weights(LORA)))
    differentiation.check_slope(patched, got[1])


def test_a_weight_wrapper_of_another_pack_is_followed(differentiation):
    model = parity_network("two")
    name = "input_blocks.1.1.transformer_blocks.0.attn2.to_out.0.weight"
    wrapped = model.clone()
    wrapped.add_weight_wrapper(f"diffusion_model.{name}", lambda weight: weight * 3.0)
    config, weights = parity_weights("two")
    expected = differentiation.plain(make_patcher(config, {**weights, name: weights[name] * 3.0}))
    agrees(differentiation.ours(wrapped), expected)


@pytest.fixture
def streamed(ops, monkeypatch):
    """Cast weights in buffers that hold garbage as soon as the layer has run.

    This is what a buffer reused by the next layer does with asynchronous offload or dynamic VRAM.
    """
    cast, uncast = ops.cast_bias_weight, ops.uncast_bias_weight
    handed_out = []

    def cast_into_buffer(module, *args, **kwargs):
        *tensors, stream = cast(module, *args, **{**kwargs, "offloadable": True})
        weight, bias = (None if t is None else t.clone() for t in tensors)
        handed_out.append((weight, bias))
        return (weight, bias, stream) if kwargs.get("offloadable") else (weight, bias)

    def poison(module, weight, bias, stream):
        uncast(module, weight, bias, stream)
        for tensor in (weight, bias):
            if tensor is not None:
                tensor.data.fill_(float("nan"))

    monkeypatch.setattr(ops, "cast_bias_weight", cast_into_buffer)
    monkeypatch.setattr(ops, "uncast_bias_weight", poison)
    return handed_out


def test_weights_in_buffers_that_are_overwritten_give_the_same(differentiation, plain, streamed):
    model = parity_network("two")
    for module in model.model.diffusion_model.modules():
        if hasattr(module, "comfy_cast_weights"):
            module.comfy_cast_weights = True  # what the host sets where a weight is not resident
    agrees(differentiation.ours(model), plain)
    assert streamed
    assert all(torch.isnan(weight).all() for weight, _ in streamed if weight is not None)


def test_resident_weights_are_used_as_they_are(differentiation, plain, streamed):
    agrees(differentiation.ours(two()), plain)
    assert not streamed


def test_streamed_and_cast_weights_of_a_partly_loaded_model_give_the_same(
    differentiation, streamed, partial_load
):
    model = parity_network("two", torch.float16, compute_dtype=torch.float32)
    agrees(differentiation.ours(model), differentiation.plain(model))
    assert model.model.model_lowvram


@pytest.mark.parametrize("name", ["sub_quad", "split", "pytorch", "basic"])
def test_every_attention_backend_gives_the_same(
    differentiation, plain, attention, monkeypatch, name
):
    backend = getattr(attention, f"attention_{name}")
    monkeypatch.setattr(attention, "optimized_attention", backend)
    monkeypatch.setattr(attention, "optimized_attention_masked", backend)
    agrees(differentiation.ours(two()), plain)


def without_backward(attention):
    """A kernel as sage and flash are: right values, cut off from autograd."""

    def kernel(q, k, v, heads, *args, **kwargs):
        with torch.no_grad():
            return attention.attention_pytorch(q, k, v, heads, *args, **kwargs).detach()

    return kernel


def test_a_backend_without_backward_that_the_user_chose_changes_nothing(
    differentiation, plain, attention, monkeypatch
):
    kernel = attention.wrap_attn(without_backward(attention))
    monkeypatch.setattr(attention, "optimized_attention", kernel)
    agrees(differentiation.ours(two()), plain)


def test_a_backend_without_backward_that_another_pack_put_in_changes_nothing(
    differentiation, plain, attention
):
    model = two().clone()
    kernel = without_backward(attention)
    model.model_options["transformer_options"]["optimized_attention_override"] = (
        lambda _chosen, *args, **kwargs: kernel(*args, **kwargs)
    )
    agrees(differentiation.ours(model), plain)


def rounded(q, k, v):
    """Queries and keys of 8 bits, as sage has them."""

    def whole(x):
        scale = x.abs().amax(-1, keepdim=True) / 127
        return (x / scale).round() * scale

    return whole(q), whole(k), v


@pytest.mark.parametrize("graph", [False, True], ids=["no graph", "graph with steps"])
def test_a_backend_that_rounds_to_whole_numbers_changes_nothing(
    differentiation, plain, attention, graph
):
    """With PyTorch's own rounding there is a graph, and its slope is 0 nearly everywhere."""

    def kernel(_chosen, q, k, v, heads, *args, **kwargs):
        with torch.set_grad_enabled(graph and torch.is_grad_enabled()):
            return attention.attention_pytorch(*rounded(q, k, v), heads, *args, **kwargs)

    model = two().clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = kernel
    agrees(differentiation.ours(model), plain)


def test_predictions_without_a_gradient_take_the_backend_that_the_user_chose(
    differentiation, attention, monkeypatch
):
    calls = []

    def chosen(q, k, v, heads, *args, **kwargs):
        calls.append(q.requires_grad)
        return attention.attention_pytorch(q, k, v, heads, *args, **kwargs)

    monkeypatch.setattr(attention, "optimized_attention", attention.wrap_attn(chosen))
    model = two()
    layers = [m for m in model.model.modules() if isinstance(m, attention.CrossAttention)]
    differentiation.predictions(model, [differentiation.x])
    assert calls == [False] * len(layers) != []
    calls.clear()
    differentiation.ours(two())
    assert calls == []


def test_an_attention_override_that_changes_the_result_is_followed_or_refused(
    differentiation, library, attention
):
    model = two().clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = (
        lambda chosen, *args, **kwargs: 0.5 * chosen(*args, **kwargs)
    )
    differentiation.right_or_refused(model)


def test_an_attention_patch_without_backward_is_refused(differentiation, library, attention):
    model = two().clone()
    kernel = without_backward(attention)
    model.set_model_attn1_replace(
        lambda q, k, v, options: kernel(q, k, v, options["n_heads"]), "input", 1
    )
    differentiation.right_or_refused(model)


def test_an_attention_patch_with_backward_is_followed(differentiation, library, attention):
    model = two().clone()
    model.set_model_attn1_replace(
        lambda q, k, v, options: 0.7 * attention.attention_pytorch(q, k, v, options["n_heads"]),
        "input",
        1,
    )
    eps, gradient = differentiation.ours(model)
    differentiation.check_slope(model, gradient)


def test_a_network_wrapper_that_detaches_is_refused(differentiation, library):
    model = two().clone()
    patcher_extension = importlib.import_module("comfy.patcher_extension")

    def cached(executor, *args, **kwargs):
        return executor(*args, **kwargs).detach()

    model.add_wrapper(patcher_extension.WrappersMP.DIFFUSION_MODEL, cached)
    with pytest.raises(library.NotDifferentiable, match="direct"):
        differentiation.ours(model)


def test_a_model_function_wrapper_that_detaches_is_refused(differentiation, library):
    model = two().clone()
    model.set_model_unet_function_wrapper(
        lambda apply, args: apply(args["input"], args["timestep"], **args["c"]).detach()
    )
    with pytest.raises(library.NotDifferentiable, match="direct"):
        differentiation.ours(model)


def test_a_model_function_wrapper_that_computes_is_followed(differentiation, library):
    model = two().clone()
    model.set_model_unet_function_wrapper(
        lambda apply, args: 0.9 * apply(args["input"], args["timestep"], **args["c"])
    )
    _, gradient = differentiation.ours(model)
    differentiation.check_slope(model, gradient)


def convolutions(model):
    return [m for m in model.model.modules() if isinstance(m, torch.nn.Conv2d)]


def test_convolutions_with_another_padding_are_right_or_refused(differentiation, library):
    model = parity_network("two")
    for layer in convolutions(model):
        layer.padding_mode = "circular"
    differentiation.right_or_refused(model)


def test_convolutions_that_another_pack_made_seamless_are_right_or_refused(
    differentiation, library
):
    """Seamless-tiling packs put their own _conv_forward on each layer."""
    model = parity_network("two")
    for layer in convolutions(model):

        def tiled(x, weight, bias, layer=layer):
            pad = layer.padding[0]
            x = torch.nn.functional.pad(x, (pad, pad, pad, pad), mode="circular")
            return torch.nn.functional.conv2d(x, weight, bias, layer.stride)

        layer._conv_forward = tiled
    differentiation.right_or_refused(model)


def test_layers_with_their_own_weight_operation_are_right_or_refused(differentiation, library, ops):
    """As GGUF packs have them: a subclass that makes its weight in its own way."""

    class Scaled(ops.disable_weight_init.Linear):
        def forward_comfy_cast_weights(self, input):
            return 2.0 * super().forward_comfy_cast_weights(input)

    model = parity_network("two")
    for layer in model.model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.__class__ = Scaled
            layer.comfy_cast_weights = True
    differentiation.right_or_refused(model)


def test_a_layer_it_does_not_know_is_refused_by_name(differentiation, library, ops):
    model = parity_network("two")
    layer = ops.disable_weight_init.ConvTranspose2d(4, 4, 1)
    layer.weight = torch.nn.Parameter(torch.eye(4)[:, :, None, None], requires_grad=False)
    layer.bias = torch.nn.Parameter(torch.zeros(4), requires_grad=False)
    model.model.diffusion_model.out.append(layer)
    with pytest.raises(library.NotDifferentiable, match="ConvTranspose2d"):
        differentiation.ours(model)


def weight_hook(strength):
    """A LoRA that is scheduled on a prompt: the host changes the weights for its evaluations."""
    hooks = importlib.import_module("comfy.hooks")
    name = "input_blocks.1.1.transformer_blocks.0.attn1.to_v.weight"
    weight = parity_weights("two")[1][name]
    hook = hooks.WeightHook(strength_model=strength)
    patch = 10.0 * random_tensor(weight.shape, 8)
    hook.weights = {f"diffusion_model.{name}": ("diff", (patch,))}
    hook.need_weight_init = False
    group = hooks.HookGroup()
    group.add(hook)
    return group


@pytest.mark.parametrize("hooked", [1, 2])
def test_prompts_with_weight_hooks_are_right_or_refused(differentiation, hooked):
    """Their forward passes run with different weights, one after the other; backward comes last."""
    model = parity_network("two")
    group = weight_hook(1.0)
    prompt = random_prompt(2, strength=0.5, hooks=group)
    prompt += random_prompt(5, strength=0.5, **({"hooks": group} if hooked == 2 else {}))
    differentiation.right_or_refused(model, prompt)


def test_a_weight_hook_on_the_whole_prompt_is_followed(differentiation):
    model = parity_network("two")
    weights = {name: value.clone() for name, value in model.model.state_dict().items()}
    differentiation.followed(model, random_prompt(2, hooks=weight_hook(1.0)))
    assert all(torch.equal(value, weights[n]) for n, value in model.model.state_dict().items())


def test_no_weight_gets_a_gradient_a_copy_or_a_place_in_the_graph(differentiation, pack):
    model = two()
    differentiation.ours(model)
    parameters = dict(model.model.named_parameters())
    places = {name: value.data_ptr() for name, value in parameters.items()}
    wanted = {name: value.requires_grad for name, value in parameters.items()}
    storages = {value.untyped_storage().data_ptr() for value in parameters.values()}
    saved = []

    def remember(tensor):
        saved.append(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        differentiation.ours(model)
    assert saved
    assert not storages & set(saved), "the graph holds a weight, not a copy or a question"
    assert {name: p.data_ptr() for name, p in model.model.named_parameters()} == places
    assert all(p.grad is None for p in model.model.parameters())
    assert {name: p.requires_grad for name, p in model.model.named_parameters()} == wanted


def test_nothing_grows_from_run_to_run(differentiation):
    def tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    for _ in range(2):
        differentiation.ours(two())
    before = tensors()
    for _ in range(3):
        differentiation.ours(two())
    assert tensors() <= before


def test_a_batch_of_two_has_the_gradients_of_its_samples(differentiation):
    _, both = differentiation.ours(two())
    x, cotangent = differentiation.x, differentiation.cotangent
    for index in range(2):
        one = slice(index, index + 1)
        differentiation.x, differentiation.cotangent = x[one], cotangent[one]
        _, single = differentiation.ours(two())
        # Another batch size, another kernel, another order of summation.
        assert relative(single, both[one]) < FLOAT32
    differentiation.x, differentiation.cotangent = x, cotangent


def test_the_multi_gpu_path_which_has_no_gradients_is_not_taken(differentiation, plain):
    model = two().clone()
    samplers = importlib.import_module("comfy.samplers")
    if not hasattr(samplers, "_calc_cond_batch_multigpu"):
        pytest.skip("this ComfyUI has no multi-GPU path")
    seen = []
    original = samplers._calc_cond_batch_multigpu

    def spy(*args):
        seen.append(1)
        return original(*args)

    samplers._calc_cond_batch_multigpu = spy
    try:
        model.model_options["multigpu_clones"] = {torch.device("cpu"): model}
        agrees(differentiation.ours(model), plain)
    finally:
        samplers._calc_cond_batch_multigpu = original
    assert not seen
