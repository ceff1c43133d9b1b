"""What the host's live preview is given: it shows the first row of a latent and no other."""

import torch

from ....nmg_sampler import StepEvent

# More would leave each too small to be told from the others.
_MOST_EDITS = 3


def side_by_side(event: StepEvent, pictures: int) -> torch.Tensor:
    """The predicted clean latents of the first picture, source | edit | edit, as one wide row.

    They are joined as latents, in the model's own space: that is what every previewer of the host
    takes and what its own samplers hand it. (1, C, ..., branches * width); where there is but one
    branch `event.x0` as it is.
    """
    edits = event.x0[::pictures][:_MOST_EDITS]
    shown = edits if event.source_x0 is None else torch.cat([event.source_x0[:1], edits])
    return event.x0 if len(shown) == 1 else torch.cat(shown.split(1), dim=-1)
