"""What cannot work gets a message: which node, what was got, what was expected, what to do."""

import dataclasses
import importlib
import json
import os
from pathlib import Path

import pytest
import torch
from family_models import MODELS
from host_models import (
    first,
    make_patcher,
    parity_network,
    parity_weights,
    random_latent,
    random_prompt,
    random_tensor,
)
from host_nodes import choices
from safetensors import safe_open
from safetensors.torch import save_file

SHAPE = (1, 4, 8, 8)
NAN, INFINITY = float("nan"), float("inf")
DISPLAY = {
    "NMGInvert": "NMG Invert",
    "NMGSample": "NMG Sample",
    "NMGGuidance": "NMG Guidance",
    "NMGSaveTrajectory": "Save NMG Trajectory",
    "NMGLoadTrajectory": "Load NMG Trajectory",
}


@pytest.fixture(scope="module")
def trajectory(pack, nodes, model):
    with torch.inference_mode():
        output = nodes["NMGInvert"].execute(
            model, random_prompt(1), random_latent(SHAPE), steps=3, schedule="official"
        )
        return first(output)


@pytest.fixture
def folders(pack, tmp_path, monkeypatch):
    """Input and output folders of the host, empty; gives (input, output)."""
    paths = importlib.import_module("folder_paths")
    made = tmp_path / "input", tmp_path / "output"
    for folder in made:
        folder.mkdir()
    monkeypatch.setattr(paths, "input_directory", str(made[0]))
    monkeypatch.setattr(paths, "output_directory", str(made[1]))
    return made


@pytest.fixture
def refused(library, nodes):
    """Runs a node and checks the message: its node, the words given, and the common form."""

    def check(node, inputs, *words, error=None):
        with pytest.raises(error or library.InvalidInput) as raised:
            nodes[node].execute(**inputs)
        message = str(raised.value)
        assert message.startswith(f"{DISPLAY[node]}: "), message
        for word in (*words, "Got ", "expected "):
            assert word in message, f"{word!r} is not in: {message}"
        what_to_do = message.split("expected ", 1)[1].partition(". ")[2]
        assert len(what_to_do) > 10, f"it does not say what to do: {message}"
        return message

    return check


def inversion(model, **inputs):
    return {
        "model": model,
        "positive": random_prompt(1),
        "latent_image": random_latent(SHAPE),
        "steps": 3,
        "schedule": "official",
        **inputs,
    }


def sampling(model, trajectory, **inputs):
    return {
        "model": model,
        "trajectory": trajectory,
        "positive": random_prompt(2),
        "negative": random_prompt(3),
        "text_scale": 5.0,
        "noise_map_scale": 1.0,
        "gradient_scale": 5000.0,
        "mode": "fused",
        **inputs,
    }


# The latent.


@pytest.mark.parametrize("channels", [1, 3, 16])
def test_a_latent_with_other_channels(refused, model, channels):
    latent = random_latent((1, channels, 8, 8))
    refused("NMGInvert", inversion(model, latent_image=latent), f"{channels} channels", "takes 4")


def test_a_latent_without_height_and_width(refused, model):
    refused("NMGInvert", inversion(model, latent_image=random_latent((1, 4, 8))), "latent_image")


@pytest.mark.parametrize("shape", [(0, 4, 8, 8), (1, 4, 8, 0)])
def test_a_latent_of_nothing(refused, model, shape):
    latent = {"samples": torch.zeros(shape)}
    refused("NMGInvert", inversion(model, latent_image=latent), "latent_image is empty")


def test_a_latent_of_a_video(refused, model):
    latent = random_latent((1, 4, 2, 8, 8))
    refused("NMGInvert", inversion(model, latent_image=latent), "latent_image")


def test_a_latent_of_a_still_picture_for_a_video(refused):
    small = MODELS["WAN"]
    latent = random_latent((1, 16, 8, 8))
    inputs = inversion(small.load(), latent_image=latent, schedule="simple")
    refused("NMGInvert", inputs, "4 dimensions", "(batch, 16, frames, height, width)")


