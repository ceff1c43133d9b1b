"""The host environment: lock, interrupted and damaged builds, and one clear line per failure."""

import dataclasses
import io
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tools import host_build, host_environment
from tools.console import ToolError
from tools.file_lock import file_lock
from tools.host_releases import NEWEST, OLDEST, RELEASES, constraints_for, find_release

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20  # for what takes a fraction of one

# A build that makes a small real virtual environment instead of downloading gigabytes. A second
# argument changes it: "slow", or "hangs" with half of the work done.
FAKE_BUILD = f"""
import subprocess, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tools import host_build

def build(self, installer):
    (self._folder / "ComfyUI").mkdir()
    (self._folder / "ComfyUI" / "main.py").write_text("")
    with (self._folder.parent / "builds").open("a") as count:
        count.write("built\\n")
    while sys.argv[2:] == ["hangs"]:
        time.sleep(0.05)
    venv = self._folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    package = next(venv.rglob("site-packages")) / "package"
    package.mkdir()
    time.sleep(1.0 if sys.argv[2:] == ["slow"] else 0.0)
    self._write_marker()

host_build._Build._build = build
host_build.NEEDED_GB = 0
"""


@pytest.fixture
def fake_build(monkeypatch):
    """The fake build in this process."""
    monkeypatch.setattr(sys, "argv", ["test"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    # Set to what they are, so that they are put back after the fake has replaced them.
    monkeypatch.setattr(host_build, "NEEDED_GB", host_build.NEEDED_GB)
    monkeypatch.setattr(host_build._Build, "_build", host_build._Build._build)
    exec(compile(FAKE_BUILD, "fake", "exec"), {"__name__": "fake"})


def start_build(cache, *arguments):
    code = FAKE_BUILD + "print(host_build.build_host(Path(sys.argv[1])))"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(cache), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(path):
    end = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def hold_lock(path, then):
    """A process that holds the lock, says so by a file, and goes on with the statement `then`."""
    code = (
        f"import subprocess, sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from tools.file_lock import file_lock\n"
        f"with file_lock(Path({str(path)!r}), lambda: None) as descriptor:\n"
        f"    Path({str(path) + '.held'!r}).touch()\n"
        f"    {then}\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_for(path.with_name(path.name + ".held"))
    return process


def test_second_process_waits_for_the_first(tmp_path):
    path = tmp_path / "lock"
    holder = hold_lock(path, "time.sleep(0.7)")
    waited = []
    started = time.monotonic()
    with file_lock(path, lambda: waited.append(True)):
        assert holder.wait(SECONDS) == 0
    assert waited == [True]
    assert time.monotonic() - started > 0.3


def test_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "lock"
    holder = hold_lock(path, "time.sleep(600)")
    holder.kill()
    holder.wait(SECONDS)
    waited = []
    with file_lock(path, lambda: waited.append(True)):
        pass
    assert not waited


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are not inherited there")
def test_lock_outlives_its_holder_while_a_child_works_on(tmp_path):
    path = tmp_path / "lock"
    child = "subprocess.Popen(['sleep', '0.8'], pass_fds=(descriptor,)); time.sleep(600)"
    holder = hold_lock(path, child)
    time.sleep(0.2)
    holder.kill()
    holder.wait(SECONDS)
    waited = []
    with file_lock(path, lambda: waited.append(True)):
        pass
    assert waited == [True]


def test_two_builds_at_once_make_one(tmp_path):
    first, second = start_build(tmp_path, "slow"), start_build(tmp_path, "slow")
    texts = [process.communicate(timeout=SECONDS)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), texts
    assert (tmp_path / "builds").read_text() == "built\n"
    assert sum("waiting for it" in text for text in texts) == 1
    assert len({text.splitlines()[-1] for text in texts}) == 1


def test_build_that_was_killed_is_built_anew(tmp_path, fake_build, capfd):
    killed = start_build(tmp_path, "hangs")
    wait_for(tmp_path / "builds")
    killed.kill()
    killed.communicate()
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    left = folder / "ComfyUI" / "left over.py"
    left.touch()
    assert host_build.find_damage(folder) == "an unfinished build"
    assert host_build.build_host(tmp_path) == folder
    assert host_build.find_damage(folder) is None
    assert not left.exists()
    assert "an unfinished build" in capfd.readouterr().err


def test_complete_build_is_used_as_it_is(tmp_path, fake_build):
    folder = host_build.build_host(tmp_path)
    assert host_build.build_host(tmp_path) == folder
    assert (tmp_path / "builds").read_text() == "built\n"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("ComfyUI/main.py", "ComfyUI/main.py is missing"),
        ("package", "package is missing"),
        ("python", "Python does not start"),
        ("complete.json", "complete.json cannot be read"),
    ],
)
def test_damaged_build_is_noticed_and_built_anew(tmp_path, fake_build, capfd, broken, said):
    folder = host_build.build_host(tmp_path)
    if broken == "complete.json":
        (folder / broken).write_text('{"files": ')
    elif broken == "package":
        next(folder.rglob("site-packages/package")).rmdir()
    elif broken == "python":
        host_build.venv_python(folder / "venv").unlink()
    else:
        (folder / broken).unlink()
    assert said in host_build.find_damage(folder)
    capfd.readouterr()
    assert host_build.build_host(tmp_path) == folder
    assert said in capfd.readouterr().err
    assert host_build.find_damage(folder) is None


def test_failed_build_leaves_no_gigabytes_but_its_log(tmp_path, fake_build, monkeypatch):
    def fail(self, installer):
        self._command([sys.executable, "-c", "raise SystemExit('no luck')"], "trying")

    monkeypatch.setattr(host_build._Build, "_build", fail)
    with pytest.raises(ToolError, match="trying failed: no luck. Details: ") as caught:
        host_build.build_host(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    log = Path(str(caught.value).split("Details: ")[1])
    assert "no luck" in log.read_text()


def test_too_little_space_is_said_before_anything_is_fetched(tmp_path, fake_build, monkeypatch):
    monkeypatch.setattr(host_build, "NEEDED_GB", 10**9)
    with pytest.raises(ToolError, match=r"too little space in .*set NMG_CACHE"):
        host_build.build_host(tmp_path)
    assert not (tmp_path / "builds").exists()


def test_unusable_cache_folder_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ToolError, match=r"cache folder .*file.* cannot be used.*Set NMG_CACHE"):
        host_build.build_host(tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            "NewConnectionError: Failed to establish a new connection: [Errno -3] Temporary "
            "failure in name resolution\nERROR: No matching distribution found for uv==0.13.9",
            "package index cannot be reached",
        ),
        (
            "error: Failed to fetch: `simple/torch/`\n  Caused by: client error (Connect)\n"
            "  Caused by: dns error: failed to lookup address information",
            "package index cannot be reached",
        ),
        ("ProxyError('Cannot connect to proxy.')", "package index cannot be reached"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        (
            "error: Failed to install: torch-2.11.0\n  Caused by: failed to write to file: "
            "There is not enough space on the disk. (os error 112)",
            "disk is full",
        ),
        ("The virtual environment was not created: ensurepip is not available.", "python3.*-venv"),
        ("/usr/bin/python3: No module named venv", "python3.*-venv"),
        ("ERROR: No matching distribution found for torch==2.11.0", "on Python 3.*: ERROR: No mat"),
        ("first\nerror: the reason\nlast words", "installing failed: error: the reason"),
        ("", "installing failed: no message"),
    ],
)
def test_failed_command_becomes_one_line(output, said, tmp_path):
    error = host_build._explain_failure(output, "installing", tmp_path / "log")
    assert "\n" not in str(error)
    with pytest.raises(ToolError, match=said):
        raise error


