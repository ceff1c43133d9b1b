"""The loops: up from a picture, down to an edit, and one step for somebody else's loop."""

from .held_prediction import HeldPrediction as HeldPrediction
from .held_prediction import check_corrects_only as check_corrects_only
from .inversion import invert as invert
from .sampling import Sampled as Sampled
from .sampling import sample as sample
