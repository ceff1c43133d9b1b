"""A trajectory with everything in it, its file, and changes to that."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from toys import noise, training_levels

from nmg_sampler import Family, ModelIdentity, Trajectory, official_schedule

SCHEDULE = official_schedule(training_levels(), 3)
STATES = noise(4, 2, 3, 4, 5, dtype=torch.float32)
MASK = torch.tensor([0.0, 1.0, 0.25, 1.0]).reshape(1, 1, 4, 1).expand(1, 1, 4, 5)
CONDITIONING = [
    [
        noise(1, 7, 5, dtype=torch.float32),
        {
            "pooled_output": noise(1, 5, dtype=torch.float16),
            "strength": 0.1,
            "area": (8, 8, 0, 0),
            "mask": None,
            "set_area_to_bounds": False,
            "tokens": [torch.arange(3), {"deep": (torch.ones(2, 0), 1)}],
            "tensor": "a key named like the file's own marks",
        },
    ],
    [noise(1, 14, 5, seed=1, dtype=torch.float32).transpose(1, 2), {}],
]


def make(**changes):
    """A trajectory with everything in it."""
    fields = {
        "states": STATES,
        "schedule": SCHEDULE,
        "model": ModelIdentity(Family.FLOW, "v", "SD3", "cafe"),
        "source": CONDITIONING,
        "noise_mask": MASK,
    }
    return Trajectory(**fields | changes)


def assert_equal(one, other):
    """The same nested value: types, numbers, dtypes and bits."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)
    else:
        assert one == other


def rewrite(path, header=None, metadata=None, tensors=None):
    """The file again with changed parts; None as a value takes the entry out."""
    with safe_open(path, framework="pt") as file:
        old_tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        old_metadata = file.metadata()
    if header is not None:
        old_header = json.loads(old_metadata["header"]) | header
        old_metadata["header"] = json.dumps(_without_none(old_header))
    save_file(
        _without_none(old_tensors | (tensors or {})),
        path,
        _without_none(old_metadata | (metadata or {})),
    )


def _without_none(entries):
    return {key: value for key, value in entries.items() if value is not None}
