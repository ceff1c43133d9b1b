"""A ComfyUI with the pack and a headless Chromium that shows it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

from tools.host_environment import HostEnvironment
from tools.host_server import ROOT, HostServer, host_server
from tools.web_interface import Interface

SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.Locale": "en",
}
VIEW = {"width": 1600, "height": 1000}
PREVIEWS = ("--preview-method", "latent2rgb")  # ComfyUI's arguments for live previews
USERS_OWN = {"CheckpointLoaderSimple": "models/checkpoints", "LoadImage": "input"}
WAIT_MS = 60_000  # a shared machine with two cores; alone it takes a second


@contextmanager
def web_session(
    environment: HostEnvironment, *, arguments: Sequence[str] = (), scale: float = 1.0
) -> Iterator[tuple[HostServer, Interface]]:
    """A server and its interface in one page, not opened yet.

    Args:
        environment: which ComfyUI, and the Python that runs it.
        arguments: more arguments for ComfyUI's main.py.
        scale: screen pixels per pixel of the page.
    """
    with (
        host_server(environment, device="cpu", arguments=arguments) as server,
        sync_playwright() as playwright,
    ):
        server.client.post_json("/settings", SETTINGS)
        browser = playwright.chromium.launch(
            executable_path=os.environ["NMG_CHROMIUM"], args=["--no-sandbox"]
        )
        page = browser.new_page(viewport=VIEW, device_scale_factor=scale)
        page.set_default_timeout(WAIT_MS)
        yield server, Interface(page, server.client.url)
        browser.close()


def give_users_files(base: Path) -> None:
    """Something by the name of every file that a shipped workflow expects of its user.

    Args:
        base: the server's base folder. What is put there is a picture, whatever it is called: it
            can be chosen, and seen where it is one.
    """
    for path in (ROOT / "workflows").glob("*.json"):
        for node in json.loads(path.read_text("utf-8"))["nodes"]:
            if folder := USERS_OWN.get(node["type"]):
                file = base / folder / node["widgets_values"][0]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes((ROOT / "docs/images/icon.png").read_bytes())
