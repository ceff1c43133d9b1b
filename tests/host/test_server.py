"""The pack in a server of its own: caching of graphs, and our words where the user sees them."""

import copy
import io
import time
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.host_surface

SECONDS = 240  # a shared machine with two cores; alone it takes a few
MODEL, SOURCE, TARGET, EMPTY = "model", "source prompt", "target prompt", "empty prompt"
PICTURE, ENCODE, INVERT, SAMPLE, DECODE, SAVE = (
    "picture",
    "encode",
    "invert",
    "sample",
    "decode",
    "save",
)


def text(prompt):
    return {"class_type": "CLIPTextEncode", "inputs": {"clip": [MODEL, 1], "text": prompt}}


def graph():
    """A picture, its inversion and its edit."""
    return {
        MODEL: {"class_type": "NMGDemoModel", "inputs": {}},
        PICTURE: {"class_type": "NMGDemoPicture", "inputs": {"seed": 24}},
        SOURCE: text("a red circle on a plain blue background"),
        TARGET: text("a green circle on a plain blue background"),
        EMPTY: text(""),
        ENCODE: {
            "class_type": "VAEEncode",
            "inputs": {"pixels": [PICTURE, 0], "vae": [MODEL, 2]},
        },
        INVERT: {
            "class_type": "NMGInvert",
            "inputs": {
                "model": [MODEL, 0],
                "positive": [SOURCE, 0],
                "latent_image": [ENCODE, 0],
                "steps": 4,
                "schedule": "official",
            },
        },
        SAMPLE: {
            "class_type": "NMGSample",
            "inputs": {
                "model": [MODEL, 0],
                "trajectory": [INVERT, 0],
                "positive": [TARGET, 0],
                "negative": [EMPTY, 0],
                "text_scale": 3.0,
                "noise_map_scale": 1.0,
                "gradient_scale": 5000.0,
                "mode": "official",
            },
        },
        DECODE: {"class_type": "VAEDecode", "inputs": {"samples": [SAMPLE, 0], "vae": [MODEL, 2]}},
        SAVE: {
            "class_type": "SaveImage",
            "inputs": {"images": [DECODE, 0], "filename_prefix": "edit"},
        },
    }


class Finished:
    """What the host's history says about a prompt."""

    def __init__(self, entry, nodes):
        self.entry = entry
        self.events = dict(entry["status"]["messages"])
        self.succeeded = entry["status"]["status_str"] == "success"
        self.executed = set(nodes) - set(self.events["execution_cached"]["nodes"])


def run(server, prompt):
    """The prompt, to its end."""
    prompt_id = server.client.post_json("/prompt", {"prompt": prompt})["prompt_id"]
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        history = server.client.get_json(f"/history/{prompt_id}")
        if prompt_id in history:
            return Finished(history[prompt_id], prompt)
        time.sleep(0.1)
    raise TimeoutError(f"not finished after {SECONDS} s; log: {server.log.read_text()[-2000:]}")


def picture(server, finished):
    """The pixels; the file also holds the graph that made it."""
    (image,) = finished.entry["outputs"][SAVE]["images"]
    return Image.open(io.BytesIO(server.client.download(image))).convert("RGB").tobytes()


def changed(node, given, value, prompt=None):
    result = copy.deepcopy(prompt or graph())
    result[node]["inputs"][given] = value
    return result


@pytest.fixture(scope="module")
def first_run(server):
    finished = run(server, graph())
    assert finished.succeeded, finished.events
    return finished


def test_a_graph_runs_with_the_gradient_through_the_network(server, first_run):
    # Model and picture may be in the cache: other tests use the same server.
    assert first_run.executed >= {INVERT, SAMPLE, DECODE, SAVE}
    assert len(picture(server, first_run)) == 128 * 128 * 3
    (cost,) = first_run.entry["outputs"][SAMPLE]["nmg"]
    # Four levels, the no-op step left out: three steps of one backward and three forward rows.
    assert (cost["forward_calls"], cost["forward_rows"], cost["backward_rows"]) == (6, 9, 3)


