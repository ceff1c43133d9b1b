"""Words on a node in the graph."""

from server import PromptServer

from .sockets import io


def show_text(node: type[io.ComfyNode], text: str) -> None:
    """Shows a text on the node that runs; nowhere if no web server runs it."""
    server = getattr(PromptServer, "instance", None)
    if server is not None and node.hidden is not None:
        server.send_progress_text(text, node.hidden.unique_id)
