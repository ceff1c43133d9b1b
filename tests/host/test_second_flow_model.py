"""The flow model of the second version in the host's own classes: config, text encoder, sampler."""

import json
from typing import ClassVar

import pytest
import torch


@pytest.fixture(scope="module")
def parts(pack):
    """Networks with random weights that make every part matter, and the vocabulary."""
    from demo.second.training import networks, vocabulary

    with torch.inference_mode(False):
        generator = torch.Generator().manual_seed(0)
        flow = networks.make_flow(generator)
        for module in flow.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.weight, std=0.05, generator=generator)
        words = vocabulary.Vocabulary(networks.text_columns["flow"])
        text = networks.make_text("flow", len(words.tokens), generator)
    return torch.nn.ModuleDict({"flow": flow, "text": text}).requires_grad_(False), words


@pytest.fixture(scope="module")
def model(parts):
    """The host's MODEL: stock Flux but for its size and its shift."""
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.supported_models

    from demo.second.training import networks, sample

    class Config(comfy.supported_models.Flux):
        unet_config: ClassVar[dict] = {}
        unet_extra_config: ClassVar[dict] = {}
        sampling_settings: ClassVar[dict] = {"shift": sample.flow_shift}

    config = Config(dict(networks.architectures["flow"]["network"]))
    config.set_inference_dtype(torch.float32, None)
    made = config.get_model({}, device=None)
    made.diffusion_model.load_state_dict(parts[0]["flow"].state_dict())
    return comfy.model_patcher.CoreModelPatcher(
        made,
        load_device=management.get_torch_device(),
        offload_device=management.unet_offload_device(),
    )


@pytest.fixture(scope="module")
def clip(parts):
    """The host's CLIP: the SD 1.x classes with 24 columns."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.supported_models_base

    from demo.second.training import networks

    network, words = parts
    table = torch.zeros((49408, 128))
    table[torch.tensor(words.tokens)] = network["text"].embeddings.token_embedding.weight
    prefix = "clip_l.transformer."
    weights = {f"{prefix}text_model.{k}": v for k, v in network["text"].state_dict().items()}
    weights[f"{prefix}text_model.embeddings.token_embedding.weight"] = table
    weights[f"{prefix}text_projection.weight"] = torch.eye(128)
    target = comfy.supported_models_base.ClipTarget(
        comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel
    )
    numbers = json.loads(json.dumps(networks.architectures["flow"]["text"]))
    return comfy.sd.CLIP(
        target,
        parameters=1,
        state_dict=weights,
        tokenizer_data={"clip_l_max_length": networks.text_columns["flow"]},
        model_options={"clip_l_model_config": numbers, "dtype": torch.float32},
    )


CAPTION = "a red circle left of a small blue heart on a striped green background"


def test_the_hosts_text_encoder_gives_the_context_of_training(parts, clip):
    from demo.second.training import networks

    network, words = parts
    context = networks.encode_text(network["text"], words.rows([CAPTION, ""]))
    for index, text in enumerate((CAPTION, "")):
        found = clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]
        torch.testing.assert_close(found[0], context[index], atol=1e-5, rtol=1e-5)


def test_ksampler_euler_simple_draws_what_evaluation_draws(parts, model, clip):
    import comfy.sample

    from demo.second.training import sample

    network, words = parts
    steps, seed = 5, 3
    expected = sample.latents("flow", network, words, [CAPTION], steps, 3.0, seed)
    noise = torch.randn((1, 16, 16, 16), generator=torch.Generator().manual_seed(seed))
    positive, negative = (
        clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (CAPTION, "")
    )
    found = comfy.sample.sample(
        model,
        noise,
        steps,
        3.0,
        "euler",
        "simple",
        positive,
        negative,
        torch.zeros((1, 16, 16, 16)),
        disable_pbar=True,
    )
    # The two spread 10,000 and `steps` levels: equal to a part in ten thousand.
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=1e-3)
