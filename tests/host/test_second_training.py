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
    from demo.second.training import flow_twin, loop, networks, optimizer, pool, vae_stage

    return {
        "flow_twin": flow_twin,
        "loop": loop,
        "networks": networks,
        "optimizer": optimizer,
        "pool": pool,
        "vae_stage": vae_stage,
    }


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
