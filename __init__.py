"""Noise Map Guidance for ComfyUI: edit real pictures by inversion."""

import logging

from .compatibility import find_problem

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

if problem := find_problem():
    logging.error(problem)
    # The host takes this older interface first: a pack without nodes, and nothing more to complain
    # about.
    NODE_CLASS_MAPPINGS = {}


async def comfy_entrypoint():
    """The host's door to this pack."""
    from .nodes import NoiseMapGuidanceExtension

    return NoiseMapGuidanceExtension()
