"""Nodes: trajectories to files and back."""

import torch

from ...nmg_sampler import InvalidInput, load_trajectory, save_trajectory
from ...nmg_sampler.files import bytes_in_words
from ..host.api.display import show_text
from ..host.api.files import find_file, list_files, new_file
from ..host.api.sockets import Trajectory, io
from ..host.api.speaking import speaking_as

PRECISIONS = {"float16": torch.float16, "float32": torch.float32}


class NMGSaveTrajectory(io.ComfyNode):
    """Keep an inversion for another day."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGSaveTrajectory",
            display_name="Save NMG Trajectory",
            category="NMG/files",
            description=(
                "Writes a trajectory with its settings into the output folder (safetensors), and"
                " says beforehand how large it gets. Load it later to edit the picture again"
                " without inverting it."
            ),
            search_aliases=["save inversion", "export trajectory", "store noise maps"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                Trajectory.Input("trajectory", tooltip="From NMG Invert."),
                io.String.Input(
                    "filename_prefix",
                    default="trajectories/NMG",
                    tooltip="Name below the output folder; a counter is added, nothing is ever"
                    " overwritten.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="float16",
                    optional=True,
                    advanced=True,
                    tooltip="Of the stored noise maps. 'float16': half the size (1.6 MB for 50"
                    " steps at 512x512 on SD 1.5); 'float32': samples exactly as before saving.",
                ),
            ],
            outputs=[io.String.Output("path", tooltip="Where the file was written.")],
        )

    @classmethod
    def execute(cls, trajectory, filename_prefix, precision="float16") -> io.NodeOutput:
        with speaking_as("Save NMG Trajectory"):
            path = new_file(filename_prefix)

            def announce(size: int, free: int) -> None:
                words = f"{path.name}: {bytes_in_words(size)}, of {bytes_in_words(free)} free"
                show_text(cls, words)

            save_trajectory(trajectory, path, PRECISIONS[precision], announce)
        return io.NodeOutput(str(path), ui={"text": [str(path)]})


class NMGLoadTrajectory(io.ComfyNode):
    """Edit again without inverting again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGLoadTrajectory",
            display_name="Load NMG Trajectory",
            category="NMG/files",
            description="Reads a trajectory from the input or output folder, for NMG Sample.",
            search_aliases=["load inversion", "import trajectory"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=list_files(),
                    tooltip="A file written by Save NMG Trajectory, in the input or output folder.",
                )
            ],
            outputs=[
                Trajectory.Output(
                    "trajectory", tooltip="As it was saved. Fits the model it was made with."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, file) -> bool | str:
        try:
            find_file(file)
        except InvalidInput as error:
            return f"Load NMG Trajectory: {error}"
        return True

    @classmethod
    def fingerprint_inputs(cls, file) -> tuple[int, int]:
        info = find_file(file).stat()
        return info.st_mtime_ns, info.st_size

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        with speaking_as("Load NMG Trajectory"):
            return io.NodeOutput(load_trajectory(find_file(file)))
