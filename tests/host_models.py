"""Small models of the host's own classes, for tests that run inside a real ComfyUI."""

import importlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

DATA = Path(__file__).parent / "data"
DEMO = Path(__file__).resolve().parents[1] / "demo" / "model.safetensors"

STATE = (2, 4, 8, 8)
# Float32 rounding through some forty layers, forward and backward, in another order of summation.
FLOAT32 = 2e-5


SDXL_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 4],
    "num_heads": 2,
    "context_dim": 48,
    "transformer_depth": [0, 1, 2],
    "transformer_depth_output": [0, 0, 1, 1, 2, 2],
    "transformer_depth_middle": 2,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "legacy": False,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}


def make_patcher(
    unet_config,
    weights=None,
    *,
    dtype=torch.float32,
    prediction="EPS",
    seed=0,
    compute_dtype=None,
    quantized=None,
):
    """A ModelPatcher around an SD 1.5 family model with this UNet.

    Args:
        unet_config: of the UNet, without its dtype.
        weights: state dict of the UNet; random ones if None.
        dtype: of the weights.
        prediction: name of the host's ModelType.
        seed: of the random weights.
        compute_dtype: weights are cast to it on the fly; None computes in `dtype` (fp8: float32).
        quantized: the host's quant_config, for weights that stay quantised.
    """
    model_base = importlib.import_module("comfy.model_base")
    supported = importlib.import_module("comfy.supported_models")
    patcher = importlib.import_module("comfy.model_patcher")
    management = importlib.import_module("comfy.model_management")

    class Config(supported.SD15):
        def __init__(self):
            super().__init__({**unet_config, "dtype": dtype})

    Config.unet_config = {}
    Config.unet_extra_config = {}
    config = Config()
    if dtype != torch.float32:
        config.manual_cast_dtype = torch.float32 if dtype == torch.float8_e4m3fn else None
    if compute_dtype is not None:
        config.manual_cast_dtype = compute_dtype
    if quantized is not None:
        config.quant_config = quantized
    model = model_base.BaseModel(config, getattr(model_base.ModelType, prediction))
    if weights is None:
        weights = random_weights(model.diffusion_model, seed)
    model.diffusion_model.load_state_dict(weights)
    device = management.get_torch_device()
    return patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))


def random_weights(network, seed):
    """Weights at which no layer is silent: the host leaves them uninitialised."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name, value):
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim == 1:
            return 1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise
        return noise / value[0].numel() ** 0.5

    return {name: draw(name, value).to(value.dtype) for name, value in network.state_dict().items()}


def parity_network(name, dtype=torch.float32, **options):
    """The network of the parity vectors, as a ModelPatcher; options of `make_patcher`."""
    config, weights = parity_weights(name)
    return make_patcher(
        config, {k: v.to(dtype) for k, v in weights.items()}, dtype=dtype, **options
    )


def parity_weights(name):
    """UNet configuration and float32 state dict of a network of the parity vectors."""
    config = json.loads((DATA / "parity" / f"{name}.json").read_text())
    config.pop("dtype")
    weights = load_file(DATA / "parity" / f"{name}.safetensors")
    return config, {key: value.float() for key, value in weights.items()}


def sdxl_network(seed=0, weights=None, dtype=torch.float32, prediction="EPS"):
    """A small SDXL: no transformer at full resolution, pooled text and sizes as a condition."""
    model_base = importlib.import_module("comfy.model_base")
    supported = importlib.import_module("comfy.supported_models")
    patcher = importlib.import_module("comfy.model_patcher")

    class Config(supported.SDXL):
        def __init__(self):
            super().__init__({**SDXL_UNET, "dtype": dtype})

    Config.unet_config = {}
    Config.unet_extra_config = {}
    model = model_base.SDXL(Config(), model_type=getattr(model_base.ModelType, prediction))
    if weights is None:
        weights = random_weights(model.diffusion_model, seed)
    model.diffusion_model.load_state_dict(weights)
    device = importlib.import_module("comfy.model_management").get_torch_device()
    return patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))


def calm_network(**options):
    """The network "two" with a small output: steps of DDIM stay small, as with trained models."""
    config, weights = parity_weights("two")
    for name in ("out.2.weight", "out.2.bias"):
        weights[name] = 0.1 * weights[name]
    return make_patcher(config, weights, **options)


def tokenizer_alone(module, name, **options):
    """The host's CLIP with this tokenizer and without a network."""
    clip = importlib.import_module("comfy.sd").CLIP(no_init=True)
    clip.tokenizer = getattr(importlib.import_module(module), name)(**options)
    clip.tokenizer_options = {}
    return clip


