"""The library's loops where the host runs its samplers."""

from .attention_maps import run_attention_maps as run_attention_maps
from .checks import check_conditioning as check_conditioning
from .edit_friendly import run_edit_friendly as run_edit_friendly
from .edit_region import run_edit_region as run_edit_region
from .inversion import run_inversion as run_inversion
from .null_text import run_null_text as run_null_text
from .plan import plan_sampling as plan_sampling
from .procedure import Done as Done
from .procedure import Job as Job
from .procedure import run_procedure as run_procedure
from .sampling import run_sampling as run_sampling
from .sweep import run_sweep as run_sweep