def test_a_nested_latent(refused, model):
    nested = importlib.import_module("comfy.nested_tensor").NestedTensor
    latent = {"samples": nested([random_tensor(SHAPE, 1), random_tensor(SHAPE, 2)])}
    refused("NMGInvert", inversion(model, latent_image=latent), "latent_image", "nested")


@pytest.mark.parametrize("bad", [NAN, INFINITY])
def test_a_latent_that_is_not_finite(refused, library, model, bad):
    latent = random_latent(SHAPE)
    latent["samples"][0, 0, 0, 0] = bad
    refused("NMGInvert", inversion(model, latent_image=latent), error=library.NMGError)


def test_a_noise_mask_that_is_not_finite(refused, model):
    mask = torch.ones(1, 8, 8)
    mask[0, 0, 0] = NAN
    latent = random_latent(SHAPE, noise_mask=mask)
    refused("NMGInvert", inversion(model, latent_image=latent), "mask")


# The schedule.


@pytest.mark.parametrize("schedule", ["official", "official-masactrl", "ddim_uniform", "karras"])
@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps(refused, model, schedule, steps):
    refused("NMGInvert", inversion(model, steps=steps, schedule=schedule), "steps", str(steps))


def test_one_step_where_two_are_needed(refused, model):
    refused("NMGInvert", inversion(model, steps=1), "steps", "Got 1", "2")


@pytest.mark.parametrize("schedule", ["official", "official-masactrl"])
def test_more_steps_than_the_model_has(refused, model, schedule):
    refused("NMGInvert", inversion(model, steps=1001, schedule=schedule), "steps", "1001")


@pytest.fixture
def distilled(model, host):
    """The model as the host's ModelSamplingDiscrete makes it for LCM: 50 timesteps."""
    return (
        host("comfy_extras.nodes_model_advanced")
        .ModelSamplingDiscrete()
        .patch(model, "lcm", False)[0]
    )


@pytest.mark.parametrize("schedule", ["official", "official-masactrl"])
@pytest.mark.parametrize("steps", [0, 50])
def test_steps_for_a_distilled_model_are_told_with_what_to_do(refused, distilled, schedule, steps):
    wrong = inversion(distilled, steps=steps, schedule=schedule)
    message = refused("NMGInvert", wrong, "steps", "This model has 50 timesteps", "4 to 8 steps")
    assert "50 is usual" not in message


@pytest.mark.parametrize("schedule", ["official", "official-masactrl"])
def test_a_distilled_model_takes_the_steps_it_is_told_to_take(nodes, distilled, schedule):
    for steps in (4, 8):
        made = first(
            nodes["NMGInvert"].execute(**inversion(distilled, steps=steps, schedule=schedule))
        )
        assert len(made.states) == steps + 1


def test_every_schedule_at_every_number_of_steps_works_or_is_refused(library, model_tools, model):
    for name in model_tools.SCHEDULES:
        for steps in (1, 2, 3, 4, 5, 10, 50, 999, 1000):
            try:
                schedule = model_tools.make_schedule(model, name, steps)
            except library.InvalidInput as error:
                assert steps not in (5, 10, 50), f"{name}, {steps} steps: {error}"  # noqa: PT017
            else:
                assert len(schedule.levels) >= 2


@pytest.mark.parametrize(
    ("sigmas", "word"),
    [
        ([], "0"),
        ([5.0], "1"),
        ([5.0, NAN, 0.0], "nan"),
        ([INFINITY, 5.0, 0.0], "inf"),
        ([5.0, -1.0], "-1"),
        ([5.0, 2.0, 3.0, 0.0], "index 2"),
        ([5.0, 5.0, 0.0], "index 1"),
        ([0.0, 2.0, 5.0], "FlipSigmas"),
    ],
    ids=str,
)
def test_sigmas_that_are_no_schedule(refused, model, sigmas, word):
    refused("NMGInvert", inversion(model, sigmas=torch.tensor(sigmas)), "sigmas", word)


