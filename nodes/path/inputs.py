"""Widgets that several nodes have, with the same sentence on each, and what they choose."""

from ...nmg_sampler import Guidance, Mode, fused_guidance, official_guidance
from ..host.api.sockets import io

MODES = {Mode.OFFICIAL.value: official_guidance, Mode.FUSED.value: fused_guidance}


def choose_guidance(
    guidance: Guidance | None, mode: str, noise_map_scale: float, gradient_scale: float
) -> Guidance:
    """The method that is connected, or else Noise Map Guidance by the widgets."""
    return guidance or MODES[mode](noise_map_scale, gradient_scale)


def noise_map_scale_input() -> io.Float.Input:
    """The widget of the noise map scale, the same sentence on every node."""
    return io.Float.Input(
        "noise_map_scale",
        default=1.5,
        min=0.0,
        max=1000.0,
        step=0.1,
        tooltip="The preserve <-> change knob, 0 to 1000, dimensionless: how strongly the picture"
        " is held to its noise maps. 0: not at all (plain text guidance). The paper uses 10 with"
        " an attention editor; alone it preserves so hard that nothing changes.",
    )


def gradient_scale_input() -> io.Float.Input:
    """The widget of the gradient scale, the same sentence on every node."""
    return io.Float.Input(
        "gradient_scale",
        default=5000.0,
        min=0.0,
        max=1000000.0,
        step=100.0,
        advanced=True,
        tooltip="Factor of the noise map term, 0 to 1000000, dimensionless. Only its product with"
        " noise_map_scale matters. Means the same at every picture size and batch.",
    )


def mode_input(default: Mode) -> io.Combo.Input:
    """The widget of the mode, the same sentence on every node."""
    return io.Combo.Input(
        "mode",
        options=[mode.value for mode in Mode],
        default=default.value,
        tooltip="'fused': text guidance and noise map guidance in one step, at the cost of plain"
        " sampling (ours). 'official': two sub-steps per level with a backward pass, as the paper"
        " and its code do; about 2.5 times slower.",
    )
