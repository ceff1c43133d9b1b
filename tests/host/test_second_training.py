"""Training code of the second demo models: the transformer's twin, the VAE's scale, the pools."""

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _as_the_host_runs_nodes():
    """Training takes gradients: not in inference mode."""
    return


@pytest.fixture(scope="module")
def training(pack):
    from demo.second.training import (
        flow_twin,
        kept,
        loop,
        networks,
        optimizer,
        picture_stage,
        pool,
        sample,
        text_stage,
        vae_stage,
        vocabulary,
    )

    modules = (flow_twin, kept, loop, networks, optimizer, picture_stage, pool, sample)
    modules += (text_stage, vae_stage, vocabulary)
    return {module.__name__.rsplit(".", 1)[1]: module for module in modules}


@pytest.fixture
def flow(training):
    """The transformer with weights that make every part of it matter."""
    generator = torch.Generator().manual_seed(0)
    network = training["networks"].make_flow(generator)
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.05, generator=generator)
            torch.nn.init.normal_(module.bias, std=0.05, generator=generator)
    return network


def _inputs(height=16, width=16):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((2, 16, height, width), generator=generator)
    return x, torch.tensor([0.2, 0.9]), torch.randn((2, 24, 128), generator=generator)


@pytest.mark.parametrize("size", [(16, 16), (8, 12)])
def test_the_twin_computes_what_the_host_computes(training, flow, size):
    x, t, context = _inputs(*size)
    with torch.no_grad():
        # The host's blocks add in place: it gets a copy.
        expected = flow(x, t, context.clone())
        found = training["flow_twin"].velocity(flow, x, t, context)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_twin_has_a_gradient_for_every_weight(training, flow):
    x, t, context = _inputs()
    training["flow_twin"].velocity(flow, x, t, context).square().mean().backward()
    without = [name for name, p in flow.named_parameters() if p.grad is None or not p.grad.any()]
    # The last double block's text goes on into the single blocks, so all of it counts.
    assert without == []


def test_tokens_left_out_do_not_move_the_others(training, flow):
    x, t, context = _inputs()
    everything = torch.arange(256)
    with torch.no_grad():
        whole = training["flow_twin"].velocity(flow, x, t, context)
        found = training["flow_twin"].velocity(flow, x, t, context, everything)
    torch.testing.assert_close(found.transpose(1, 2).reshape(whole.shape), whole)


def test_orthogonalised_brings_singular_values_near_one(training):
    matrix = torch.randn((12, 40), generator=torch.Generator().manual_seed(0))
    for given in (matrix, matrix.T):
        values = torch.linalg.svdvals(training["optimizer"].orthogonalised(given).float())
        assert values.min() > 0.5
        assert values.max() < 1.4


def test_every_parameter_is_in_one_optimizer(training):
    network = training["networks"].make_vae("flow", torch.Generator())
    parts = training["optimizer"].make(network, 1e-3, 0.0).parts
    inside = [id(p) for part in parts for group in part.param_groups for p in group["params"]]
    assert sorted(inside) == sorted(id(p) for p in network.parameters())


@pytest.mark.parametrize("kind", ["sd", "flow"])
def test_folding_the_scale_changes_latents_and_no_picture(training, kind):
    stage, networks = training["vae_stage"], training["networks"]
    generator = torch.Generator().manual_seed(0)
    vae = networks.make_vae(kind, generator).requires_grad_(False)
    pictures = np.stack([training["pool"].picture_at(i) for i in range(4)])
    tensor = stage.to_tensor(pictures)
    before = networks.decode(vae, networks.encode(vae, tensor)[0])
    stage.fold_latent_scale(vae, kind, pictures)
    latents = networks.encode(vae, tensor)[0]
    torch.testing.assert_close(networks.decode(vae, latents), before, atol=1e-4, rtol=1e-4)
    modelled = networks.latent_format(kind).process_in(latents)
    torch.testing.assert_close(
        modelled.mean(dim=(0, 2, 3)), torch.zeros(modelled.shape[1]), atol=1e-3, rtol=0.0
    )
    assert float(modelled.std()) == pytest.approx(1.0, abs=1e-2)


def test_pool_goes_on_where_it_stopped(training, tmp_path):
    asked = []

    def make(part):
        asked.append(part)
        return np.full((len(part), 2), part.start, np.float16)

    pool = training["pool"].Pool(tmp_path, "numbers")
    pool.fill(100, (2,), np.float16, make)
    assert pool.ready == 100
    pool.count_path.write_text('{"ready": 64}')
    training["pool"].Pool(tmp_path, "numbers").fill(100, (2,), np.float16, make)
    assert [(part.start, part.stop) for part in asked] == [(0, 64), (64, 100), (64, 100)]
    assert pool.entries[99, 0] == 64