def clip_of_every_token():
    """The demo model's CLIP, in which words that were never trained differ as well.

    In the file their rows are zero: all words of other scripts would be one.
    """
    demo_model = importlib.import_module("nmg_pack.nodes.host.models.demo_model")
    _, clip, _ = demo_model.load_demo_model(DEMO)
    table = clip.cond_stage_model.clip_l.transformer.text_model.embeddings.token_embedding.weight
    unknown = table.abs().sum(1) == 0
    drawn = random_tensor((int(unknown.sum()), table.shape[1]), 5)
    with torch.no_grad():
        table[unknown] = drawn.to(table) * table[~unknown].std()
    return clip


def conditioning(embedding, **options):
    """A CONDITIONING of one prompt."""
    return [[embedding, dict(options)]]


def random_prompt(seed, width=48, tokens=7, **options):
    """A CONDITIONING that no text encoder made, for networks with this context width."""
    return conditioning(random_tensor((1, tokens, width), seed), **options)


def random_tensor(shape, seed):
    """Normal numbers, the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_latent(shape, seed=0, **options):
    """A LATENT at the scale that VAEs give."""
    return {"samples": 4.0 * random_tensor(shape, seed), **options}


def first(output):
    """The first of a node's outputs."""
    return output.result[0]


LORA = [
    "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
    "output_blocks.0.0.in_layers.2.weight",
    "middle_block.1.transformer_blocks.0.ff.net.2.weight",
]


def _low_rank(weight, seed):
    """(up, down) of a patch that is felt: its size is that of the weight."""
    rows, columns = weight.flatten(1).shape
    return random_tensor((rows, 2), seed), random_tensor((2, columns), seed + 1) / columns**0.5


def add_lora(model):
    """A clone of the network "two" with a low-rank patch on three of its weights."""
    adapter = importlib.import_module("comfy.weight_adapter")
    _, weights = parity_weights("two")
    patches = {
        f"diffusion_model.{name}": adapter.LoRAAdapter(
            set(), (*_low_rank(weights[name], seed), 2.0, None, None, None)
        )
        for seed, name in enumerate(LORA)
    }
    patched = model.clone()
    if len(patched.add_patches(patches)) != len(LORA):
        raise ValueError("the network has not all of the weights of the LoRA")
    return patched


def with_lora_in_the_weights(names=LORA):
    """The network "two" with the same patch added to its weights by hand."""
    config, weights = parity_weights("two")
    for seed, name in enumerate(names):
        up, down = _low_rank(weights[name], seed)
        weights[name] = weights[name] + (up @ down).reshape(weights[name].shape)
    return make_patcher(config, weights)


def random_controlnet():
    """A function that puts a small ControlNet of the host's own class on a CONDITIONING."""
    controlnet, cldm, ops, nodes = (
        importlib.import_module(name)
        for name in ("comfy.controlnet", "comfy.cldm.cldm", "comfy.ops", "nodes")
    )
    config, _ = parity_weights("two")
    config.pop("out_channels")
    network = cldm.ControlNet(
        **config, hint_channels=3, operations=ops.disable_weight_init
    ).requires_grad_(False)
    network.load_state_dict(random_weights(network, 11))
    net = controlnet.ControlNet(network, load_device=torch.device("cpu"))

    def on(prompt, strength=0.7, start=0.0, end=1.0):
        hint = random_tensor((1, 64, 64, 3), 12).abs()
        apply = nodes.ControlNetApplyAdvanced()
        return apply.apply_controlnet(prompt, prompt, net, hint, strength, start, end)[0]

    return on


