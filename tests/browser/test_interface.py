"""What a user sees of the pack in ComfyUI's web interface."""

import io
import json
import re

import pytest
from PIL import Image

from tools.host_server import ROOT

DOCS = ROOT / "web" / "docs"
KOREAN = ROOT / "locales" / "ko" / "nodeDefs.json"
STEPS = 12


@pytest.fixture
def edit(interface, workflow):
    """The shipped edit workflow, open, with few steps."""
    interface.load(workflow("edit"), "edit")
    interface.set_widgets("steps", STEPS)
    return interface


def pixels(server, run):
    """Of every picture that a run saved, in the order of the nodes; the files differ by what else
    the host writes into them."""
    found = run.pictures()
    files = [server.client.download(image) for node in sorted(found) for image in found[node]]
    return [Image.open(io.BytesIO(file)).convert("RGB").tobytes() for file in files]


def words_on(interface, node_type):
    """The texts of all widgets of the first node of a type."""
    return interface.page.evaluate(
        """type => app.rootGraph.nodes.find(node => node.type === type)
          .widgets.map(widget => String(widget.value)).join('\\n')""",
        node_type,
    )


def test_bar_and_preview_move_while_a_run_goes(edit):
    edit.set_widgets("seed", 25)
    run = edit.run()
    assert run.end == "execution_success"
    for name in ("NMGInvert", "NMGSample"):
        node = edit.node_id(name)
        told = run.progress(node)
        assert [share * STEPS for share in told] == pytest.approx(range(1, STEPS + 1)), name
        # What the bar on the node is drawn from; a busy machine draws few frames.
        drawn = run.watched["progress"][str(node)]
        assert drawn, name
        assert drawn == sorted(drawn), name
        assert node in run.watched["previews"]
    assert any("%" in title for title in run.watched["titles"])


def test_a_wrong_wire_shows_our_words(edit):
    edit.page.evaluate(
        """() => {
          const latent = LiteGraph.createNode('EmptySD3LatentImage')
          app.rootGraph.add(latent)
          latent.connect(0, app.rootGraph.nodes.find(n => n.type === 'NMGInvert'), 'latent_image')
        }"""
    )
    assert edit.run().end == "execution_error"
    dialog = edit.page.get_by_test_id("error-overlay")
    dialog.wait_for()
    edit.page.get_by_test_id("error-overlay-see-errors").click()
    words = "NMG Invert: latent_image has 16 channels but the model takes 4"
    edit.page.get_by_text(words).first.wait_for()


def test_the_help_panel_shows_our_page(edit):
    panel = edit.help_of("NMGSample")
    first = (DOCS / "NMGSample/en.md").read_text("utf-8").splitlines()[0]
    panel.get_by_text(first.lstrip("# "), exact=True).first.wait_for()
    assert panel.locator("table").count() > 0


def test_the_picture_of_a_help_page_shows(edit):
    panel = edit.help_of("NMGSample")
    picture = panel.locator("img").first
    picture.wait_for()
    edit.page.wait_for_function("img => img.complete", arg=picture.element_handle())
    assert (
        picture.evaluate("img => img.naturalWidth") == Image.open(DOCS / "NMGSample/node.png").width
    )


@pytest.mark.parametrize(
    ("words", "node"),
    [
        ("unsampler", "NMG Invert"),
        ("real image edit", "NMG Sample"),
        ("null text", "Null-Text Inversion"),
        ("keep background", "NMG Sample"),
    ],
)
def test_people_find_the_nodes_by_their_own_words(edit, words, node):
    assert any(node in found for found in edit.found_by(words))


def test_the_alignment_of_prompt_to_prompt_shows_on_the_node(interface, workflow):
    interface.load(workflow("prompt-to-prompt"), "prompt-to-prompt")
    interface.set_widgets("steps", STEPS)
    assert interface.run().end == "execution_success"
    assert "->" in words_on(interface, "NMGPromptToPrompt")


def test_choices_and_comments_are_resolved_as_for_clip_text_encode(interface):
    """In the boxes of nodes that encode; a text that must be another node's is sent as it is."""
    typed = "a {red} cat \\{x\\} // a note\n/* not\nthis */ a {blue} dog"
    boxes = ["CLIPTextEncode.text", "NMGPrompts.text", "NMGEditDirection.source_sentences"]
    raw = ["NMGPromptToPrompt.source_prompt", "NMGMasaCtrl.target_prompt"]
    interface.load({"nodes": [], "links": [], "version": 0.4}, "texts")
    interface.page.evaluate(
        """([boxes, typed]) => boxes.forEach(box => {
          const [type, name] = box.split('.')
          const node = LiteGraph.createNode(type)
          app.rootGraph.add(node)
          node.widgets.find(widget => widget.name === name).value = typed
        })""",
        [boxes + raw, typed],
    )
    sent = {
        f"{node['class_type']}.{name}": value
        for node in interface.prompt().values()
        for name, value in node["inputs"].items()
    }
    assert [sent[box].split() for box in boxes] == ["a red cat {x} a blue dog".split()] * 3
    assert len({sent[box] for box in boxes}) == 1
    assert [sent[box] for box in raw] == [typed] * 2


def test_the_size_of_a_trajectory_file_shows_on_the_node(edit):
    edit.page.evaluate(
        """() => {
          const save = LiteGraph.createNode('NMGSaveTrajectory')
          app.rootGraph.add(save)
          app.rootGraph.nodes.find(n => n.type === 'NMGInvert').connect(0, save, 'trajectory')
        }"""
    )
    assert edit.run().end == "execution_success"
    assert re.search(
        r"NMG_\d+_\.nmg\.safetensors: \d\S* KB, of \S+ [GT]B free",
        words_on(edit, "NMGSaveTrajectory"),
    )


def test_the_node_library_has_the_block(interface):
    (block,) = (path.stem for path in (ROOT / "subgraphs").glob("*.json"))
    assert interface.library_finds(block)


def test_a_saved_workflow_reopened_gives_the_same_picture(edit, server):
    first = edit.run()
    kept = edit.serialized()
    edit.open()
    edit.load(kept, "kept")
    second = edit.run()
    assert pixels(server, second) == pixels(server, first) != []


def test_a_saved_picture_carries_its_workflow_back(interface, workflow, server):
    interface.load(workflow("edit"), "edit")
    interface.set_widgets("steps", STEPS)
    # Nothing of an earlier run: a picture that is shown again carries the graph that made it.
    interface.set_widgets("seed", 26)
    run = interface.run()
    before = interface.prompt()
    (image, *_) = next(iter(run.pictures().values()))
    picture = server.client.download(image)
    interface.load({"nodes": [], "links": [], "version": 0.4}, "empty")
    interface.drop("edit.png", "image/png", picture)
    interface.page.wait_for_function(
        "n => app.rootGraph.nodes.length === n", arg=len(workflow("edit")["nodes"])
    )
    assert interface.prompt() == before


@pytest.mark.skipif(not KOREAN.is_file(), reason="locales/ko/nodeDefs.json is not there yet")
def test_the_interface_speaks_korean(interface, workflow, server):
    texts = json.loads(KOREAN.read_text("utf-8"))
    server.client.post_json("/settings", {"Comfy.Locale": "ko"})
    try:
        interface.open()
        interface.load(workflow("edit"), "edit")
        shown = interface.page.evaluate(
            "() => LiteGraph.registered_node_types['NMGEditRegion'].title"
        )
        assert shown == texts["NMGEditRegion"]["display_name"]
    finally:
        server.client.post_json("/settings", {"Comfy.Locale": "en"})
        interface.open()
