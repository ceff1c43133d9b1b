"""Node: one trajectory under many settings, side by side."""

import numpy as np
import torch

from ...nmg_sampler.methods import (
    METHODS,
    MOST_CELLS,
    Swept,
    parse_values,
    sweep_parameters,
    sweep_settings,
)
from ..drawing.sheet import Axis, contact_sheet, fit
from ..host.api.advice import advise
from ..host.api.sockets import io
from ..host.api.speaking import speaking_as
from ..host.models.decoding import decode
from ..host.runs import run_sweep
from ..host.runs.advice import about_mask, about_noise_mask, about_prompts
from .inputs import choose_guidance
from .sample import NMGSample

_PARAMETERS = sweep_parameters(METHODS)
_CELL_PX = 384


class NMGSweep(io.ComfyNode):
    """Find the settings of a picture by looking."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        sampling = {given.id: given for given in NMGSample.define_schema().inputs}
        connected = [sampling.pop(name) for name in ("guidance", "editor", "mask")]
        values = list(sampling.values())
        return io.Schema(
            node_id="NMGSweep",
            display_name="NMG Sweep",
            category="NMG/tools",
            description=(
                "NMG Sample with every combination of the values of two parameters, as a labelled"
                " contact sheet and as latents: for finding the settings that suit a picture. The"
                " inversion is done once, each cell costs what NMG Sample costs."
            ),
            search_aliases=[
                "XY plot",
                "grid",
                "contact sheet",
                "parameter sweep",
                "compare settings",
                "find noise_map_scale",
            ],
            inputs=[
                *values[:4],
                io.Vae.Input(
                    "vae", tooltip="The VAE that the picture was encoded with, to draw the sheet."
                ),
                *values[4:],
                _parameter("rows", "row to row, top to bottom", "noise_map_scale"),
                _values("row_values", "rows", "0, 1.5, 5"),
                _parameter("columns", "column to column, left to right", "text_scale"),
                _values("column_values", "columns", "3, 5, 7.5"),
                *connected,
                io.Int.Input(
                    "cell_size",
                    default=_CELL_PX,
                    min=64,
                    max=2048,
                    step=8,
                    optional=True,
                    advanced=True,
                    tooltip="Longer side of each picture on the sheet, 64 to 2048 pixels. The"
                    " latents keep their own size.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "sheet",
                    tooltip="All cells with their values, one sheet for each picture of a batch"
                    " and for each of several prompts.",
                ),
                io.Latent.Output(
                    "latent",
                    tooltip="The edits of all cells, for VAE Decode: row by row, each cell as NMG"
                    " Sample gives it. Of a batch of pictures: all pictures of the first cell, then"
                    " all of the second, and so on.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        trajectory,
        positive,
        negative,
        vae,
        text_scale,
        noise_map_scale,
        gradient_scale,
        mode,
        rows,
        row_values,
        columns,
        column_values,
        guidance=None,
        editor=None,
        mask=None,
        cell_size=_CELL_PX,
    ) -> io.NodeOutput:
        with speaking_as("NMG Sweep"):
            guidance = choose_guidance(guidance, mode, noise_map_scale, gradient_scale)
            down = Swept(rows, parse_values("row_values", row_values))
            across = Swept(columns, parse_values("column_values", column_values))
            settings = sweep_settings(guidance, text_scale, down, across)
            # Of its scales a sweep tells by what it shows.
            found = about_mask(mask) + about_noise_mask(trajectory.noise_mask)
            found += about_prompts(trajectory.source, positive, negative, guidance, text_scale)
            advice = advise(cls, "NMG Sweep", found)
            edits, cost = run_sweep(
                model, trajectory, positive, negative, vae, settings, mask, editor
            )
            # Small at once: all cells in full size may be gigabytes.
            cells = [
                [fit(picture, cell_size) for picture in decode(vae, edit).numpy()] for edit in edits
            ]
        # (cells, pictures) -> one sheet per picture
        sheets = [
            contact_sheet(each, _axis(across), _axis(down)) for each in zip(*cells, strict=True)
        ]
        kept = {} if trajectory.noise_mask is None else {"noise_mask": trajectory.noise_mask}
        return io.NodeOutput(
            torch.from_numpy(np.stack(sheets)),
            {"samples": torch.cat(edits), **kept},
            ui={"nmg": [cost], **advice},
        )


def _parameter(name: str, direction: str, default: str) -> io.Combo.Input:
    return io.Combo.Input(
        name,
        options=_PARAMETERS,
        default=default,
        tooltip=f"What changes from {direction}: text_scale, or a number of the method at work."
        " Without a connected guidance that is Noise Map Guidance, with the numbers of NMG"
        " Guidance. The widget of the same name is then not used.",
    )


def _values(name: str, parameter: str, default: str) -> io.String.Input:
    return io.String.Input(
        name,
        default=default,
        tooltip=f"The values of {parameter}, numbers separated by commas, as in '1.5, 3, 7.5'. One"
        f" alone is allowed. At most {MOST_CELLS} cells in all.",
    )


def _axis(swept: Swept) -> Axis:
    return Axis([f"{value:.10g}" for value in swept.values], swept.name)
