"""A loop of the library inside the host's sampling path: its loading, conditions and wrappers."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import comfy.samplers
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import Branches, Schedule, StepEvent
from ....nmg_sampler.contract import OnStep
from ..api.preview import side_by_side
from ..network.conditions import Conditioning
from .guider import BranchGuider
from .predictor import Cost, HostPredictor


class Done(NamedTuple):
    """What a procedure comes to."""

    latent: torch.Tensor  # (rows, C, ...) for the host, in the model's own latent space
    result: Any = None  # what its caller wants of it


# Of what the host draws for a prompt (unCLIP's noise): on every way, up or down, the same.
_SEED = 0

# What happens in the middle of a run: given the network, the samples on the run's device and what
# to call after each step.
Procedure = Callable[[HostPredictor, torch.Tensor, OnStep], Done]


@dataclass(frozen=True, eq=False)
class Job:
    """A run, apart from the model that it is done with.

    Attributes:
        conditions: the prompts by the name of their `Prompt`.
        samples: (pictures, C, ...) of a LATENT, one row per picture.
        schedule: the levels of the run.
        procedure: what it does.
        noise_mask: where the host keeps the samples as they are; or None.
        branches: what the rows of the run's states are; None is one row per picture.
        columns: prompt length of each branch in embedding columns, where an editor wants to know.
    """

    conditions: dict[str, Conditioning]
    samples: torch.Tensor
    schedule: Schedule
    procedure: Procedure
    noise_mask: torch.Tensor | None = None
    branches: Branches | None = None
    columns: tuple[int, ...] = ()

    @property
    def rows(self) -> Branches:
        """What the rows of the run's states are."""
        return self.branches or Branches(len(self.samples))


class Outcome(NamedTuple):
    """What a run came to."""

    samples: torch.Tensor  # (rows, C, ...) of a LATENT, on the CPU
    result: Any  # of its procedure
    cost: dict[str, Any]  # calls, rows, seconds


class Turn(NamedTuple):
    """Which of how many runs of equal length that share one progress bar."""

    number: int
    of: int


ALONE = Turn(0, 1)


def run_procedure(model: ModelPatcher, job: Job, turn: Turn = ALONE) -> Outcome:
    """Does the job where the host runs its samplers."""
    branches = job.rows
    started = time.perf_counter()
    guider = BranchGuider(model, job.conditions, branches)
    sampler = LibrarySampler(job.procedure, job.columns, _tell_of_branches(branches))
    # The host plans its memory, and sizes conditions and masks, by what it is given here.
    samples = branches.repeat(job.samples)
    # What other packs read as the run's levels: noisiest first, as for any sampler.
    sigmas = torch.tensor([level.k_sigma for level in reversed(job.schedule.levels)])
    samples = guider.sample(
        torch.zeros_like(samples),
        samples,
        sampler,
        sigmas,
        denoise_mask=job.noise_mask,
        callback=_progress(model, len(sigmas) - 1, turn),
        seed=_SEED,
    )
    seconds = round(time.perf_counter() - started, 3)
    cost = {**sampler.cost.as_dict(), "seconds": seconds}
    return Outcome(samples.cpu(), sampler.result, cost)


class LibrarySampler(comfy.samplers.Sampler):
    """A procedure as the host's samplers are called; serves one run.

    Args:
        procedure: what the run does.
        columns: as `Job` has them.
        tell: how a step is told to the host's callback, where there is one.

    Attributes:
        result: of the procedure, after the run.
        cost: what the network was asked, whether or not the run came to its end.
    """

    def __init__(
        self,
        procedure: Procedure,
        columns: tuple[int, ...],
        tell: Callable[[StepEvent, Callable[..., None]], None],
    ) -> None:
        self.procedure, self.columns = procedure, columns
        self.tell = tell
        self.result: Any = None
        self.cost = Cost()

    def sample(  # the host's own interface
        self,
        model_wrap: BranchGuider,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any],
        callback: Callable[..., None] | None,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        denoise_mask: torch.Tensor | None = None,
        disable_pbar: bool = False,
    ) -> torch.Tensor:
        predictor = HostPredictor.of_run(
            model_wrap, sigmas, extra_args, noise, latent_image, denoise_mask, self.columns
        )

        def on_step(event: StepEvent) -> None:
            if callback is not None:
                self.tell(event, callback)

        try:
            done = self.procedure(predictor, latent_image, on_step)
        finally:
            self.cost = predictor.cost
        self.result = done.result
        return done.latent


def total_cost(costs: list[dict[str, Any]]) -> dict[str, Any]:
    """What several runs cost together."""
    return {name: round(sum(cost[name] for cost in costs), 3) for name in costs[0]}


def _tell_of_branches(branches: Branches) -> Callable[[StepEvent, Callable[..., None]], None]:
    def tell(event: StepEvent, callback: Callable[..., None]) -> None:
        shown = side_by_side(event, branches.pictures)
        callback(event.index, shown, event.x, event.total)

    return tell


def _progress(model: ModelPatcher, steps: int, turn: Turn) -> Callable[..., None]:
    """The host's bar and preview, for this run's part of the bar."""
    tell = latent_preview.prepare_callback(model, turn.of * steps)

    def callback(step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
        tell(turn.number * total + step, x0, x, turn.of * total)

    return callback