def split(host, sigmas):
    """The high and the low half of SIGMAS, by the host's own node."""
    return host("comfy_extras.nodes_custom_sampler").SplitSigmas.execute(sigmas, 2).result


@pytest.mark.parametrize("family", ["discrete", "flow"])
@pytest.mark.parametrize("scheduler", ["normal", "karras", "simple", "beta"])
def test_the_high_half_of_sigmas_and_no_other_is_refused(
    refused, library, model_tools, model, host, scheduler, family
):
    if family == "flow":
        model = flow(model, host)
    sampling = model.get_model_object("model_sampling")
    all_of_them = host("comfy.samplers").calculate_sigmas(sampling, scheduler, 8)
    high, low = split(host, all_of_them)
    wrong = r"^sigmas end far above the picture.*Got a last sigma of .*low_sigmas of SplitSigmas"
    with pytest.raises(library.InvalidInput, match=wrong):
        model_tools.make_custom_schedule(model, high)
    for good in (all_of_them, low, torch.cat([low[:-1], sampling.sigma_min.reshape(1)])):
        if good[-2] > good[-1]:
            assert len(model_tools.make_custom_schedule(model, good).levels) == len(good)


def test_sigmas_that_end_above_the_picture_are_refused_by_the_node(refused, model):
    refused("NMGInvert", inversion(model, sigmas=torch.tensor([14.0, 7.0, 3.0])), "sigmas", "Got a")


def flow(model, host):
    """The model with the noise levels of a flow."""
    patch = host("comfy_extras.nodes_model_advanced").ModelSamplingSD3().patch
    return patch(model, 3.0)[0]


# The model.


def nan_from(model, evaluation, value=NAN):
    """A clone whose network answers NaN from the given evaluation on, counted from 1."""
    seen = []

    def wrapper(apply, args):
        seen.append(1)
        out = apply(args["input"], args["timestep"], **args["c"])
        return out * value if len(seen) >= evaluation else out

    broken = model.clone()
    broken.set_model_unet_function_wrapper(wrapper)
    return broken


@pytest.mark.parametrize("value", [NAN, INFINITY])
def test_a_model_that_answers_nan_in_the_inversion(refused, library, model, value):
    inputs = inversion(nan_from(model, 2, value))
    refused("NMGInvert", inputs, "step 2 of 3", "sigma", error=library.NotFinite)


@pytest.mark.parametrize(
    ("mode", "evaluation"), [("fused", 2), ("official", 3), ("official", 4)], ids=str
)
def test_a_model_that_answers_nan_in_the_edit(
    refused, library, model, trajectory, mode, evaluation
):
    inputs = sampling(nan_from(model, evaluation), trajectory, mode=mode)
    refused("NMGSample", inputs, "step 2 of 2", "sigma", error=library.NotFinite)


def test_a_gradient_that_is_not_finite(refused, library, model, trajectory, nodes):
    """Forward is fine, backward divides by zero: the square root of nothing."""
    broken = model.clone()
    broken.set_model_attn1_patch(
        lambda q, k, v, options: (q + (q - q.detach()).square().sum().sqrt(), k, v)
    )
    inputs = sampling(broken, trajectory, mode="official")
    refused("NMGSample", inputs, "step 1 of 2", error=library.NotFinite)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("EDM", "EDM"),
        ("V_PREDICTION_DDPM", "V_PREDICTION_DDPM"),
        ("FLOW_COSMOS", "COSMOS"),
        ("IMG_TO_IMG", "IMG_TO_IMG"),
    ],
)
@pytest.mark.parametrize("schedule", ["official", "karras", "beta"])
def test_a_model_family_that_is_not_supported(refused, kind, word, schedule):
    if not hasattr(importlib.import_module("comfy.model_base").ModelType, kind):
        pytest.skip(f"this ComfyUI has no models of the kind {kind}")
    config, weights = parity_weights("two")
    other = make_patcher(config, weights, prediction=kind)
    refused("NMGInvert", inversion(other, schedule=schedule), "model", word, "SD 1.x")


