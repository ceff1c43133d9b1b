"""Runs of the pack inside the host with the settings of a recorded run, and how close they are."""

import importlib
from functools import cache

import torch
from host_models import DATA, conditioning, parity_network
from safetensors import safe_open

STEP_TOLERANCE = 1e-4  # of the state's standard deviation, one step from a recorded state
END_TOLERANCE = 1e-2  # of the standard deviation, after a whole run
# The l1 energy has a sign in it: where a residual is almost zero, rounding decides which way that
# one element is pushed. So many elements of a result may differ by more than the tolerance.
FLIPPED = {"l1": 0.002, "smooth_l1": 0.002, "l2": 0.0}


class Recorded:
    """One file of parity vectors."""

    def __init__(self, name):
        with safe_open(DATA / "parity" / f"{name}.safetensors", framework="pt") as file:
            self.parameters = file.metadata()
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def __getitem__(self, key):
        return self.tensors[key]

    @property
    def steps(self):
        return int(self.parameters["steps"])

    def guidance(self, library):
        """The pack's guidance, the scale converted: theirs is of a mean, ours of a sum / 16384."""
        scale = float(self.parameters["gradient_scale"]) * 16384 / self["z0"].numel()
        return library.NoiseMapGuidance(
            float(self.parameters["noise_map_scale"]),
            scale,
            library.Mode.OFFICIAL,
            library.Gradient.FULL,
            library.Loss(self.parameters["loss"]),
            library.Reference.CURRENT,
        )


recorded = cache(Recorded)


def host_parts():
    """(library, host module of models, host module of runs) of the pack, once it is booted."""
    library = importlib.import_module("nmg_pack.nmg_sampler")
    return library, *[
        importlib.import_module(f"nmg_pack.nodes.host.{name}") for name in ("models.model", "runs")
    ]


@cache
def network(name):
    with torch.inference_mode():
        return parity_network(name)


def as_latent(model, z):
    """A state in the model's space as a LATENT."""
    return {"samples": model.model.process_latent_out(z)}


@cache
def invert(host, data, schedule_name):
    """(model, trajectory) of the recorded picture; a trajectory is never written to."""
    _, model_tools, runs = host
    model = network(data.parameters["unet"])
    schedule = model_tools.make_schedule(model, schedule_name, data.steps)
    latent = as_latent(model, data["z0"])
    trajectory, _, _ = runs.run_inversion(model, conditioning(data["source"]), latent, schedule)
    return model, trajectory


def sample(host, data, model, trajectory, branch, editor=None):
    """The run's result in the model's space, with the recorded settings and a branch's prompt.

    With an editor both branches, as they are recorded: (2, ...), the source and the edit.
    """
    library, _, runs = host
    edit, source, _ = runs.run_sampling(
        model,
        trajectory,
        conditioning(data[branch]),
        conditioning(data["uncond"]),
        data.guidance(library),
        float(data.parameters["text_scale"]),
        None,
        editor,
    )
    result = edit if editor is None else torch.cat([source, edit])
    return model.model.process_latent_in(result)


def difference(got, expected):
    """Largest difference over the standard deviation."""
    return float((got - expected).abs().max() / expected.std())


def differences(got, expected):
    """(share of elements that differ by more than END_TOLERANCE, root mean square difference).

    Both in standard deviations of what is expected.
    """
    each = (got - expected).abs() / expected.std()
    return float((each > END_TOLERANCE).float().mean()), float(each.square().mean().sqrt())


def from_recorded(library, trajectory, data, step, state):
    """A trajectory whose descent is `step` alone, starting from `state`."""
    levels = trajectory.schedule.levels[step.entry_to : step.entry + 1]
    lower, upper = data["trajectory"][step.entry_to, None], data["trajectory"][step.entry, None]
    # One more entry carries the state to start from, relabelled to the step's level.
    top = library.NoiseLevel(levels[-1].alpha * 0.99, levels[-1].sigma)
    schedule = library.Schedule("one step", (*levels, top), levels, start=1)
    return library.Trajectory(torch.stack([lower, upper, state]), schedule, trajectory.model)
