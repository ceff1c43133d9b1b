"""Nodes: edit directions as files."""

from ...nmg_sampler import InvalidInput, load_direction, save_direction
from ...nmg_sampler.files import DIRECTION
from ..host.api.files import find_file, list_files, new_file
from ..host.api.sockets import Direction, io
from ..host.api.speaking import speaking_as


class NMGSaveDirection(io.ComfyNode):
    """Keep a direction for other pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGSaveDirection",
            display_name="Save NMG Direction",
            category="NMG/files",
            description=(
                "Writes an edit direction with its sentences into the output folder (safetensors)."
                " It works on any picture with every model of the same text encoder."
            ),
            search_aliases=["save edit direction", "export direction"],
            is_output_node=True,
            inputs=[
                Direction.Input("direction", tooltip="From NMG Edit Direction."),
                io.String.Input(
                    "filename_prefix",
                    default="directions/NMG",
                    tooltip="Name below the output folder; a counter is added, nothing is ever"
                    " overwritten.",
                ),
            ],
            outputs=[io.String.Output("path", tooltip="Where the file was written.")],
        )

    @classmethod
    def execute(cls, direction, filename_prefix) -> io.NodeOutput:
        with speaking_as("Save NMG Direction"):
            path = new_file(filename_prefix, DIRECTION.suffix)
            save_direction(direction, path)
        return io.NodeOutput(str(path), ui={"text": [str(path)]})


class NMGLoadDirection(io.ComfyNode):
    """The same edit for the next picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGLoadDirection",
            display_name="Load NMG Direction",
            category="NMG/files",
            description="Reads an edit direction from the input or output folder.",
            search_aliases=["load edit direction", "import direction"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=list_files(DIRECTION.suffix),
                    tooltip="A file written by Save NMG Direction, in the input or output folder.",
                )
            ],
            outputs=[Direction.Output("direction", tooltip="As it was saved.")],
        )

    @classmethod
    def validate_inputs(cls, file) -> bool | str:
        try:
            find_file(file, DIRECTION.suffix)
        except InvalidInput as error:
            return f"Load NMG Direction: {error}"
        return True

    @classmethod
    def fingerprint_inputs(cls, file) -> tuple[int, int]:
        info = find_file(file, DIRECTION.suffix).stat()
        return info.st_mtime_ns, info.st_size

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        with speaking_as("Load NMG Direction"):
            return io.NodeOutput(load_direction(find_file(file, DIRECTION.suffix)))
