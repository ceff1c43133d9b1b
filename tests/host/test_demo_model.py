"""The demo model in the host: loads under inference mode, samples, reconstructs, refuses junk."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from demo import scenes

pytestmark = pytest.mark.host_surface

model_file = Path(__file__).resolve().parents[2] / "demo" / "model.safetensors"


@pytest.fixture(scope="module")
def demo_model(pack):
    return importlib.import_module("nmg_pack.nodes.host.models.demo_model")


@pytest.fixture(scope="module")
def parts(demo_model):
    with torch.inference_mode():
        return demo_model.load_demo_model(model_file)


@pytest.fixture(scope="module")
def stored():
    with safe_open(model_file, framework="pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _encode(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def _sample(model, clip, seed):
    sampling = importlib.import_module("comfy.sample")
    blank = torch.zeros((1, 4, 16, 16))
    noise = sampling.prepare_noise(blank, seed)
    positive = _encode(clip, "a red star on a plain blue background")
    return sampling.sample(
        model,
        noise,
        2,
        5.0,
        "ddim",
        "normal",
        positive,
        _encode(clip, ""),
        blank,
        disable_pbar=True,
        seed=seed,
    )


def test_file_is_small_and_carries_its_card(stored):
    metadata, _ = stored
    assert model_file.stat().st_size <= 16 * 1024 * 1024
    card = json.loads(metadata["card"])
    assert card["license"] == "Apache-2.0"
    assert card["data"]
    assert card["recipe"]


def test_caption_becomes_the_usual_conditioning(parts):
    _, clip, _ = parts
    ((context, options),) = _encode(clip, "a red star on a plain blue background")
    assert context.shape == (1, 77, 128)
    assert options["pooled_output"].shape == (1, 128)
    assert torch.isfinite(context).all()


def test_words_change_the_conditioning(parts):
    _, clip, _ = parts
    red, blue = (_encode(clip, f"a {word} star")[0][0] for word in ("red", "blue"))
    assert (red - blue).abs().max() > 0.1


def test_latents_are_stock_stable_diffusion_latents(parts):
    model, _, vae = parts
    latent_formats = importlib.import_module("comfy.latent_formats")
    assert isinstance(model.model.latent_format, latent_formats.SD15)
    rng = np.random.default_rng(0)
    pictures = np.stack([scenes.render(scenes.random_scene(rng)) for _ in range(8)])
    latents = model.model.process_latent_in(vae.encode(torch.from_numpy(pictures)))
    assert latents.shape == (8, 4, 16, 16)
    # Eight pictures only: the whole distribution has variance 1.
    assert latents.std().item() == pytest.approx(1.0, abs=0.2)


def test_the_live_preview_has_the_colours_of_the_picture(parts):
    model, _, vae = parts
    latent_formats = importlib.import_module("comfy.latent_formats")
    preview = importlib.import_module("latent_preview")
    rng = np.random.default_rng(77)
    pictures = np.stack([scenes.render(scenes.random_scene(rng)) for _ in range(12)])
    latents = model.model.process_latent_in(vae.encode(torch.from_numpy(pictures))).float()
    cells = 255 * pictures.reshape(12, 16, 8, 16, 8, 3).mean((2, 4))

    def error(form):
        previewer = preview.Latent2RGBPreviewer(
            form.latent_rgb_factors, form.latent_rgb_factors_bias
        )
        shown = [previewer.decode_latent_to_preview(latent[None]) for latent in latents]
        return np.abs(np.stack([np.asarray(one) for one in shown]) - cells).mean()

    ours = model.model.latent_format
    # Of 255; the stock factors are of another VAE.
    assert error(ours) < 45
    assert error(latent_formats.SD15()) > 3 * error(ours)
    assert type(ours) is latent_formats.SD15


def test_two_steps_through_the_host_give_a_finite_picture(parts):
    model, clip, vae = parts
    picture = vae.decode(_sample(model, clip, 1))
    assert picture.shape == (1, 128, 128, 3)
    assert torch.isfinite(picture).all()


def test_same_seed_same_picture_after_clone_and_unload(parts):
    model, clip, _ = parts
    first = _sample(model, clip, 1)
    importlib.import_module("comfy.model_management").unload_all_models()
    torch.testing.assert_close(_sample(model.clone(), clip, 1), first, rtol=0.0, atol=0.0)
    assert (_sample(model, clip, 2) - first).abs().max() > 0.1


def test_vae_reconstructs_held_out_pictures(parts):
    _, _, vae = parts
    rng = np.random.default_rng(77)
    pictures = np.stack([scenes.render(scenes.random_scene(rng)) for _ in range(12)])
    found = vae.decode(vae.encode(torch.from_numpy(pictures))).numpy()
    psnr_db = -10.0 * np.log10(np.square(found - pictures).mean(axis=(1, 2, 3)))
    assert psnr_db.mean() >= 27.0


def test_missing_file_is_named(demo_model, tmp_path):
    with pytest.raises(
        ValueError, match=r"path has no file.*gone\.safetensors.*demo/training/train"
    ):
        demo_model.load_demo_model(tmp_path / "gone.safetensors")


def test_truncated_file_is_refused(demo_model, tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(model_file.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"not a readable safetensors file.*cut\.safetensors"):
        demo_model.load_demo_model(path)


def test_file_of_another_kind_is_refused(demo_model, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="another kind of model.*None.*expected 1"):
        demo_model.load_demo_model(path)


@pytest.mark.parametrize("prefix", ["unet.", "vae.", "text.token_rows"])
def test_file_without_a_part_is_refused(demo_model, tmp_path, stored, prefix):
    metadata, tensors = stored
    kept = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    path = tmp_path / "part.safetensors"
    save_file(kept, path, metadata)
    with pytest.raises(ValueError, match=r"no complete demo model.*part\.safetensors"):
        demo_model.load_demo_model(path)
