"""NMG Reconstruction Check inside the host: NMG Sample under the source prompt, judged."""

import importlib

import pytest
import torch
from host_models import first, random_latent, random_prompt, random_tensor
from host_nodes import guidance

SHAPE = (1, 4, 8, 12)
STEPS = 3
SCALES = {"text_scale": 7.5, "noise_map_scale": 1.5, "gradient_scale": 500.0, "mode": "fused"}


@pytest.fixture(scope="module")
def model(calm):
    return calm


@pytest.fixture(scope="module")
def trajectory(nodes, model):
    return invert(nodes, model)


@pytest.fixture(scope="module")
def drawn(nodes, model):
    """Method and trajectory of Edit-Friendly Inversion, made at text scale 3."""
    with torch.inference_mode():
        prompts = random_prompt(1), random_prompt(9)
        node = nodes["NMGEditFriendly"]
        return node.execute(
            *(model, *prompts, random_latent(SHAPE)),
            **{"steps": STEPS, "schedule": "normal", "source_scale": 3.0, "skip": 0, "seed": 0},
        ).result


@pytest.fixture
def check(nodes, model, trajectory, vae):
    def run(**inputs):
        given = {"model": model, "trajectory": trajectory, "negative": random_prompt(9), "vae": vae}
        return nodes["NMGReconstructionCheck"].execute(**{**given, **SCALES, **inputs})

    return run


@pytest.fixture
def sampled(nodes, model, trajectory, decoded):
    """The picture that NMG Sample makes of a trajectory under its own prompt."""

    def run(**inputs):
        given = {"model": model, "trajectory": trajectory, "negative": random_prompt(9)}
        given = {**given, **SCALES, "positive": random_prompt(1), **inputs}
        return decoded(first(nodes["NMGSample"].execute(**given)))

    return run


@pytest.fixture
def decoded(vae):
    decode = importlib.import_module("nodes").VAEDecode().decode
    return lambda latent: decode(vae, latent)[0]


@pytest.fixture
def numbers(nodes):
    """PSNR and SSIM of two pictures, as Image Difference has them."""
    return lambda a, b: nodes["NMGDifference"].execute(a, b).result[1:]


@pytest.fixture
def calls(model):
    """The model, and a list of its calls: without a patch, which would make them others."""
    seen = []
    hook = model.model.diffusion_model.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[1])
    )
    yield model, seen
    hook.remove()


def invert(nodes, model, shape=SHAPE, **options):
    with torch.inference_mode():
        latent = random_latent(shape, **options)
        return first(
            nodes["NMGInvert"].execute(
                model, random_prompt(1), latent, steps=STEPS, schedule="normal"
            )
        )


def clean(shape=SHAPE, **options):
    return random_latent(shape, **options)


@pytest.mark.parametrize("mode", ["fused", "official"])
def test_it_is_nmg_sample_under_the_source_prompt(check, sampled, decoded, numbers, mode):
    image, heat, psnr, ssim, _, words = check(mode=mode).result
    assert torch.equal(image, sampled(mode=mode))
    assert heat.shape == image.shape
    assert [psnr, ssim] == pytest.approx(numbers(image, decoded(clean())), abs=1e-3)
    assert words.startswith(f"Reconstruction {psnr:.1f} dB, ")


def test_it_compares_with_the_same_without_guidance_and_at_text_scale_1(
    nodes, check, sampled, decoded, numbers
):
    plain, reference = first(nodes["NMGPlainGuidance"].execute()), decoded(clean())
    words = check().result[5]
    unheld = numbers(sampled(guidance=plain), reference)[0]
    inverted = numbers(sampled(guidance=plain, text_scale=1.0), reference)[0]
    assert f"without guidance {unheld:.1f} dB, at text_scale 1 {inverted:.1f} dB" in words


@pytest.mark.parametrize(
    ("held", "text_scale", "runs"),
    # At text scale 1 the way without guidance is the way at text scale 1.
    [(True, 7.5, 3), (True, 1.0, 2), (False, 7.5, 2), (False, 1.0, 1)],
)
def test_no_way_is_gone_twice(nodes, check, calls, held, text_scale, runs):
    patched, seen = calls
    guidance = None if held else first(nodes["NMGPlainGuidance"].execute())
    output = check(model=patched, text_scale=text_scale, guidance=guidance)
    assert len(seen) == output.ui["nmg"][0]["forward_calls"] == runs * STEPS


def test_what_a_patch_remembers_of_one_way_does_not_reach_the_next(check, model):
    """The host's EasyCache skips calls by what it saw before in the same run."""
    caching = importlib.import_module("comfy_extras.nodes_easycache").EasyCacheNode
    cached = caching.execute(model, 100.0, 0.0, 1.0, False).result[0]
    curve, words = check(model=cached).result[4:]
    again, same = check(model=cached).result[4:]
    assert words == same
    assert torch.equal(curve, again)
    alone = check(model=cached, text_scale=1.0, guidance=None).result[5]
    assert words.split("at text_scale 1 ")[1][:4] in alone


