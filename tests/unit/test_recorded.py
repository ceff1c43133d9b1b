"""Recorded states: nothing is copied on the CPU, and a device has the next one in time."""

import pytest
import torch
from toys import IDENTITY, SmoothNoise, geometric_sigmas, noise

from nmg_sampler import Trajectory, fused_guidance, invert, sample, schedule_from_sigmas
from nmg_sampler.trajectory import Record, RecordedStates

STATES = noise(5, 2, 3, 4, 4)
LIKE = STATES[0]
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Sending(RecordedStates):
    """On the CPU, but as if it had to be moved: keeps a record of what is sent and waited for."""

    def __init__(self, states, order=-1):
        super().__init__(states, order)
        self.log, self.on_its_way = [], {}

    def is_ahead_on(self, device):
        return True

    def send(self, entry, like):
        self.log.append(f"send {entry}")
        state = self.states[entry].clone()
        self.on_its_way[id(state)] = entry, state
        return state

    def wait(self, state):
        self.log.append(f"wait {self.on_its_way[id(state)][0]}")


def test_on_the_cpu_an_entry_is_the_recorded_state_itself():
    for entry in (4, 2, 2, 0):
        state = RecordedStates(STATES).at(entry, LIKE)
        assert state.data_ptr() == STATES[entry].data_ptr()


def test_an_entry_comes_in_the_dtype_that_is_asked_for():
    state = RecordedStates(STATES).at(1, LIKE.float())
    assert torch.equal(state, STATES[1].float())


def test_the_next_state_is_sent_while_one_is_in_use():
    recorded = Sending(STATES)
    assert torch.equal(recorded.at(4, LIKE), STATES[4])
    # What is waited for does not include what was sent for later.
    assert recorded.log == ["send 4", "wait 4", "send 3"]
    recorded.log.clear()
    assert torch.equal(recorded.at(3, LIKE), STATES[3])
    assert recorded.log == ["wait 3", "send 2"]


@pytest.mark.parametrize(
    ("order", "asked"),
    [
        (-1, [4, 3, 2, 1, 0]),
        (-1, [4, 3, 3, 2, 2, 1, 1, 0]),  # the state a step starts from and the one it goes to
        (1, [0, 1, 2, 3, 4]),
    ],
    ids=["down", "twice", "up"],
)
def test_every_state_is_sent_once(order, asked):
    recorded = Sending(STATES, order)
    for entry in asked:
        assert torch.equal(recorded.at(entry, LIKE), STATES[entry])
    assert sorted(line for line in recorded.log if "send" in line) == [
        f"send {entry}" for entry in range(5)
    ]


def test_states_that_are_left_out_come_as_well_and_are_not_kept():
    recorded = Sending(STATES)
    for entry in (4, 2, 0, 3):
        assert torch.equal(recorded.at(entry, LIKE), STATES[entry])
        assert len(recorded._moved) <= 2


def test_a_record_is_what_was_kept_whatever_becomes_of_it():
    record, state = Record(2, like=LIKE), STATES[3].clone()
    record.keep(0, state)
    record.keep(1, STATES[2])
    state.zero_()
    assert torch.equal(record.complete(), STATES[[3, 2]])


@on_cuda
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_a_cuda_device_gets_the_same_numbers(dtype):
    states = noise(9, 2, 4, 64, 64)
    recorded, like = RecordedStates(states), torch.zeros(1, device="cuda", dtype=dtype)
    total = torch.zeros_like(states[0], device="cuda", dtype=dtype)
    for entry in (8, 7, 7, 6, 3, 2, 1, 0):
        total += recorded.at(entry, like)
        assert torch.equal(recorded.at(entry, like).cpu(), states[entry].to(dtype))
    assert torch.isfinite(total).all()


@on_cuda
def test_a_run_on_a_cuda_device_is_the_run_on_the_cpu():
    schedule = schedule_from_sigmas("x", geometric_sigmas(6))
    results = []
    for device in ("cpu", "cuda"):
        states = invert(noise(2, 4, 8, 8).to(device), schedule, SmoothNoise())
        assert states.device.type == "cpu"
        assert not states.is_pinned()
        trajectory = Trajectory(states, schedule, IDENTITY)
        method = fused_guidance(1.0, 5000.0)
        results.append(sample(trajectory, SmoothNoise(0.5), method, 3.0, device=device).edit.cpu())
    torch.testing.assert_close(*results, rtol=0, atol=1e-9)
