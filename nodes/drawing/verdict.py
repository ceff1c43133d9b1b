"""What a reconstruction is worth, and the first setting to change, in plain words. Pure."""

import math
from dataclasses import dataclass

from ...nmg_sampler import Guidance, NoiseMapGuidance, PlainGuidance

# PSNR against the VAE round trip, decibels. In docs/first-results.md the defaults reach 35.6 at
# text scale 3; DDIM + CFG, whose pictures are visibly others, 23.4 at 5 and 21.0 at 7.5.
FAITHFUL_DB, FAIR_DB = 30.0, 25.0
_USUAL_STEPS = 50
# On the demo model at text scale 7.5 the best noise_map_scale was 5 at 20 steps and 10 to 30 at
# 50; above, the push of a step overshoots. At 10 steps every scale did harm.
_SCALE_PER_STEP = 1 / 5
_GRADIENT_SCALE = 5000.0  # at which that was measured; only the product counts


@dataclass(frozen=True)
class Findings:
    """What was measured of a reconstruction; PSNR in dB against the VAE round trip.

    Attributes:
        psnr: as the settings are.
        unheld: at the same text scale without the method.
        inverted: at text scale 1 without the method: what the inversion itself keeps.
        guidance, text_scale, steps: the settings.
        original: as `psnr`, but against the original picture, if that was given.
        vae: of the VAE round trip against the original picture, likewise.

    For states that are no path `unheld` and `inverted` are None.
    """

    psnr: float
    unheld: float | None
    inverted: float | None
    guidance: Guidance
    text_scale: float
    steps: int
    original: float | None = None
    vae: float | None = None


def verdict(found: Findings) -> str:
    """The grade with its number, what to change first, and what that was read from."""
    reason, advice = _fault(found)
    parts = [f"Reconstruction {found.psnr:.1f} dB, {grade(found.psnr)}: {advice}.", reason]
    if found.vae is not None:
        parts.append(
            f"Against the original picture itself it is {found.original:.1f} dB, and what the VAE"
            f" alone makes of that {found.vae:.1f} dB: no setting here gets beyond the VAE."
        )
    return " ".join(part for part in parts if part)


def grade(psnr: float) -> str:
    """A word for a PSNR in dB."""
    if psnr >= FAITHFUL_DB:
        return "faithful"
    return "fair" if psnr >= FAIR_DB else "weak"


def _fault(found: Findings) -> tuple[str, str]:
    """(why, what to change first)"""
    measured = _measured(found)
    if found.psnr >= FAITHFUL_DB:
        return measured, "nothing to change"
    if found.inverted is None:
        return (
            "The states of Edit-Friendly Inversion are no path: it gives the picture back only at"
            " the text guidance it was made with, and there the curve lies at 0"
            " but for the last step.",
            f"set text_scale (now {found.text_scale:g}) to the source_scale of Edit-Friendly"
            " Inversion, or raise its skip",
        )
    if found.inverted < FAITHFUL_DB:
        return f"{measured} The inversion itself loses the picture.", _better_inversion(found.steps)
    if found.unheld is not None and found.psnr < found.unheld:
        return f"{measured} The guidance does more harm than good here.", _weaker(found)
    return f"{measured} The inversion is fine; text guidance leads away.", _stronger(found)


def _measured(found: Findings) -> str:
    """The other ways back, in numbers: of those that are not the one asked for."""
    ways = []
    if found.unheld is not None and not isinstance(found.guidance, PlainGuidance):
        ways.append(f"without guidance {found.unheld:.1f} dB")
    if found.inverted is not None and not math.isclose(found.text_scale, 1):
        ways.append(f"at text_scale 1 {found.inverted:.1f} dB")
    return f"For comparison: {', '.join(ways)}." if ways else ""


def _better_inversion(steps: int) -> str:
    if steps < _USUAL_STEPS:
        return (
            f"add steps on NMG Invert (now {steps}), then set its refine_iterations to 2, and look"
            " whether the source prompt describes the picture"
        )
    return (
        "set refine_iterations of NMG Invert to 2, and look whether the source prompt describes the"
        f" picture; more steps (now {steps}) help too"
    )


def _weaker(found: Findings) -> str:
    if isinstance(found.guidance, NoiseMapGuidance):
        scale = found.guidance.noise_map_scale
        return f"lower noise_map_scale (now {scale:g}), or add steps (now {found.steps})"
    return "disconnect guidance, or change its settings"


def _stronger(found: Findings) -> str:
    guidance, text_scale = found.guidance, f"lower text_scale (now {found.text_scale:g})"
    if isinstance(guidance, PlainGuidance):
        return "disconnect guidance, so that Noise Map Guidance holds the picture, or " + text_scale
    if not isinstance(guidance, NoiseMapGuidance):
        return f"{text_scale}, or take Noise Map Guidance with a noise_map_scale of 5"
    if guidance.noise_map_scale * guidance.gradient_scale < (
        _SCALE_PER_STEP * found.steps * _GRADIENT_SCALE
    ):
        return f"raise noise_map_scale (now {guidance.noise_map_scale:g}), or {text_scale}"
    return (
        f"add steps on NMG Invert (now {found.steps}), or {text_scale}; noise_map_scale (now"
        f" {guidance.noise_map_scale:g}) is high already"
    )
