"""What to say of inputs that run and seldom give what was meant: each a list of lines, or none.

Nothing here raises: what cannot be used at all is refused elsewhere.
"""

import torch

from ....nmg_sampler import Editor, Guidance, Loss, Mode, NoiseMapGuidance, Trajectory
from ....nmg_sampler.pixels import black_under
from ..network.conditions import Conditioning

# The hold of a step: noise_map_scale per step of the run, outside a mask times `outside`. Measured
# on the demo model at 20 and 50 steps, reconstruction at text scale 3 in dB: fused 31 at 1 or less,
# 14 to 19 at 3, 9 to 13 at 4; official 22 at 4, 15 to 19 at 6; with a mask the same. An edit that
# an editor couples to the held source stayed a picture at every scale.
_MOST_HOLD = {Mode.FUSED: 3.0, Mode.OFFICIAL: 5.0}
_GRADIENT_SCALE = 5000.0  # at which that was measured; only the product counts
# Of text_scale per step, there too: the latent's size was 1.0 to 1.05 of the picture's up to 0.6 at
# 8 to 50 steps, 1.2 to 1.7 at 0.8, 1.4 to 2.1 at 1; at 4 steps a text_scale of 4 was fine.
_MOST_TEXT, _SAFE_TEXT = 0.8, 5.0
# Distance of prompts from the source prompt, negative to positive: on the demo model's encoder
# 3 to 4 for an edit, 0.9 for an unrelated prompt, and with the two exchanged 0.25 to 0.35.
_EXCHANGED = 0.5


def about_mask(
    mask: torch.Tensor | None, name: str = "mask", effect: str = "nothing changes"
) -> list[str]:
    """A MASK that has nothing in it, and what comes of that."""
    if mask is None or not bool((mask <= 0).all()):
        return []
    return [
        f"{name} is black everywhere, so {effect}. Load Image gives such a mask for a picture"
        " without one: paint it in the mask editor, or disconnect it."
    ]


def about_noise_mask(mask: torch.Tensor | None) -> list[str]:
    """The same of a LATENT's, which travels with the trajectory."""
    return about_mask(mask, "The noise mask of the latent")


def about_picture(image: torch.Tensor, mask: torch.Tensor, name: str) -> list[str]:
    """A picture that the mask editor has emptied. Mask: (1 or B, H, W) of the picture's size."""
    if not black_under(image, mask):
        return []
    return [
        f"{name} is black (exactly 0) everywhere under the mask. Where the mask editor emptied it,"
        " load the picture itself once more, and take only the mask from the one painted on."
    ]


def about_sampling(
    trajectory: Trajectory,
    positive: Conditioning,
    negative: Conditioning,
    guidance: Guidance,
    text_scale: float,
    mask: torch.Tensor | None,
    editor: Editor | None,
) -> list[str]:
    """All that there is to say of a run from a trajectory to edits."""
    return [
        *about_mask(mask),
        *about_noise_mask(trajectory.noise_mask),
        *about_scales(trajectory, guidance, text_scale, mask, editor),
        *about_prompts(trajectory.source, positive, negative, guidance, text_scale),
    ]


def about_scales(
    trajectory: Trajectory,
    guidance: Guidance,
    text_scale: float,
    mask: torch.Tensor | None,
    editor: Editor | None,
) -> list[str]:
    """Scales at which a step goes too far for a picture to come of it."""
    steps = len(trajectory.schedule.descent())
    lines = []
    if editor is None and isinstance(guidance, NoiseMapGuidance):
        lines += _about_hold(guidance, steps, mask is not None)
    most = max(_MOST_TEXT * steps, _SAFE_TEXT)
    if text_scale > most:
        lines.append(
            f"text_scale {text_scale:g} is much for {steps} steps: the picture is likely to break."
            f" Lower it (3 to 10 is usual, {most:g} about the most here), or take more steps."
        )
    return lines


def _about_hold(guidance: NoiseMapGuidance, steps: int, masked: bool) -> list[str]:
    factor = guidance.gradient_scale / _GRADIENT_SCALE
    factor *= max(guidance.inside, guidance.outside) if masked else 1.0
    most = _MOST_HOLD[guidance.mode] * steps
    if guidance.loss is Loss.L2 or guidance.noise_map_scale * factor <= most:
        return []
    there = " outside the mask" if masked else ""
    return [
        f"noise_map_scale {guidance.noise_map_scale:g} overshoots{there} at {steps} steps: the"
        f" picture is likely to break. Lower it (at most {most / factor:.3g} here), or take more"
        " steps."
    ]


def about_prompts(
    source: Conditioning,
    positive: Conditioning,
    negative: Conditioning,
    guidance: Guidance,
    text_scale: float,
) -> list[str]:
    """A positive and a negative prompt that look exchanged."""
    if text_scale <= 1 or guidance.needs_source_prompt:
        return []
    if not all(_single(prompt) for prompt in (source, positive, negative)):
        return []
    own, target, against = (p[0][0][0].float().cpu() for p in (source, positive, negative))
    if not own.shape == target.shape == against.shape:
        return []
    if float((own - against).norm()) >= _EXCHANGED * float((own - target).norm()):
        return []
    return [
        "negative is nearer to the source prompt than positive, and the edit is pushed away from"
        " negative. If the two are exchanged, exchange them; negative is usually an empty prompt."
    ]


def _single(prompt: Conditioning) -> bool:
    return len(prompt) == 1 and isinstance(prompt[0][0], torch.Tensor) and prompt[0][0].ndim == 3
