"""Noise Map Guidance for ComfyUI: edit real pictures by inversion."""

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint():
    """The host's door to this pack."""
    from .nodes import NoiseMapGuidanceExtension

    return NoiseMapGuidanceExtension()
