"""Models that are shown the clean picture outside a noise mask, where others see it noised.

Image-to-video models (LTX-Video, WAN 2.2 5B) take the frames they start from as they are, at
timestep 0; the rest is predicted around them. The rule is the host's, of its inpainting sampler.
"""

from collections.abc import Callable

import torch
from comfy.model_base import BaseModel

MaskAt = Callable[[torch.Tensor], torch.Tensor]  # of a level, (rows,), the mask (rows, C, ...)


class CleanOutside:
    """The picture of a run outside its mask.

    Args:
        model: one that `asks_for_it`.
        latent: (rows, C, ...) the picture in the model's own scale.
        mask_at: 1 where it may change.
    """

    def __init__(self, model: BaseModel, latent: torch.Tensor, mask_at: MaskAt) -> None:
        self.model = model
        self.latent = latent
        self.mask_at = mask_at

    @staticmethod
    def asks_for_it(model: BaseModel) -> bool:
        """Whether a model has a rule of its own for what is outside the mask."""
        return type(model).scale_latent_inpaint is not BaseModel.scale_latent_inpaint

    def shown(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The state that the network sees, in the scale of the host's samplers."""
        latent, mask = self._of(x, sigma)
        outside = self.model.scale_latent_inpaint(
            x=x, sigma=sigma, noise=torch.zeros_like(latent), latent_image=latent
        )
        return x * mask + outside * (1 - mask)

    def kept(self, denoised: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The prediction: outside the mask it is the picture."""
        latent, mask = self._of(denoised, sigma)
        return denoised * mask + latent * (1 - mask)

    def _of(self, x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latent and mask of as many rows: all branches begin with the same."""
        return self.latent[: len(x)], self.mask_at(sigma)[: len(x)]
