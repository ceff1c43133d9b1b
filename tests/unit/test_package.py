"""What the Comfy Registry gets: small, complete, and described as the registry asks."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tools import brand

ROOT = Path(__file__).resolve().parents[2]
LIMIT_BYTES = 25_000_000
IMAGE_BYTES = 100_000
REPOSITORY = "https://github.com/OWNER/noise-map-guidance"
NEEDED = {"LICENSE", "README.md", "pyproject.toml", "demo/model.safetensors"}
WHOLE = ("locales/", "nmg_sampler/", "nodes/", "subgraphs/", "web/", "workflows/")
LEFT_OUT = (".ci/", ".github/", "benchmarks/", "docs/benchmark", "tests/", "tools/")


def git(*arguments):
    command = ["git", "-C", str(ROOT), "ls-files", "-z", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if run.returncode:
        pytest.skip(f"no git checkout: {run.stderr.strip()}")
    return {name for name in run.stdout.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def checkout():
    return git("--cached", "--others", "--exclude-standard")


@pytest.fixture(scope="module")
def installed(checkout):
    """The checkout less .comfyignore, by git: its patterns have the syntax of .gitignore."""
    ignored = ("--ignored", "--exclude-from=.comfyignore")
    return checkout - git("--cached", *ignored) - git("--others", *ignored)


@pytest.fixture(scope="module")
def project():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def imported(module):
    """The files of this checkout that a file imports, by the paths they may have."""
    for node in ast.walk(ast.parse((ROOT / module).read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            # Absolute ones too: a folder of the checkout must not be reached by its bare name.
            base = Path(module).parents[node.level - 1] if node.level else Path()
            base = base.joinpath(*(node.module or "").split("."))
            yield from (base.with_suffix(".py"), base / "__init__.py")
            yield from (base / f"{alias.name}.py" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (Path(*alias.name.split(".")).with_suffix(".py") for alias in node.names)


def test_an_install_is_small(installed):
    assert sum((ROOT / name).stat().st_size for name in installed) < LIMIT_BYTES


def test_an_install_has_all_that_the_pack_shows_and_reads(checkout, installed):
    assert installed >= NEEDED
    assert {name for name in checkout if name.startswith(WHOLE)} <= installed


def test_an_install_has_every_file_that_the_pack_imports(installed):
    seen, waiting = set(), ["__init__.py"]
    while waiting:
        module = waiting.pop()
        seen.add(module)
        found = {path.as_posix() for path in imported(module) if (ROOT / path).is_file()}
        waiting.extend(found - seen - set(waiting))
    assert "demo/scenes.py" in seen
    assert seen <= installed


def test_an_install_has_nothing_that_only_a_checkout_needs(installed):
    assert not [name for name in installed if name.startswith(LEFT_OUT)]


def test_the_pictures_of_the_readme_are_installed(installed):
    text = (ROOT / "README.md").read_text("utf-8")
    shown = set(re.findall(r"!\[[^\]]*\]\((docs/images/[^)]+)\)", text))
    assert shown
    assert shown <= installed


def test_nothing_is_required_beyond_the_host(project):
    assert project["project"]["dependencies"] == []
    assert not (ROOT / "requirements.txt").exists()


def test_the_registry_finds_what_it_asks_for(project):
    about, comfy = project["project"], project["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", about["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", about["version"])
    assert (ROOT / about["license"]["file"]).is_file()
    assert about["urls"]["Repository"] == REPOSITORY
    assert comfy["PublisherId"]
    assert comfy["DisplayName"] == "Noise Map Guidance"


def test_the_address_is_the_same_everywhere(project):
    assert f"git clone {REPOSITORY}\n" in (ROOT / "README.md").read_text("utf-8")
    raw = REPOSITORY.replace("github.com", "raw.githubusercontent.com")
    for name in ("Icon", "Banner"):
        address = project["tool"]["comfy"][name]
        assert address.startswith(f"{raw}/main/")
        assert (ROOT / address.removeprefix(f"{raw}/main/")).is_file()


@pytest.mark.parametrize(("name", "size"), [("icon", (400, 400)), ("banner", (1260, 540))])
def test_a_picture_has_the_size_and_shape_that_the_registry_shows(name, size):
    path = brand.IMAGES / f"{name}.png"
    assert path.stat().st_size < IMAGE_BYTES
    with Image.open(path) as image:
        assert image.size == size


def test_the_icon_is_drawn_the_same_each_time():
    assert brand.draw_icon().tobytes() == brand.draw_icon().tobytes()