def test_with_the_original_the_vae_has_its_own_number(check, decoded, numbers):
    original = random_tensor((1, 64, 96, 3), 3).sigmoid()
    image, heat, psnr, ssim, _, words = check(image=original).result
    plain = check().result
    assert torch.equal(image, plain[0])
    assert not torch.equal(heat, plain[1])
    assert [psnr, ssim] == pytest.approx(numbers(image, original))
    vae = numbers(decoded(clean()), original)[0]
    assert words.startswith(plain[5])  # the judgement is on the method alone
    assert f"{psnr:.1f} dB, and what the VAE alone makes of that {vae:.1f} dB" in words


def test_an_original_that_vae_encode_would_cut_is_cut_alike(check):
    original = random_tensor((1, 68, 100, 3), 3).sigmoid()
    cut = original[:, 2:66, 2:98]  # as VAE Encode does, evenly on both sides
    assert check(image=original).result[2:4] == check(image=cut).result[2:4]


def test_of_a_batch_the_words_are_on_the_worst(nodes, model, check, decoded, numbers):
    pair = invert(nodes, model, (2, *SHAPE[1:]))
    image, heat, psnr, _, curve, words = check(trajectory=pair).result
    assert len(image) == len(heat) == 2
    assert len(curve) == 1
    reference = decoded(clean((2, *SHAPE[1:])))
    each = [numbers(a[None], b[None])[0] for a, b in zip(image, reference, strict=True)]
    assert psnr == pytest.approx(sum(each) / 2, abs=1e-3)
    worst = each.index(min(each))
    assert words.startswith(f"Picture {worst + 1} of 2 is the worst. Reconstruction")
    assert f"{each[worst]:.1f} dB" in words


def test_the_curve_is_of_the_distances_of_all_ways(check, pack, monkeypatch):
    module, seen = importlib.import_module("nmg_pack.nodes.looks.reconstruction_check"), []

    def watch(title, x_title, y_title, lines):
        seen.extend(lines)
        return chart(title, x_title, y_title, lines)

    chart = module.line_chart
    monkeypatch.setattr(module, "line_chart", watch)
    curve = check().result[4]
    assert curve.shape == (1, 480, 800, 3)
    names = [line.name for line in seen]
    assert names == ["as set, text scale 7.5"] + [
        f"no guidance, text scale {scale}" for scale in ("7.5", "1")
    ]
    for line in seen:
        assert len(line.y) == STEPS + 1
        assert line.y[0] == 0
        assert min(line.y[1:]) > 0


def test_the_words_stand_on_the_node(check):
    output = check()
    assert output.ui["text"] == (output.result[5],)


def test_a_noise_mask_is_kept_as_by_sampling(nodes, model, check, sampled):
    masked = invert(nodes, model, noise_mask=(random_tensor((1, 1, 8, 12), 5) > 0).float())
    assert torch.equal(check(trajectory=masked).result[0], sampled(trajectory=masked))


METHODS = {
    "negative-prompt": lambda n: first(n["NMGNegativePrompt"].execute(1.0)),
    "proximal": lambda n: first(n["NMGProximal"].execute("hard", 0.9)),
    "NMG Guidance": lambda n: guidance(
        n, gradient="full", noise_map_scale=1.5, gradient_scale=500.0
    ),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_other_methods_are_checked_as_they_sample(nodes, check, sampled, method):
    given = {"guidance": method(nodes)}
    assert torch.equal(check(**given).result[0], sampled(**given))


def test_null_text_is_checked_with_the_embeddings_it_found(nodes, model, trajectory, check):
    node = nodes["NMGNullText"]
    found = node.execute(
        model,
        trajectory,
        random_prompt(9),
        text_scale=7.5,
        inner_steps=2,
        learning_rate=0.01,
        early_stop=0.0,
    ).result
    words = check(trajectory=found[1], guidance=found[0]).result[5]
    assert words.startswith("Reconstruction ")


def test_states_drawn_one_by_one_come_back_at_their_own_scale(check, drawn, decoded):
    guidance, states = drawn
    image, *_, words = check(trajectory=states, guidance=guidance, text_scale=3.0).result
    # The last step down is the model's own: nothing was drawn for it.
    assert (image - decoded(clean())).abs().mean() < 0.02
    assert "faithful: nothing to change." in words
    assert "without guidance" not in words
    other = check(trajectory=states, guidance=guidance, text_scale=30.0).result[5]
    assert "set text_scale (now 30) to the source_scale of Edit-Friendly Inversion" in other


def test_what_cannot_be_checked_is_refused_before_anything_runs(
    nodes, model, vae, check, calls, drawn, trajectory
):
    patched, seen = calls
    pinned = first(nodes["NMGDirectInversion"].execute(1.0, 1))
    wrong = importlib.import_module("copy").copy(vae)
    wrong.latent_channels = 16
    for words, inputs in {
        "Connect the guidance of Edit-Friendly Inversion": {"trajectory": drawn[1]},
        "Connect the trajectory of Edit-Friendly Inversion": {"guidance": drawn[0]},
        "guidance needs an editor": {"guidance": pinned},
        "negative is empty": {"negative": []},
        "text_scale leaves its range": {"text_scale": float("nan")},
        "expected one of 4 channels": {"vae": wrong},
        "Got nothing": {"vae": None},
        "image does not fit the other picture": {"image": torch.zeros(1, 64, 64, 3)},
    }.items():
        with pytest.raises(ValueError, match="^NMG Reconstruction Check: ") as refusal:
            check(**{"model": patched, **inputs})
        assert words in str(refusal.value)
    assert seen == []
