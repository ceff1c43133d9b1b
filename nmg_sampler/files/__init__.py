"""Files of trajectories and directions: safetensors with a digest, written whole or not at all."""

from .direction_file import DIRECTION as DIRECTION
from .direction_file import load_direction as load_direction
from .direction_file import save_direction as save_direction
from .source_packing import pack_source as pack_source
from .tensor_file import bytes_in_words as bytes_in_words
from .trajectory_file import SUFFIX as SUFFIX
from .trajectory_file import load_trajectory as load_trajectory
from .trajectory_file import save_trajectory as save_trajectory
