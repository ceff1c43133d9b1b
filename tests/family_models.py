"""Small models of every family, with random weights, through the host's own loading.

What the host detects from key names and shapes is what it would detect of a real checkpoint: the
class of the model, its latent format and its kind of sampling. Real are all of these, and the code
of the networks; small are depth and width, as far as detection allows.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from host_models import SDXL_UNET, conditioning, random_tensor, random_weights, sdxl_network

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "use_spatial_transformer": True,
    "transformer_depth": [0, 1],
    "transformer_depth_output": [0, 0, 1, 1],
    "transformer_depth_middle": 1,
    "legacy": False,
}
SD1 = {**UNET, "context_dim": 768, "num_heads": 8, "use_linear_in_transformer": False}
SD2 = {
    **UNET,
    "context_dim": 1024,
    "num_heads": -1,
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
}
# What the host tells a v model of this family by: the last of twelve output blocks.
SD2_V = {
    **SD2,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 1, 1, 1],
    "transformer_depth": [1, 0, 0, 0, 0, 0, 0, 0],
    "transformer_depth_output": [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    "transformer_depth_middle": -1,
}
# The real one: detection goes by all of it.
SDXL = {
    **UNET,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 2048,
    "num_heads": -1,
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
SD3 = {
    "input_size": None,
    "patch_size": 2,
    "in_channels": 16,
    "depth": 2,
    "adm_in_channels": 2048,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 64, "out_features": 128},
    },
    "num_patches": 1024,
    "pos_embed_max_size": 32,
    "pos_embed_scaling_factor": None,
    "qk_norm": "rms",
}
FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 24,
    "context_in_dim": 64,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
WAN = {
    "model_type": "t2v",
    "patch_size": (1, 2, 2),
    "in_dim": 16,
    "out_dim": 16,
    "dim": 128,
    "ffn_dim": 192,
    "freq_dim": 256,
    "text_dim": 4096,
    "num_heads": 1,
    "num_layers": 2,
}
# What is seen beside the latent: a mask and the picture without it (inpainting), a picture
# (instruct-pix2pix), the frames that a video begins with.
SD1_INPAINT = {**SD1, "in_channels": 9}
SD1_PIX2PIX = {**SD1, "in_channels": 8}
SD2_UNCLIP = {**SD2, "num_classes": "sequential", "adm_in_channels": 2048}
FLUX_FILL = {**FLUX, "in_channels": 96}
WAN_I2V = {**WAN, "in_dim": 36}
WAN22 = {**WAN, "in_dim": 48, "out_dim": 48}
LTX = {
    "in_channels": 128,
    "cross_attention_dim": 128,
    "attention_head_dim": 4,
    "num_attention_heads": 32,
    "caption_channels": 4096,
    "num_layers": 1,
}


@dataclass(frozen=True)
class SmallModel:
    """How one is made, and what the host and the pack call it.

    Attributes:
        network: module and class of the host's network, and its configuration.
        host_class: of the host's model.
        family, prediction, latent_format: as in `ModelIdentity`.
        shape: (C, ...) of a latent.
        width: of its prompts' embeddings.
        pooled: width of the vector beside the embedding; 0 is none.
        options: further entries of a CONDITIONING.
        masked: whether its prompts come with a mask of their tokens.
        quiet: parameters of the last layer: random ones predict more than a trained model would.
        loudness: what they are multiplied by.
    """

    network: tuple[str, str, dict[str, Any]]
    host_class: str
    family: str
    prediction: str
    latent_format: str
    shape: tuple[int, ...]
    width: int
    quiet: str
    pooled: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    masked: bool = False
    loudness: float = 0.1
    change: Callable[[dict[str, torch.Tensor]], None] = lambda weights: None

    def load(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
        """A ModelPatcher, as Load Diffusion Model gives it."""
        weights = self.weights(seed)
        weights = {name: value.to(dtype) for name, value in weights.items()}
        sd = importlib.import_module("comfy.sd")
        return sd.load_diffusion_model_state_dict(weights, model_options={"dtype": dtype})

    def weights(self, seed: int = 0) -> dict[str, torch.Tensor]:
        """State dict with the names and shapes that the host looks for."""
        module, name, config = self.network
        network = getattr(importlib.import_module(module), name)
        operations = importlib.import_module("comfy.ops").disable_weight_init
        made = network(**config, device="cpu", dtype=torch.float32, operations=operations)
        weights = random_weights(made, seed)
        for key, value in weights.items():
            if key.startswith(self.quiet):
                weights[key] = self.loudness * value
        self.change(weights)
        return weights

    def prompt(self, seed: int, tokens: int = 7) -> list[Any]:
        """A CONDITIONING that no text encoder made."""
        options = dict(self.options)
        if self.masked:
            options["attention_mask"] = torch.ones(1, tokens, dtype=torch.int64)
        if self.pooled:
            options["pooled_output"] = random_tensor((1, self.pooled), seed + 100)
        return conditioning(random_tensor((1, tokens, self.width), seed), **options)

    def latent(self, seed: int = 0, batch: int = 1) -> dict[str, torch.Tensor]:
        """A LATENT at the scale that its VAE gives."""
        formats = importlib.import_module("comfy.latent_formats")
        own = getattr(formats, self.latent_format)()
        return {"samples": own.process_out(0.8 * random_tensor((batch, *self.shape), seed))}


class MadeDirectly(SmallModel):
    """A small SDXL: detection goes by its real size, so the host cannot load it."""

    def load(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
        kind = {"eps": "EPS", "v": "V_PREDICTION"}[self.prediction]
        return sdxl_network(weights=self.weights(seed), dtype=dtype, prediction=kind)


def _looks_like_v(weights: dict[str, torch.Tensor]) -> None:
    name = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
    weights[name] = torch.linspace(-0.3, 0.3, len(weights[name]))


_UNET = ("comfy.ldm.modules.diffusionmodules.openaimodel", "UNetModel")
_FLUX = ("comfy.ldm.flux.model", "Flux")
_MMDIT = ("comfy.ldm.modules.diffusionmodules.mmdit", "OpenAISignatureMMDITWrapper")
_STILL, _VIDEO = (16, 8, 8), (16, 3, 8, 8)
_SDXL = MadeDirectly(
    (*_UNET, SDXL_UNET),
    "SDXL",
    "vp",
    "eps",
    "SDXL",
    (4, 8, 8),
    48,
    "out.2.",
    1280,
    loudness=0.03,
)

MODELS = {
    "SD 1.x": SmallModel((*_UNET, SD1), "BaseModel", "vp", "eps", "SD15", (4, 8, 8), 768, "out.2."),
    "SD 2.x": SmallModel(
        (*_UNET, SD2), "BaseModel", "vp", "eps", "SD15", (4, 8, 8), 1024, "out.2."
    ),
    "SD 2.x v": SmallModel(
        (*_UNET, SD2_V),
        "BaseModel",
        "vp",
        "v",
        "SD15",
        (4, 8, 8),
        1024,
        "out.2.",
        change=_looks_like_v,
    ),
    "SDXL": _SDXL,
    "SDXL v": replace(_SDXL, prediction="v"),
    "SD 3": SmallModel(
        (*_MMDIT, SD3), "SD3", "flow", "flow", "SD3", _STILL, 64, "final_layer.linear.", 2048
    ),
    "Flux": SmallModel(
        (*_FLUX, FLUX),
        "Flux",
        "flow",
        "flow",
        "Flux",
        _STILL,
        64,
        "final_layer.linear.",
        24,
        {"guidance": 3.5},
    ),
    "Flux schnell": SmallModel(
        (*_FLUX, {**FLUX, "guidance_embed": False}),
        "Flux",
        "flow",
        "flow",
        "Flux",
        _STILL,
        64,
        "final_layer.linear.",
        24,
    ),
    "WAN": SmallModel(
        ("comfy.ldm.wan.model", "WanModel", WAN),
        "WAN21",
        "flow",
        "flow",
        "Wan21",
        _VIDEO,
        4096,
        "head.head.",
    ),
    "LTX": SmallModel(
        ("comfy.ldm.lightricks.model", "LTXVModel", LTX),
        "LTXV",
        "flow",
        "flow",
        "LTXV",
        (128, 2, 4, 4),
        4096,
        "proj_out.",
        options={"frame_rate": 25},
        masked=True,
    ),
}
# Of the same families, those that see more than the latent and the prompt.
SEEING_MORE = {
    "SD inpainting": replace(MODELS["SD 1.x"], network=(*_UNET, SD1_INPAINT)),
    "SD pix2pix": replace(
        MODELS["SD 1.x"], network=(*_UNET, SD1_PIX2PIX), host_class="SD15_instructpix2pix"
    ),
    "SD unCLIP": replace(MODELS["SD 2.x"], network=(*_UNET, SD2_UNCLIP), host_class="SD21UNCLIP"),
    "Flux Fill": replace(MODELS["Flux"], network=(*_FLUX, FLUX_FILL)),
    "WAN i2v": replace(MODELS["WAN"], network=("comfy.ldm.wan.model", "WanModel", WAN_I2V)),
    "WAN 2.2 5B": replace(
        MODELS["WAN"],
        network=("comfy.ldm.wan.model", "WanModel", WAN22),
        host_class="WAN22",
        latent_format="Wan22",
        shape=(48, 3, 4, 4),
    ),
}
UNETS = [name for name, small in MODELS.items() if small.network[:2] == _UNET]
FLOWS = [name for name, small in MODELS.items() if small.family == "flow"]
VIDEOS = [name for name, small in MODELS.items() if len(small.shape) == 4]
# Of the families that editors work on, by the first words of their names.
TOKENIZERS = {
    "SD 1.x": ("comfy.sd1_clip", "SD1Tokenizer"),
    "SD 2.x": ("comfy.text_encoders.sd2_clip", "SD2Tokenizer"),
    "SDXL": ("comfy.sdxl_clip", "SDXLTokenizer"),
}
