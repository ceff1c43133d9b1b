"""Pictures and masks: fitting, padding, and the original put back."""

from .composite import Combine as Combine
from .composite import branches_of as branches_of
from .composite import composite as composite
from .composite import soft_mask as soft_mask
from .masks import WHITE as WHITE
from .masks import feather_mask as feather_mask
from .masks import fit_mask as fit_mask
from .masks import grow_mask as grow_mask
from .padding import FILLS as FILLS
from .padding import Padding as Padding
from .padding import padding_to_grid as padding_to_grid
from .pictures import black_under as black_under
from .pictures import check_picture as check_picture
from .pictures import in_colour as in_colour