def test_a_flow_model_for_a_trajectory_of_another_family(refused, library, trajectory):
    config, weights = parity_weights("two")
    other = make_patcher(config, weights, prediction="FLOW")
    differences = "family: trajectory 'vp', model 'flow'", "prediction: trajectory 'eps'"
    refused(
        "NMGSample", sampling(other, trajectory), *differences, error=library.TrajectoryMismatch
    )


# The trajectory.


def test_a_trajectory_of_another_checkpoint(refused, library, trajectory):
    config, _ = parity_weights("two")
    other = make_patcher(config, seed=7)
    message = refused(
        "NMGSample", sampling(other, trajectory), "fingerprint", error=library.TrajectoryMismatch
    )
    assert trajectory.model.fingerprint in message


def test_a_trajectory_of_another_architecture(refused, library, trajectory):
    config, _ = parity_weights("two")
    other = make_patcher({**config, "num_heads": 2}, parity_weights("two")[1])
    refused("NMGSample", sampling(other, trajectory), "fingerprint")


def test_a_trajectory_of_the_other_prediction(refused, trajectory):
    other = parity_network("two", prediction="V_PREDICTION")
    refused("NMGSample", sampling(other, trajectory), "prediction", "'eps'", "'v'")


@pytest.mark.parametrize(
    ("field", "value"),
    [("family", "flow"), ("latent_format", "SDXL"), ("prediction", "v"), ("fingerprint", "00")],
)
def test_a_trajectory_that_differs_in_one_thing(refused, library, model, trajectory, field, value):
    identity = dataclasses.replace(
        trajectory.model, **{field: library.Family(value) if field == "family" else value}
    )
    other = dataclasses.replace(trajectory, model=identity)
    refused("NMGSample", sampling(model, other), field.replace("_", " "), repr(value))


def test_a_trajectory_with_other_channels(refused, model, trajectory):
    other = dataclasses.replace(trajectory, states=torch.zeros(4, 1, 3, 8, 8))
    refused("NMGSample", sampling(model, other), "channels")


# Prompts, scales, masks, choices.


@pytest.mark.parametrize("which", ["positive", "negative"])
def test_an_empty_prompt(refused, model, trajectory, which):
    refused("NMGSample", sampling(model, trajectory, **{which: []}), which, "CLIP Text Encode")


def test_an_empty_source_prompt(refused, model):
    refused("NMGInvert", inversion(model, positive=[]), "positive", "CLIP Text Encode")


@pytest.mark.parametrize("mode", ["official", "fused"])
@pytest.mark.parametrize("name", ["text_scale", "noise_map_scale", "gradient_scale"])
@pytest.mark.parametrize("value", [-1.0, NAN, INFINITY])
def test_a_scale_that_is_none(refused, model, trajectory, mode, name, value):
    inputs = sampling(model, trajectory, mode=mode, **{name: value})
    refused("NMGSample", inputs, name, f"Got {value}")


@pytest.mark.parametrize("name", ["noise_map_scale", "gradient_scale", "inside", "outside"])
@pytest.mark.parametrize("value", [-1.0, NAN, INFINITY])
def test_a_scale_of_the_guidance_that_is_none(refused, name, value):
    refused("NMGGuidance", choices(**{name: value}), name, f"Got {value}")


@pytest.mark.parametrize(
    ("start", "end"), [(0.5, 0.5), (0.8, 0.2), (-0.1, 1.0), (0.0, 1.1), (NAN, 1.0), (0.0, NAN)]
)
def test_a_part_of_the_run_that_is_none(refused, start, end):
    refused("NMGGuidance", choices(start=start, end=end), "start", str(start), str(end))


@pytest.mark.parametrize("bad", [NAN, INFINITY])
def test_a_mask_that_is_not_finite(refused, model, trajectory, bad):
    mask = torch.ones(1, 8, 8)
    mask[0, 3, 3] = bad
    refused("NMGSample", sampling(model, trajectory, mask=mask), "mask")


