"""Node: a trajectory as pictures and numbers, without a model call."""

from collections.abc import Sequence

import numpy as np
import torch

from ...nmg_sampler import Trajectory
from ...nmg_sampler.looks import Statistics, predicted_clean, statistics
from ...nmg_sampler.trajectory import Kind
from ..drawing.chart import Line, line_chart
from ..drawing.sheet import Axis, contact_sheet, fit
from ..host.api.display import show_text
from ..host.api.sockets import Trajectory as TrajectorySocket
from ..host.api.sockets import io
from ..host.api.speaking import speaking_as
from ..host.models.decoding import decode, latent_of

_PICTURE_PX = 256  # longer side of a picture on the sheet
# A last state at a lower level than this is not meant to be noise alone.
_NOISE_SIGMA = 3.0
# So far a small latent of white noise can be from deviation 1, likeness 0 and kurtosis 0 by chance.
_WHITE = (0.1, 0.1, 0.7)


class NMGTrajectoryPreview(io.ComfyNode):
    """What an inversion saw on its way to noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGTrajectoryPreview",
            display_name="NMG Trajectory Preview",
            category="NMG/tools",
            description=(
                "Shows the predicted clean picture along a trajectory, from the picture to noise,"
                " and tells how close its last state is to white noise. For finding out whether an"
                " inversion went well before editing with it. No model call."
            ),
            search_aliases=[
                "contact sheet",
                "inversion preview",
                "intermediates",
                "noise statistics",
                "inspect latents",
            ],
            inputs=[
                TrajectorySocket.Input(
                    "trajectory", tooltip="From NMG Invert or Load NMG Trajectory."
                ),
                io.Vae.Input("vae", tooltip="The VAE that the picture was encoded with."),
                io.Int.Input(
                    "count",
                    default=6,
                    min=2,
                    max=16,
                    tooltip="Number of pictures, 2 to 16, evenly over the levels: the first is the"
                    " picture, the last belongs to the noisiest state. Each is decoded once.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "sheet",
                    tooltip="The clean pictures side by side with their levels, a row for each"
                    " picture of a batch.",
                ),
                io.String.Output(
                    "statistics",
                    tooltip="A table of the states: mean, standard deviation, excess kurtosis and"
                    " how alike neighbours are, and what the last state lacks of white noise.",
                ),
                io.Image.Output(
                    "curve",
                    tooltip="Standard deviation and likeness of neighbours over the levels; of"
                    " white noise they are 1 and 0.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, trajectory, vae, count) -> io.NodeOutput:
        with speaking_as("NMG Trajectory Preview"):
            sheet = _sheet(trajectory, vae, _spread(len(trajectory.states), count))
        numbers = [statistics(state) for state in trajectory.states]
        judgement = _judge(trajectory, numbers[-1])
        words = f"{_table(trajectory, numbers)}\n\n{judgement}"
        show_text(cls, judgement)
        images = [torch.from_numpy(each)[None] for each in (sheet, _curve(numbers))]
        return io.NodeOutput(images[0], words, images[1], ui={"text": (words,)})


def _spread(states: int, count: int) -> list[int]:
    """Up to `count` entries, evenly from the first to the last."""
    return sorted({round(place) for place in np.linspace(0, states - 1, count)})


def _sheet(trajectory: Trajectory, vae: object, entries: Sequence[int]) -> np.ndarray:
    """The clean picture of each entry: levels across, the pictures of a batch down."""
    clean = torch.stack([_clean(trajectory, entry) for entry in entries], 1)  # (B, entries, ...)
    images = decode(vae, latent_of(trajectory, clean.flatten(0, 1))).numpy()
    pictures = [fit(image, _PICTURE_PX) for image in images]
    levels = trajectory.schedule.levels
    labels = [f"{entry}  ·  {levels[entry].k_sigma:.2g}" for entry in entries]
    count = len(clean)
    rows = Axis([f"picture {number + 1}" for number in range(count)]) if count > 1 else None
    title = "state" if trajectory.kind is Kind.DRAWN else "predicted clean picture"
    return contact_sheet(pictures, Axis(labels, f"{title} at level  ·  sigma"), rows)


def _clean(trajectory: Trajectory, entry: int) -> torch.Tensor:
    """(B, C, ...): the picture, or what the step up to an entry took it to be.

    States that were drawn one by one have no steps between them: they are shown themselves.
    """
    if entry == 0 or trajectory.kind is Kind.DRAWN:
        return trajectory.states[entry].float()
    return predicted_clean(trajectory, entry - 1)


def _table(trajectory: Trajectory, numbers: Sequence[Statistics]) -> str:
    """A line per state, in columns of a fixed width."""
    lines = ["level     sigma    mean     std  kurtosis  neighbours"]
    for entry, (level, own) in enumerate(zip(trajectory.schedule.levels, numbers, strict=True)):
        lines.append(
            f"{entry:5d}  {level.k_sigma:8.4g}  {own.mean:6.3f}  {own.deviation:6.3f}"
            f"  {own.kurtosis:8.3f}  {own.correlation:10.3f}"
        )
    return "\n".join(lines)


def _judge(trajectory: Trajectory, last: Statistics) -> str:
    """What the last state is against white noise, in a sentence or two."""
    sigma = trajectory.schedule.levels[-1].k_sigma
    found = (
        f"Last state: mean {last.mean:.2f}, standard deviation {last.deviation:.2f}, excess"
        f" kurtosis {last.kurtosis:.2f}, neighbours {last.correlation:.2f}; of white noise 0, 1,"
        " 0, 0."
    )
    if trajectory.kind is Kind.DRAWN:
        return (
            f"{found} The states of Edit-Friendly Inversion are no path: each is the picture with"
            " fresh noise, and the sheet shows them as they are."
        )
    if sigma < _NOISE_SIGMA:
        return f"{found} Its level (sigma {sigma:.2g}) still holds some of the picture, as asked."
    offs = (last.deviation - 1, last.correlation, last.kurtosis)
    if all(abs(off) < most for off, most in zip(offs, _WHITE, strict=True)):
        return f"{found} It is close to white noise, as the model expects it."
    return (
        f"{found} It keeps traces of the picture: it reconstructs well, but an edit starts from"
        " noise that the model does not expect. regularize on NMG Invert makes it whiter."
    )


def _curve(numbers: Sequence[Statistics]) -> np.ndarray:
    levels = range(len(numbers))
    return line_chart(
        "The states on their way to noise",
        "level, from picture to noise",
        "dimensionless",
        [
            Line("standard deviation (white noise: 1)", levels, [n.deviation for n in numbers]),
            Line("likeness of neighbours (0)", levels, [n.correlation for n in numbers]),
        ],
    )