def make_archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))


def test_unpack_takes_the_tree_alone(tmp_path):
    archive = tmp_path / "archive.tar.gz"
    make_archive(archive, {"top/vendor/tree/a/b.py": "b", "top/setup.py": "no", "top/vendor/x": ""})
    host_build.unpack(archive, "vendor/tree/", tmp_path / "out")
    files = [path.relative_to(tmp_path) for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files == [Path("out/a/b.py")]


def test_unpack_refuses_to_leave_its_folder(tmp_path):
    archive = tmp_path / "archive.tar.gz"
    make_archive(archive, {"top/tree/../../outside": "x"})
    with pytest.raises(ToolError, match="unsafe path: tree/../../outside"):
        host_build.unpack(archive, "tree/", tmp_path / "out")
    assert not (tmp_path / "outside").exists()


def test_damaged_archive_is_said(tmp_path):
    archive = tmp_path / "archive.tar.gz"
    archive.write_bytes(b"not an archive")
    with pytest.raises(ToolError, match=r"archive.tar.gz cannot be unpacked"):
        host_build.unpack(archive, "tree/", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "value"),
    [("TORCH", ("torch==2.12.0",)), ("REQUIREMENTS", host_build.CONSTRAINTS)],
)
def test_key_follows_every_pin(monkeypatch, name, value):
    before = host_build.build_key()
    assert host_build.build_key() == before
    monkeypatch.setattr(host_build, name, value)
    assert host_build.build_key() != before


@pytest.mark.parametrize(
    "change", [{"sha256": "0" * 64}, {"pins": ("x==1",)}, {"archive": "x==1"}, {"comfyui": "1"}]
)
def test_key_follows_the_release(change):
    changed = dataclasses.replace(NEWEST, **change)
    assert host_build.build_key(changed) != host_build.build_key(NEWEST)