def test_an_editor_of_a_version_to_come(refused, model, trajectory):
    refused("NMGSample", sampling(model, trajectory, editor=object()), "editor", "object")


def test_an_error_is_told_before_the_network_is_asked(nodes, library, model, trajectory):
    """Nobody should wait for an inversion to hear that a number was wrong."""
    asked = []

    def wrapper(apply, args):
        asked.append(1)
        return apply(args["input"], args["timestep"], **args["c"])

    counted = model.clone()
    counted.set_model_unet_function_wrapper(wrapper)
    for inputs in (
        {"text_scale": -1.0},
        {"noise_map_scale": NAN},
        {"mask": torch.full((1, 8, 8), NAN)},
    ):
        with pytest.raises(library.InvalidInput):
            nodes["NMGSample"].execute(**sampling(counted, trajectory, **inputs))
    assert not asked


# Files.


def saved(nodes, trajectory, prefix="kept"):
    return Path(first(nodes["NMGSaveTrajectory"].execute(trajectory, prefix)))


@pytest.mark.parametrize("prefix", ["../away", "/tmp/away", "a/../../away", "a/b/../../../away"])
def test_a_prefix_that_leads_out(refused, trajectory, folders, prefix):
    inputs = {"trajectory": trajectory, "filename_prefix": prefix}
    refused("NMGSaveTrajectory", inputs, "filename_prefix", repr(prefix))
    assert not list(folders[1].rglob("*"))
    assert not list(folders[1].parent.glob("*away*"))


def test_a_prompt_that_a_file_cannot_keep(refused, trajectory, folders):
    inputs = {
        "trajectory": dataclasses.replace(trajectory, source=random_prompt(1, control=object())),
        "filename_prefix": "with control",
    }
    refused("NMGSaveTrajectory", inputs, "source", "object")
    assert not list(folders[1].rglob("*.safetensors*"))


@pytest.mark.parametrize(
    "name",
    [
        "kept_00001_.nmg.safetensors",
        "models/kept_00001_.nmg.safetensors",
        "output/../secret_00001_.nmg.safetensors",
        "output/../../etc/x.nmg.safetensors",
        "output/..\\secret_00001_.nmg.safetensors",
        "..\\output\\kept_00001_.nmg.safetensors",
        "/etc/x.nmg.safetensors",
        "output//etc/x.nmg.safetensors",
        "output/kept.safetensors",
        "output/link_00001_.nmg.safetensors",
        "output/linked/secret_00001_.nmg.safetensors",
        "output/\0.nmg.safetensors",
        "output",
        "",
    ],
)
def test_a_file_outside_the_folders(refused, nodes, trajectory, folders, name):
    path = saved(nodes, trajectory)
    secret = folders[1].parent / "secret_00001_.nmg.safetensors"
    secret.write_bytes(path.read_bytes())
    try:
        (folders[1] / "link_00001_.nmg.safetensors").symlink_to(secret)
        (folders[1] / "linked").symlink_to(secret.parent, target_is_directory=True)
    except OSError:
        pytest.skip("no links on this file system")
    refused("NMGLoadTrajectory", {"file": name}, "file", "outside")
    answer = nodes["NMGLoadTrajectory"].validate_inputs(name)
    assert isinstance(answer, str)
    assert answer.startswith("Load NMG Trajectory: ")


def test_a_file_that_is_not_there(refused, folders):
    refused("NMGLoadTrajectory", {"file": "input/gone.nmg.safetensors"}, "does not exist")


def test_a_folder_in_place_of_a_file(refused, folders):
    (folders[0] / "folder.nmg.safetensors").mkdir()
    refused("NMGLoadTrajectory", {"file": "input/folder.nmg.safetensors"}, "file")


