"""The door to a network's attention: which layers there are, and how an edit gets into them."""

from collections.abc import Collection, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import AttentionEdit, AttentionLayer, Branches, Editor, InvalidInput
from .unet_door import UNetDoor


class Door(Protocol):
    """To the attention of one network; each kind of network has one of its own.

    Nothing of the network is changed: what an edit needs goes into the options of one prediction.
    """

    @property
    def layers(self) -> Sequence[AttentionLayer]:
        """Those that an edit can reach, in the order they are executed."""
        ...

    def word_maps(self, latent: Sequence[int]) -> list[tuple[int, int]]:
        """(cells, heads) of each layer that attends to the prompt, for a latent (height, width)."""
        ...

    def inside(
        self,
        edit: AttentionEdit,
        branches: Branches,
        columns: tuple[int, ...],
        options: dict[str, Any],
        negatives: Collection[Hashable] = (),
    ) -> AbstractContextManager[dict[str, Any]]:
        """Model options under which every layer that the edit wants comes through it.

        Args:
            edit: the library's change of attention.
            branches: what the rows of one half of the prediction are.
            columns: prompt length per branch, in embedding columns.
            options: the prediction's own.
            negatives: the host's ids of the negative prompt's parts. A patch may predict under it
                alone, in the text's place.

        Raises:
            InvalidInput: on leaving, if a patch of another pack kept the edit from a layer.
        """
        ...


def door_to(network: torch.nn.Module) -> Door | None:
    """The door to a network's attention; None if there is none that leads there."""
    return UNetDoor(network) if UNetDoor.leads_to(network) else None


def check_editable(model: ModelPatcher, editor: Editor) -> None:
    """Raises InvalidInput unless this is an editor and can reach the model's attention."""
    if not isinstance(editor, Editor):
        raise InvalidInput.of(
            "editor",
            "is of a kind that this version cannot run",
            type(editor).__name__,
            "an editor of this pack",
            "Disconnect it, or update the pack.",
        )
    network = model.get_model_object("diffusion_model")
    if door_to(network) is None:
        raise InvalidInput.of(
            "editor",
            "does not work with a model of this kind",
            type(network).__name__,
            "a UNet with self- and cross-attention over one picture: SD 1.x, SD 2.x or SDXL",
            "Load a checkpoint of one of these families, or disconnect the editor.",
        )
