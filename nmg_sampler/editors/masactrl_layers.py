"""From which layer on MasaCtrl acts: a number that means the same place in every UNet."""

from enum import Enum

from ..contract.attention import AttentionLayer

# The transformer blocks of SD 1.x in the order of execution: (stage, factor).
_SD1_BLOCKS = tuple(
    [("input", factor) for factor in (1, 1, 2, 2, 4, 4)]
    + [("middle", 8)]
    + [("output", factor) for factor in (4, 4, 4, 2, 2, 2, 1, 1, 1)]
)
_SD1_FACTORS = (1, 2, 4, 8)


class Counting(str, Enum):
    """What the number of a layer counts.

    `SD 1.x`: its 16 transformer blocks; in a network with others those that come at or after the
    stage and resolution of that one. `model`: the blocks of the network at hand, as executed.
    """

    SD1 = "SD 1.x"
    MODEL = "model"


def is_reached(layer: AttentionLayer, start_layer: int, counting: Counting) -> bool:
    """Whether a layer lies at or after transformer block `start_layer`, counted from 0.

    Block 10 of SD 1.x is the first one on the way up with two latent cells to one of its own; in
    SDXL that is block 64. A number beyond the last block reaches no layer.
    """
    if layer.unet is None or counting is Counting.MODEL:
        return layer.index >= start_layer
    if (layer.count, layer.unet.factors) == (len(_SD1_BLOCKS), _SD1_FACTORS):
        return layer.index >= start_layer
    if start_layer >= len(_SD1_BLOCKS):
        return False
    return _place(layer.unet.stage, layer.factor) >= _place(*_SD1_BLOCKS[start_layer])


def _place(stage: str, factor: int) -> tuple[int, int]:
    """Where on the way through a UNet: down to coarse cells, through the middle, and up again."""
    return {"input": (0, factor), "middle": (1, 0), "output": (2, -factor)}[stage]