def rewritten(path, change):
    """The file with its metadata changed by `change(metadata)`."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    change(metadata, tensors)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.99])
def test_a_truncated_file(refused, nodes, trajectory, folders, kept):
    path = saved(nodes, trajectory)
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    refused("NMGLoadTrajectory", {"file": f"output/{path.name}"}, path.name, "cannot be read")


def test_a_file_that_is_no_safetensors(refused, folders):
    name = "text.nmg.safetensors"
    (folders[0] / name).write_bytes(b"not a tensor in sight, but long enough to look like one" * 9)
    refused("NMGLoadTrajectory", {"file": f"input/{name}"}, name)


def test_a_pickle_is_not_executed(refused, folders):
    name = "pickle.nmg.safetensors"
    torch.save({"states": torch.zeros(3)}, folders[0] / name)
    refused("NMGLoadTrajectory", {"file": f"input/{name}"}, name)


def test_safetensors_that_are_no_trajectory(refused, folders):
    name = "lora.nmg.safetensors"
    save_file({"weight": torch.zeros(3)}, folders[0] / name)
    refused("NMGLoadTrajectory", {"file": f"input/{name}"}, name, "no NMG trajectory")


@pytest.mark.parametrize("version", ["0", "2", "", "one"])
def test_a_file_of_another_version(refused, nodes, trajectory, folders, version):
    path = saved(nodes, trajectory)
    rewritten(path, lambda metadata, _: metadata.update(version=version))
    message = refused("NMGLoadTrajectory", {"file": f"output/{path.name}"}, "version", "version 1")
    assert f"Got {version}" in message


def _header(change):
    def rewrite(metadata, _):
        header = json.loads(metadata["header"])
        change(header)
        metadata["header"] = json.dumps(header)

    return rewrite


def _without_states(_, tensors):
    del tensors["states"]


def _nan_states(_, tensors):
    tensors["states"][0] = NAN


def _nan_mask(metadata, tensors):
    _header(lambda header: header.update(noise_mask=True))(metadata, tensors)
    tensors["noise_mask"] = torch.full((1, 1, 8, 8), NAN)


def _wrong_mask(metadata, tensors):
    _header(lambda header: header.update(noise_mask=True))(metadata, tensors)
    tensors["noise_mask"] = torch.ones(1, 1, 3, 5)


@pytest.mark.parametrize(
    "change",
    [
        lambda metadata, _: metadata.update(header="{"),
        lambda metadata, _: metadata.update(header="[]"),
        lambda metadata, _: metadata.pop("header"),
        _header(lambda header: header.pop("schedule")),
        _header(lambda header: header.update(schedule=3)),
        _header(lambda header: header["schedule"].update(start=0)),
        _header(lambda header: header["schedule"].update(start="x")),
        _header(lambda header: header["schedule"]["levels"].pop()),
        _header(lambda header: header["schedule"]["levels"].reverse()),
        _header(lambda header: header["schedule"]["levels"][0].__setitem__(0, "x")),
        _header(lambda header: header["schedule"]["levels"][0].__setitem__(0, NAN)),
        _header(lambda header: header["model"].pop("fingerprint")),
        _header(lambda header: header["model"].update(extra=1)),
        _header(lambda header: header["model"].update(family="tree")),
        _header(lambda header: header.update(shape=[1, 2, 3])),
        _header(lambda header: header.update(dtype="float8")),
        _header(lambda header: header.update(noise_mask=True)),
        _header(lambda header: header.update(source={"tensor": "gone"})),
        _header(lambda header: header.update(source={"a": 1, "b": 2})),
        _header(lambda header: header.update(source={"call": "os.system"})),
        _without_states,
        _nan_states,
        _nan_mask,
        _wrong_mask,
    ],
    ids=lambda value: None,
)
def test_a_file_whose_header_is_broken(refused, nodes, trajectory, folders, change):
    path = saved(nodes, trajectory)
    rewritten(path, change)
    refused("NMGLoadTrajectory", {"file": f"output/{path.name}"}, path.name)


def test_a_disk_that_is_full_leaves_no_half_file(nodes, trajectory, folders, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        saved(nodes, trajectory)
    assert not [path for path in folders[1].rglob("*") if path.is_file()]