def test_every_caption_fits_its_columns_and_has_its_tokens_in_the_table(training):
    from demo.second import scenes

    rng = np.random.default_rng(0)
    captions = [scenes.caption(scenes.random_scene(rng)) for _ in range(300)]
    longest = "a picture of a large cyan square right of a small cyan triangle on a gradient black"
    for columns in training["networks"].text_columns.values():
        vocabulary = training["vocabulary"].Vocabulary(columns)
        rows = vocabulary.rows([*captions, f"{longest} background", ""])
        assert rows.shape == (302, columns)
        assert rows.max() < len(vocabulary.tokens)


@pytest.mark.parametrize("kind", ["sd", "flow"])
def test_the_text_encoder_computes_what_the_host_computes(training, kind):
    networks = training["networks"]
    vocabulary = training["vocabulary"].Vocabulary(networks.text_columns[kind])
    text = networks.make_text(kind, len(vocabulary.tokens), torch.Generator().manual_seed(0))
    rows = vocabulary.rows(["a red circle above a large blue ring on a plain green background"])
    cpu = torch.device("cpu")
    architecture = networks.architectures[kind]
    host = networks.host.make_text_transformer(architecture, torch.float32, cpu)
    table = networks.comfy.ops.manual_cast.Embedding(len(vocabulary.tokens), 128)
    host.embeddings.token_embedding = table
    host.load_state_dict(text.state_dict())
    with torch.no_grad():
        expected = host(rows, dtype=torch.float32)[0]
        torch.testing.assert_close(networks.encode_text(text, rows), expected)


def _picture_stage(training, kind, tmp_path):
    networks = training["networks"]
    vocabulary = training["vocabulary"].Vocabulary(networks.text_columns[kind])
    generator = torch.Generator().manual_seed(0)
    text = networks.make_text(kind, len(vocabulary.tokens), generator)
    pool = training["pool"].Pool(tmp_path, f"latents_{kind}")
    shape = (networks.latent_channels[kind], 16, 16)
    noise = np.random.default_rng(0).standard_normal((4, *shape)).astype(np.float16)
    pool.fill(4, shape, np.float16, lambda part: noise[part.start : part.stop])
    make = {"flow": "FlowStage", "sd": "NoiseStage"}[kind]
    stage = getattr(training["picture_stage"], make)(text, pool, vocabulary, 2, generator)
    return stage, vocabulary


@pytest.mark.parametrize(("kind", "progress"), [("flow", 0.0), ("flow", 0.9), ("sd", 0.0)])
def test_a_picture_network_learns_and_samples(training, tmp_path, kind, progress):
    stage, vocabulary = _picture_stage(training, kind, tmp_path)
    optimizer = training["optimizer"].make(stage.network, 1e-2, 0.0)
    losses = []
    for _ in range(5):
        rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
        loss, _ = stage.loss(rng, generator, progress)
        loss.backward()
        optimizer.step()
        stage.network.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01
    sample = training["sample"]
    found = [
        sample.latents(kind, stage.network, vocabulary, ["a red ring", ""], 2, 3.0, seed)
        for seed in (0, 0, 1)
    ]
    assert found[0].shape == (2, training["networks"].latent_channels[kind], 16, 16)
    torch.testing.assert_close(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_kept_weights_are_half_precision_and_make_checkpoints_again(training, tmp_path):
    loop, kept = training["loop"], training["kept"]
    network = torch.nn.Linear(2, 2)
    averaged = {name: value.clone() for name, value in network.state_dict().items()}
    state = {"network": {}, "averaged": averaged, "optimizer": [], "step": 7, "seconds": 1.5}
    (tmp_path / "first").mkdir()
    loop.save_state(state, tmp_path / "first" / "unet.pt")
    loop.save_state(averaged, tmp_path / "first" / "text_sd.pt")
    written = kept.keep(tmp_path / "first", tmp_path / "weights")
    # The text encoder went on inside the U-Net's network.
    assert [path.name for path in written] == ["unet.safetensors"]
    kept.restore(tmp_path / "second", tmp_path / "weights")
    assert loop.load_averaged(tmp_path / "second" / "unet.pt", network) == 7
    torch.testing.assert_close(network.weight.data, averaged["weight"], atol=1e-3, rtol=1e-3)


class _Line:
    """A stage that learns y = 3 x."""

    name = "line"

    def __init__(self):
        self.network = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.network.weight)

    def loss(self, rng, generator, progress):
        x = torch.randn((16, 1), generator=generator)
        return (self.network(x) - 3.0 * x).square().mean(), {}


def test_a_stage_is_resumed_and_ends_at_its_budget(training, tmp_path):
    loop = training["loop"]
    budget = loop.Budget(steps=300, learning_rate=0.3, warmup_steps=10, ema_decay=0.9)
    loop.train_stage(_Line(), budget, tmp_path, 0, minutes=0.0)
    half = loop.Budget(steps=150, learning_rate=0.3, warmup_steps=10, ema_decay=0.9)
    loop.train_stage(_Line(), half, tmp_path, 0)
    averaged = loop.train_stage(_Line(), budget, tmp_path, 0)
    network = torch.nn.Linear(1, 1, bias=False)
    assert loop.load_averaged(tmp_path / "line.pt", network) == 300
    assert float(averaged.weight) == pytest.approx(3.0, abs=0.1)
