"""A ComfyUI with the pack and a headless Chromium that shows it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from playwright.sync_api import sync_playwright

from tools.host_environment import HostEnvironment
from tools.host_server import HostServer, host_server
from tools.web_interface import Interface

SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.Locale": "en",
}
VIEW = {"width": 1600, "height": 1000}
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