def test_each_version_has_an_environment_of_its_own():
    assert len({host_build.build_key(release) for release in RELEASES}) == len(RELEASES)
    assert host_build.build_key() == host_build.build_key(NEWEST)


def test_unknown_version_is_said():
    with pytest.raises(ToolError, match=r"ComfyUI 0.1.0 cannot be built here.*0\.16\.3"):
        find_release("0.1.0")


@pytest.mark.parametrize("name", ["README.md", "docs/versions.md", ".github/workflows/ci.yml"])
def test_every_version_is_listed(name):
    text = (ROOT / name).read_text("utf-8")
    assert not [release.comfyui for release in RELEASES if release.comfyui not in text]


def test_versions_go_from_the_newest_to_the_oldest():
    numbers = [tuple(map(int, release.comfyui.split("."))) for release in RELEASES]
    assert numbers == sorted(numbers, reverse=True)


def test_constraints_give_way_to_what_another_version_pins():
    ours = "numpy==2\nhost-web==2 ; x\nhost-web-parts==5\nhost-docs==1\nhost-webs==1\n"
    kept = constraints_for("host-web==1\nhost-docs==1\nnumpy>=1\n", ours)
    assert kept == "numpy==2\nhost-docs==1\nhost-webs==1\n"


def test_version_wins_over_the_comfyui_of_the_variables(tmp_path, fake_build, comfyui, monkeypatch):
    monkeypatch.setenv("NMG_CACHE", str(tmp_path))
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    asked = host_environment.find_or_build(version=OLDEST.comfyui)
    assert asked.comfyui == tmp_path / f"host-{host_build.build_key(OLDEST)}" / "ComfyUI"
    assert host_environment.find_or_build().comfyui == comfyui


def test_version_beside_an_existing_comfyui_is_refused(comfyui):
    with pytest.raises(ToolError, match=r"--comfyui-version 0.16.3 builds.*leave --comfyui"):
        host_environment.find_or_build(comfyui, version="0.16.3")


def test_key_follows_the_python_version(monkeypatch):
    before = host_build.build_key()
    monkeypatch.setattr(host_build.platform, "python_version_tuple", lambda: ("3", "99", "0"))
    assert host_build.build_key() != before


def test_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("NMG_CACHE", str(tmp_path))
    assert host_build.cache_root() == tmp_path
    monkeypatch.delenv("NMG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(host_build.sys, "platform", "linux")
    assert host_build.cache_root().parent == tmp_path / "xdg"


@pytest.fixture
def comfyui(tmp_path):
    """A folder that looks like ComfyUI, without a Python of its own."""
    root = tmp_path / "portable" / "ComfyUI"
    (root / "comfy").mkdir(parents=True)
    for name in ("main.py", "nodes.py", "folder_paths.py", "comfy/options.py"):
        (root / name).touch()
    (root / "comfyui_version.py").write_text('__version__ = "1.2.3"\n')
    return root


def make_file(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_existing_comfyui_is_used(comfyui, monkeypatch):
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    expected = host_environment.HostEnvironment(comfyui, Path(sys.executable), "1.2.3")
    assert host_environment.find_or_build(comfyui) == expected
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui.parent))
    assert host_environment.find_or_build() == expected


def test_python_beside_comfyui_is_preferred(comfyui):
    outside = make_file(host_build.venv_python(comfyui.parent / "venv"))
    assert host_environment.existing_environment(comfyui).python == outside
    inside = make_file(host_build.venv_python(comfyui / ".venv"))
    assert host_environment.existing_environment(comfyui).python == inside
    given = make_file(comfyui / "my python")
    assert host_environment.existing_environment(comfyui, given).python == given


def test_missing_python_is_said(comfyui):
    with pytest.raises(ToolError, match=r"no Python at .*nowhere. Correct --python"):
        host_environment.existing_environment(comfyui, comfyui / "nowhere")


def test_wrong_comfyui_is_one_line_on_the_command_line(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "host_environment.py")]
    done = subprocess.run(
        [*command, "--comfyui", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NMG_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: no ComfyUI at {tmp_path}")
    assert done.stderr.count("\n") == 1


def test_python_without_torch_is_said(tmp_path):
    broken = tmp_path / "sitecustomize.py"
    broken.write_text("import sys; sys.modules['torch'] = None\n")
    python = make_file(tmp_path / "python")
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    if sys.platform == "win32":
        pytest.skip("needs a shell script")
    with pytest.raises(ToolError, match=r"cannot use torch \(.*torch.*\).*--python"):
        host_environment.accelerator(python)
