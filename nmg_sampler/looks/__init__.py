"""What a trajectory shows without an edit."""

from .attention_maps import Columns as Columns
from .attention_maps import masks_of as masks_of
from .attention_maps import word_entries as word_entries
from .attention_maps import word_maps as word_maps
from .edit_region import edit_region as edit_region
from .edit_region import region_entries as region_entries
from .reconstruction import follow as follow
from .state_statistics import Statistics as Statistics
from .state_statistics import predicted_clean as predicted_clean
from .state_statistics import statistics as statistics
