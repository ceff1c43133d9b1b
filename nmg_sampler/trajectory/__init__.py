"""Where a picture's states lie: levels, schedules, and the trajectory that records them."""

from .drawing import draw_states as draw_states
from .levels import Family as Family
from .levels import NoiseLevel as NoiseLevel
from .levels import add_noise as add_noise
from .levels import ddim_step as ddim_step
from .levels import eps_to_x0 as eps_to_x0
from .levels import k_to_state as k_to_state
from .levels import level_from_alpha_bar as level_from_alpha_bar
from .levels import level_from_flow_sigma as level_from_flow_sigma
from .levels import level_from_k_sigma as level_from_k_sigma
from .levels import level_from_sigma as level_from_sigma
from .levels import state_to_k as state_to_k
from .levels import step_factors as step_factors
from .levels import x0_to_eps as x0_to_eps
from .recorded import Record as Record
from .recorded import RecordedStates as RecordedStates
from .schedule import Schedule as Schedule
from .schedule import Step as Step
from .schedule import evenly_spaced_schedule as evenly_spaced_schedule
from .schedule import official_masactrl_schedule as official_masactrl_schedule
from .schedule import official_schedule as official_schedule
from .schedule import schedule_from_sigmas as schedule_from_sigmas
from .trajectory import SAME_PICTURE as SAME_PICTURE
from .trajectory import Kind as Kind
from .trajectory import ModelIdentity as ModelIdentity
from .trajectory import Trajectory as Trajectory
