"""A help page shows its node, by a link that the interface and the file system agree on.

A node may go without a picture; tools/screenshots.py with its name makes one.
"""

import json
import re

import pytest
from PIL import Image

from tools.host_server import ROOT
from tools.picture_files import (
    GRAPH_BYTES,
    NODE_BYTES,
    SCALE,
    node_picture,
    small_png,
    workflow_picture,
)

DOCS = ROOT / "web" / "docs"
PAGES = sorted(DOCS.glob("*/en.md"))
PICTURED = [page.parent.name for page in PAGES if node_picture(page.parent.name).is_file()]
WORKFLOWS = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
AT_LEAST_PX = 100 * SCALE  # a node with its title


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_a_help_page_shows_pictures_that_there_are(page):
    # The interface counts from the folder of all pages.
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text("utf-8")):
        assert (DOCS / name).is_file(), name


@pytest.mark.parametrize("node", PICTURED)
def test_a_help_page_shows_its_node_below_the_title(node):
    title, space, picture, *_ = (DOCS / node / "en.md").read_text("utf-8").splitlines()
    assert picture == f"![{title.removeprefix('# ')}]({node}/node.png)"
    assert space == ""


@pytest.mark.parametrize("node", PICTURED)
def test_a_help_picture_is_small_and_shows_something(node):
    path = node_picture(node)
    assert path.stat().st_size <= NODE_BYTES
    with Image.open(path) as image:
        assert image.width >= AT_LEAST_PX
        assert len(image.convert("RGB").getcolors(256)) > 8


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_picture_of_a_workflow_is_small_and_carries_it_as_it_is_now(name):
    """If it does not, run tools/screenshots.py with the workflow's name."""
    path = workflow_picture(name)
    assert path.stat().st_size <= GRAPH_BYTES
    with Image.open(path) as image:
        carried = json.loads(image.text["workflow"])
    assert carried == json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))


def test_the_page_of_the_workflows_has_each_with_its_picture():
    page = ROOT / "docs" / "workflows.md"
    sections = page.read_text("utf-8").split("\n## ")[1:]
    assert sorted(section.splitlines()[0] for section in sections) == WORKFLOWS
    for section in sections:
        name = section.splitlines()[0]
        (picture,) = re.findall(r"!\[The graph of workflows/\S+\.json\]\((\S+)\)", section)
        assert (page.parent / picture) == workflow_picture(name)
        assert "**Change first**: " in section


def test_a_picture_gets_as_many_colours_as_fit(tmp_path):
    noise = Image.effect_noise((200, 200), 80).convert("RGB")
    noise.save(tmp_path / "noise.png")
    picture = (tmp_path / "noise.png").read_bytes()
    large, small = small_png(picture, 100_000), small_png(picture, 22_000)
    assert len(small) <= 22_000 < len(large)
    with pytest.raises(ValueError, match="bytes with 16 colours, over 1000"):
        small_png(picture, 1000)
