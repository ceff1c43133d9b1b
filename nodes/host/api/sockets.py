"""Socket types of the pack, and the host's node API, imported in one place."""

from comfy_api.latest import ComfyExtension as ComfyExtension
from comfy_api.latest import io as io

Trajectory = io.Custom("NMG_TRAJECTORY")
Guidance = io.Custom("NMG_GUIDANCE")
Editor = io.Custom("NMG_EDITOR")
Direction = io.Custom("NMG_DIRECTION")
Padding = io.Custom("NMG_PADDING")
