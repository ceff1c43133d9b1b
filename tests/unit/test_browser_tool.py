"""What the browser tests stand on: which Chromium, where Playwright goes, and a visible skip."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import browser, test
from tools.browser import NoBrowser
from tools.console import ToolError
from tools.host_environment import HostEnvironment

PYTHON = Path(sys.executable)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A function that makes these programs the only ones on the path; nothing can be installed."""
    monkeypatch.delenv("NMG_CHROMIUM", raising=False)
    monkeypatch.setattr(browser, "_may_install", lambda: False)

    def make(*names):
        for name in names:
            (tmp_path / name).touch()
        monkeypatch.setattr(
            browser.shutil,
            "which",
            lambda name: str(tmp_path / name) if (tmp_path / name).exists() else None,
        )

    make()
    return make


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """The commands that pip got; it makes its target and ends with the code in `codes`."""
    monkeypatch.setenv("NMG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(browser, "_tag", lambda python: "cpython-311")
    commands, codes = [], [0]

    def run(command, check):
        commands.append(command)
        Path(command[command.index("--target") + 1]).mkdir()
        return subprocess.CompletedProcess(command, codes[0])

    monkeypatch.setattr(browser.subprocess, "run", run)
    return commands, codes


def test_the_browser_that_is_named_is_taken(programs, tmp_path, monkeypatch):
    programs("chromium")
    (tmp_path / "mine").touch()
    monkeypatch.setenv("NMG_CHROMIUM", str(tmp_path / "mine"))
    assert browser.find_chromium() == tmp_path / "mine"
    monkeypatch.setenv("NMG_CHROMIUM", str(tmp_path / "gone"))
    with pytest.raises(NoBrowser, match="gone, which is no file"):
        browser.find_chromium()


def test_a_real_chrome_goes_before_what_may_be_a_stub(programs, tmp_path):
    programs("chromium-browser", "google-chrome")
    assert browser.find_chromium() == tmp_path / "google-chrome"


def test_a_browser_is_installed_where_there_is_none(programs, tmp_path, monkeypatch):
    monkeypatch.setattr(browser, "_may_install", lambda: True)
    monkeypatch.setattr(browser, "_install", lambda: programs("chromium"))
    assert browser.find_chromium() == tmp_path / "chromium"


def test_a_failed_installation_says_what_to_do(programs, monkeypatch):
    monkeypatch.setattr(browser, "_may_install", lambda: True)
    monkeypatch.setattr(browser, "_install", lambda: None)
    with pytest.raises(NoBrowser, match="name one with NMG_CHROMIUM"):
        browser.find_chromium()


def test_playwright_is_installed_once(pip):
    commands, _ = pip
    first = browser.playwright_folder(PYTHON)
    assert first.is_dir()
    assert "cpython-311" in first.name
    assert browser.playwright_folder(PYTHON) == first
    assert len(commands) == 1


def test_a_failed_playwright_leaves_nothing_that_looks_installed(pip, tmp_path):
    commands, codes = pip
    codes[0] = 1
    with pytest.raises(NoBrowser, match="could not be installed"):
        browser.playwright_folder(PYTHON)
    assert list((tmp_path / "cache").iterdir()) == []
    codes[0] = 0
    assert browser.playwright_folder(PYTHON).is_dir()
    assert len(commands) == 2


@pytest.mark.parametrize(("problem", "passed"), [(NoBrowser, True), (ToolError, False)])
def test_without_a_browser_the_tier_is_skipped_in_sight(monkeypatch, problem, passed):
    def fail(python):
        raise problem("there is none")

    monkeypatch.setattr(test, "browser_variables", fail)
    environment = HostEnvironment(Path("ComfyUI"), PYTHON, "unknown")
    result = test.run_tier("browser", environment, [])
    assert result.passed is passed
    assert ("skipped: there is none" in result.line()) is passed
    assert "there is none" in result.line()


def test_the_whole_gate_has_the_browser_tier():
    assert "browser" in test.ALL
