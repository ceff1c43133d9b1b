"""The loops: up from a picture, down to an edit, and one step for somebody else's loop."""

from .held_prediction import HeldPrediction as HeldPrediction
from .held_prediction import check_moves_nothing as check_moves_nothing
from .inversion import invert as invert
from .midpoint import Midpoint as Midpoint
from .sampling import Sampled as Sampled
from .sampling import branches_of_run as branches_of_run
from .sampling import sample as sample
