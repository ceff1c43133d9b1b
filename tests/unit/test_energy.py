"""The energy and its slope."""

import pytest
import torch
from toys import noise

from nmg_sampler import Loss, energy
from nmg_sampler.methods import SMOOTH_L1_BETA, energy_slope

# Float64 rounding of sums of about 50 numbers of size 1.
EXACT = {"rtol": 0, "atol": 1e-12}

losses = pytest.mark.parametrize("loss", Loss, ids=lambda loss: loss.value)


def pair(batch=2):
    """A state and its reference, no element equal."""
    return noise(batch, 3, 4, 4), noise(batch, 3, 4, 4, seed=1)


def test_l1_is_the_sum_of_absolute_differences_of_each_sample():
    x, reference = torch.tensor([[[1.0, -2.0]], [[0.0, 3.0]]]), torch.zeros(2, 1, 2)
    assert energy(x, reference, Loss.L1).tolist() == [3.0, 3.0]


def test_l2_is_the_sum_of_squared_differences_of_each_sample():
    x, reference = torch.tensor([[[1.0, -2.0]], [[0.0, 3.0]]]), torch.zeros(2, 1, 2)
    assert energy(x, reference, Loss.L2).tolist() == [5.0, 9.0]


def test_smooth_l1_is_that_of_torch():
    x, reference = pair()
    x[0, 0, 0] = reference[0, 0, 0] + 0.3 * SMOOTH_L1_BETA  # inside the quadratic part
    expected = torch.nn.functional.smooth_l1_loss(
        x, reference, reduction="none", beta=SMOOTH_L1_BETA
    )
    torch.testing.assert_close(
        energy(x, reference, Loss.SMOOTH_L1), expected.flatten(1).sum(1), **EXACT
    )


@losses
def test_the_slope_is_the_derivative_of_the_energy(loss):
    x, reference = pair()
    x[0, 0, 0] = reference[0, 0, 0] + 0.3 * SMOOTH_L1_BETA
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(leaf, reference, loss).sum(), leaf)
    torch.testing.assert_close(energy_slope(x, reference, loss), gradient, **EXACT)


def test_l2_passes_gradcheck():
    leaf, reference = noise(2, 1, 2, 2).requires_grad_(), noise(2, 1, 2, 2, seed=1)
    assert torch.autograd.gradcheck(lambda state: energy(state, reference, Loss.L2), leaf)


@losses
def test_the_energy_and_slope_of_equal_states_are_zero(loss):
    x, _ = pair()
    assert energy(x, x, loss).tolist() == [0.0, 0.0]
    assert not energy_slope(x, x, loss).any()


@losses
def test_the_slope_points_away_from_the_reference(loss):
    x, reference = pair()
    assert (energy_slope(x, reference, loss).sign() == (x - reference).sign()).all()


def test_smooth_l1_has_the_slope_of_l1_outside_its_quadratic_part():
    x, reference = pair()
    assert ((x - reference).abs() > SMOOTH_L1_BETA).all()
    assert torch.equal(
        energy_slope(x, reference, Loss.SMOOTH_L1), energy_slope(x, reference, Loss.L1)
    )
    # The energies differ by the constant that makes smooth_l1 continuous.
    offset = 0.5 * SMOOTH_L1_BETA * x[0].numel()
    torch.testing.assert_close(
        energy(x, reference, Loss.SMOOTH_L1) + offset, energy(x, reference, Loss.L1), **EXACT
    )


@losses
def test_a_batch_of_two_has_the_energies_of_two_singles(loss):
    x, reference = pair()
    singles = [energy(x[k : k + 1], reference[k : k + 1], loss) for k in range(2)]
    assert torch.equal(energy(x, reference, loss), torch.cat(singles))


@losses
@pytest.mark.parametrize("shape", [(1, 4, 5), (2, 4, 3, 5), (1, 4, 2, 3, 3)], ids=str)
def test_any_number_of_spatial_dimensions_and_odd_sizes_will_do(loss, shape):
    x, reference = noise(*shape), noise(*shape, seed=1)
    assert energy(x, reference, loss).shape == shape[:1]
    assert energy_slope(x, reference, loss).shape == shape


@losses
def test_the_dtype_is_kept(loss):
    x, reference = noise(1, 2, 3, 3, dtype=torch.float32), noise(1, 2, 3, 3, dtype=torch.float32)
    assert energy(x, reference, loss).dtype == torch.float32
    assert energy_slope(x, reference, loss).dtype == torch.float32