def test_the_same_graph_again_is_answered_from_the_cache(server, first_run):
    again = run(server, graph())
    assert again.succeeded
    assert again.executed <= {SAVE}


def test_another_target_prompt_repeats_no_inversion(server, first_run):
    finished = run(server, changed(TARGET, "text", "a yellow circle on a plain blue background"))
    assert finished.succeeded
    assert finished.executed == {TARGET, SAMPLE, DECODE, SAVE}
    assert len(picture(server, finished)) == 128 * 128 * 3


def test_a_run_that_is_not_cached_gives_the_same_picture(server, first_run):
    """The host forgets the branch when the graph changes; the numbers must come back."""
    run(server, changed(SAMPLE, "text_scale", 6.0))
    finished = run(server, graph())
    assert SAMPLE in finished.executed
    assert picture(server, finished) == picture(server, first_run)


def test_our_words_arrive_where_the_user_sees_them(server, first_run):
    prompt = graph()
    prompt["other"] = {
        "class_type": "EmptySD3LatentImage",
        "inputs": {"width": 128, "height": 128, "batch_size": 1},
    }
    finished = run(server, changed(INVERT, "latent_image", ["other", 0], prompt))
    assert not finished.succeeded
    error = finished.events["execution_error"]
    assert error["node_id"] == INVERT
    assert error["exception_message"].startswith("NMG Invert: latent_image has 16 channels")
    assert "Encode the picture with the VAE of this model." in error["exception_message"]


def test_a_decoded_noise_and_a_black_mask_are_said_to_who_runs_the_graph(server, first_run):
    """Also where nobody looks at the interface; a run with nothing to say says nothing."""
    assert "text" not in first_run.entry["outputs"][SAMPLE]
    assert "text" not in first_run.entry["outputs"][INVERT]
    prompt = changed(DECODE, "samples", [INVERT, 1], changed(INVERT, "steps", 5))
    (line,) = run(server, prompt).entry["outputs"][INVERT]["text"]
    assert "VAE Decode makes no picture of it" in line
    black = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 64, "height": 64}}
    prompt = changed(SAMPLE, "mask", ["black", 0], {**graph(), "black": black})
    (line,) = run(server, prompt).entry["outputs"][SAMPLE]["text"]
    assert line.startswith("mask is black everywhere")


def test_after_an_error_the_next_run_works(server, first_run):
    prompt = changed(SAMPLE, "trajectory", [INVERT, 0], changed(SAMPLE, "text_scale", 4.0))
    assert run(server, prompt).succeeded


def test_a_saved_trajectory_is_loaded_by_the_next_graph(server, first_run):
    prompt = graph()
    prompt["store"] = {
        "class_type": "NMGSaveTrajectory",
        "inputs": {
            "trajectory": [INVERT, 0],
            "filename_prefix": "server/kept",
            "precision": "float32",
        },
    }
    (path,) = run(server, prompt).entry["outputs"]["store"]["text"]
    prompt = changed(SAMPLE, "trajectory", ["load", 0])
    prompt["load"] = {
        "class_type": "NMGLoadTrajectory",
        "inputs": {"file": f"output/server/{Path(path).name}"},
    }
    for node in (INVERT, ENCODE, PICTURE, SOURCE):
        del prompt[node]
    finished = run(server, prompt)
    assert finished.succeeded, finished.events
    assert picture(server, finished) == picture(server, first_run)


def test_a_file_outside_the_folders_is_refused_before_the_graph_runs(server, first_run):
    prompt = changed(SAMPLE, "trajectory", ["load", 0])
    prompt["load"] = {
        "class_type": "NMGLoadTrajectory",
        "inputs": {"file": "output/../../secret.nmg.safetensors"},
    }
    with pytest.raises(Exception, match="Load NMG Trajectory: file is outside"):
        run(server, prompt)


def test_the_log_holds_no_traceback_but_that_of_the_error(server, first_run):
    log = server.log.read_text(encoding="utf-8", errors="replace")
    assert "IMPORT FAILED" not in log
    assert log.count("Traceback (most recent call last)") <= 2
