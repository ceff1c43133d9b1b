"""What `tools/test.py` runs, and on which ComfyUI."""

from pathlib import Path

import pytest

from tools import test
from tools.console import ToolError
from tools.host_environment import HostEnvironment
from tools.host_releases import NEWEST, OLDEST


@pytest.fixture
def run(monkeypatch, capsys):
    """A function from the command line to the parts that ran, each with its ComfyUI."""
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    ran = []

    def find(comfyui=None, python=None, *, version=None):
        return HostEnvironment(Path("somewhere"), Path("python"), version or NEWEST.comfyui)

    def part(name, environment, arguments=()):
        ran.append((name, environment.version, list(arguments)))
        return test.Result(name, True, 0.0, "")

    monkeypatch.setattr(test, "find_or_build", find)
    monkeypatch.setattr(test, "run_lint", lambda environment: part("lint", environment))
    monkeypatch.setattr(test, "run_tier", part)
    monkeypatch.setattr(test, "_has_module", lambda environment, name: True)

    def command(*words):
        ran.clear()
        monkeypatch.setattr(test.sys, "argv", ["test.py", *words])
        return test.main(), list(ran), capsys.readouterr().out

    return command


def test_everything_is_the_newest_and_what_may_differ_the_oldest(run):
    code, ran, out = run()
    assert code == 0
    surface = ["-m", test.SURFACE]
    assert ran == [
        *((name, NEWEST.comfyui, []) for name in test.ALL),
        ("host", OLDEST.comfyui, surface),
    ]
    assert run("--", "-x")[1][-1] == ("host", OLDEST.comfyui, [*surface, "-x"])
    assert f"host {OLDEST.comfyui} " in out
    assert run("--tier", "all")[1] == ran


def test_a_version_alone_means_all_of_its_host_tier(run):
    assert run("--comfyui-version", "0.24.1", "--", "-x")[1] == [("host", "0.24.1", ["-x"])]


@pytest.mark.parametrize("tier", ["unit", "parity", "host"])
def test_a_tier_runs_on_the_version_that_is_asked_for(run, tier):
    assert run("--comfyui-version", "0.24.1", "--tier", tier)[1] == [(tier, "0.24.1", [])]
    assert run("--tier", tier)[1] == [(tier, NEWEST.comfyui, [])]


def test_a_comfyui_that_is_chosen_is_the_only_one(run, monkeypatch):
    assert len(run("--tier", "all", "--comfyui-version", "0.24.1")[1]) == len(test.ALL)
    assert len(run("--comfyui", "somewhere")[1]) == len(test.ALL)
    monkeypatch.setenv("COMFYUI_PATH", "somewhere")
    assert len(run()[1]) == len(test.ALL)


def test_an_oldest_comfyui_that_cannot_be_built_fails_the_run(run, monkeypatch):
    found = test.find_or_build

    def find(comfyui=None, python=None, *, version=None):
        if version:
            raise ToolError("no luck")
        return found(comfyui, python)

    monkeypatch.setattr(test, "find_or_build", find)
    code, ran, out = run()
    assert code == 1
    assert len(ran) == len(test.ALL)
    assert "no luck" in out


@pytest.fixture
def called(monkeypatch):
    """A function that runs a tier without running anything: its command and its variables."""
    calls = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(test, "_has_module", lambda environment, name: True)
    monkeypatch.setattr(test, "browser_variables", lambda python: {})
    monkeypatch.setattr(test, "_call", lambda *call: calls.append(call) or 0)
    environment = HostEnvironment(Path("ComfyUI"), Path("python"), "unknown")

    def call(tier, *arguments):
        assert test.run_tier(tier, environment, list(arguments)).passed
        return calls.pop()

    return call


@pytest.mark.parametrize("tier", test.TIERS)
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("arguments", [[], ["-x"], ["tests/host/test_cost.py"]], ids=str)
def test_a_whole_tier_runs_in_processes_side_by_side(called, monkeypatch, tier, there, arguments):
    monkeypatch.setattr(test, "_has_module", lambda environment, name: there)
    command, _ = called(tier, *arguments)
    whole = arguments != ["tests/host/test_cost.py"]
    assert (str(test.ROOT / "tests" / tier) in command) is whole
    assert ("-n" in command) is (whole and there and tier != "browser")
    assert command[len(command) - len(arguments) :] == arguments


def test_the_groups_of_the_host_tier_stay_together(called):
    command, _ = called("host")
    assert command[command.index("--dist") + 1] == "loadfile"


@pytest.mark.parametrize("tier", test.TIERS)
def test_the_slowest_tests_are_told_unless_others_are_asked_for(called, tier):
    command, _ = called(tier, "--durations=3")
    assert [word for word in command if word.startswith("--durations")] == [
        f"--durations={test.SLOWEST}",
        "--durations=3",
    ]


@pytest.mark.parametrize("tier", test.TIERS)
def test_small_networks_have_one_thread_unless_another_number_is_asked_for(
    called, monkeypatch, tier
):
    assert called(tier)[1].get("OMP_NUM_THREADS") == (None if tier == "browser" else "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert called(tier)[1]["OMP_NUM_THREADS"] == "3"