def plain_gradient(patcher, x, level, embedding, cotangent):
    """(eps, J^T cotangent) by PyTorch alone, on an ordinary float32 copy of the network.

    Nothing of the pack takes part, and nothing of the host's sampling path.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x, embedding, cotangent = (t.clone().float() for t in (x, embedding, cotangent))
        config = dict(patcher.model.model_config.unet_config)
        config.pop("dtype")
        weights = {
            name: value.detach().clone().float()
            for name, value in patcher.model.diffusion_model.state_dict().items()
        }
        kind = patcher.model.model_type.name
        copy = make_patcher(config, weights, prediction=kind).model
        leaf = x.requires_grad_()
        sigma = torch.full((x.shape[0],), level.k_sigma)
        context = embedding.repeat(x.shape[0], 1, 1)
        denoised = copy.apply_model(leaf / level.alpha, sigma, c_crossattn=context)
        eps = (leaf - level.alpha * denoised) / level.sigma
        (gradient,) = torch.autograd.grad(eps, leaf, cotangent)
    return eps.detach(), gradient


def relative(got, expected):
    """Norm of the difference over the norm of what is expected."""
    return float((got.float() - expected.float()).norm() / expected.float().norm())


class Differentiation:
    """One latent, level, prompt and cotangent, and the pack's gradient for it on any model.

    Args:
        plan: of the memory that the gradient pass takes; None leaves the choice to the pack.
        shape: of the latent.
        prompt: a CONDITIONING; None is one for the networks of the parity vectors.
        level: alpha and sigma of the latent; None is one of Stable Diffusion.
        text: a CONDITIONING that the model goes to beside it; None is none.
    """

    def __init__(self, plan=None, shape=STATE, prompt=None, level=None, text=None):
        self.text = text
        self.plan = plan
        self.library = importlib.import_module("nmg_pack.nmg_sampler")
        self.runs = importlib.import_module("nmg_pack.nodes.host.runs")
        levels = importlib.import_module("nmg_pack.nmg_sampler.trajectory.levels")
        self.level = levels.NoiseLevel(*level) if level else levels.level_from_k_sigma(1.3)
        self.x = random_tensor(shape, 1)
        self.prompt = prompt or random_prompt(2)
        self.cotangent = random_tensor(shape, 3)

    def procedure(self, model, call, prompt=None):
        """`call(predictor)` in the middle of a run of the host's guider."""
        if self.plan is not None:
            model = model.clone()
            model.model_options["nmg_gradient_memory"] = self.plan

        def procedure(predictor, latent, _on_step):
            return self.runs.Done(latent, call(predictor))

        levels = (self.level, self.library.NoiseLevel(0.1, 1.0))
        schedule = self.library.Schedule("test", levels, levels[:1], start=1)
        conditions = {"negative": prompt or self.prompt}
        if self.text is not None:
            conditions["positive"] = self.text
        latent = torch.zeros_like(self.x)
        job = self.runs.Job(conditions, latent, schedule, procedure)
        return self.runs.run_procedure(model, job).result

    def ours(self, model, prompt=None):
        """(eps, J^T cotangent) through the pack."""
        module = importlib.import_module("nmg_pack.nmg_sampler.contract.differentiation")

        def call(predictor):
            eps, pullback = module.differentiable_eps(
                predictor, self.x, self.level, self.library.Prompt.NEGATIVE
            )
            return eps, pullback(self.cotangent)

        return self.procedure(model, call, prompt)

    def plain(self, model):
        """(eps, J^T cotangent) by PyTorch alone."""
        return plain_gradient(model, self.x, self.level, self.prompt[0][0], self.cotangent)

    def predictions(self, model, states, prompt=None):
        """eps at each state, without gradients."""

        def call(predictor):
            negative = self.library.Prompt.NEGATIVE
            return [predictor.eps(state, self.level, negative) for state in states]

        return self.procedure(model, call, prompt)

    def slope(self, model, direction, prompt=None, h=4e-3):
        """cotangent . J direction by finite differences, of fourth order in h."""
        states = [self.x + factor * h * direction for factor in (2, 1, -1, -2)]
        a, b, c, d = (eps.double() for eps in self.predictions(model, states, prompt))
        return float(((8 * (b - c) - (a - d)) / (12 * h) * self.cotangent).sum())

    def check_slope(self, model, gradient, prompt=None, tolerance=2e-3):
        """A gradient against finite differences; float32 rounding / h is what is tolerated."""
        direction = random_tensor(self.x.shape, 4)
        expected = self.slope(model, direction, prompt)
        terms = (gradient * direction).double()
        got = float(terms.sum())
        # The terms may cancel: their size, not that of the sum, is what rounding goes with.
        allowed = tolerance * float(terms.norm())
        assert abs(got - expected) < allowed, f"slope {got}, expected {expected}"

    def followed(self, model, prompt=None):
        """The gradient is the slope of the model with every patch and condition on it."""
        eps, gradient = self.ours(model, prompt)
        (expected,) = self.predictions(model, [self.x], prompt)
        difference = relative(eps, expected)
        assert difference < FLOAT32, f"the prediction differs by {difference:.2g}"
        self.check_slope(model, gradient, prompt)

    def right_or_refused(self, model, prompt=None):
        """As `followed`, or the pack says that it cannot differentiate and what to do."""
        try:
            self.followed(model, prompt)
        except self.library.NotDifferentiable as error:
            if "direct" not in str(error):
                raise
