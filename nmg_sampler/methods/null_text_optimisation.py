"""How Null-Text Inversion finds its embeddings: Adam, through the network, a few updates a step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..contract.differentiation import embedding_eps
from ..contract.events import StepEvent, check_finite
from ..contract.noise_mask import NoiseMask
from ..contract.predictor import Predictor, Prompt, PromptEmbedding, Request
from ..errors import NotDifferentiable
from ..trajectory.levels import ddim_step, eps_to_x0, step_factors
from ..trajectory.recorded import RecordedStates
from ..trajectory.schedule import Step
from ..trajectory.trajectory import Trajectory
from .null_text import NullTextSettings

Pullback = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class UpdateEvent(StepEvent):
    """After an update of an embedding, and after the step on the path that follows the updates.

    `index` and `total` count inner_steps + 1 of them per step; a step that stops early jumps.
    `x` is the state that the step reaches with the embedding before the update.
    """

    loss: torch.Tensor  # (B,) mean squared distance of `x` to the recorded state


@torch.no_grad()
def optimise_null_text(
    trajectory: Trajectory,
    predictor: Predictor,
    settings: NullTextSettings,
    *,
    device: torch.device | str = "cpu",
    on_update: Callable[[UpdateEvent], None] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The embeddings under which text guidance follows the trajectory, and where that leads.

    Equation: arXiv 2211.09794, algorithm 1. As in the published code each step starts from the
    embedding of the step before, and the path goes on with the optimised embedding.

    Args:
        trajectory: the pivot; where its noise mask is 0 the path is the recorded state.
        predictor: the negative prompt bound, and the source prompt bound as the positive one: as a
            reconstruction has it. Asked per step for one row, up to inner_steps with a backward
            pass, and two.
        settings: how to optimise.
        device: where the states live.
        on_update: called after each update and each step.

    Returns:
        embeddings: (T, B, columns, width) float32, CPU, noisiest step first. Every sample has
            its own and stops on its own: a batch of two is two runs of one.
        latent: (B, C, ...) the end of the optimised path, at the trajectory's lowest level.

    Raises:
        InvalidInput: the negative prompt has several parts, or the trajectory is no path.
        NotDifferentiable: a patch cuts the model off from its prompt.
        NotFinite: the model answered with NaN or infinity.
    """
    trajectory.check_path()
    steps = trajectory.schedule.descent()
    x = trajectory.states[-1].to(device, copy=True)
    tokens = predictor.embedding(Prompt.NEGATIVE).tokens.float()
    tokens = tokens.expand(len(x), -1, -1).clone()
    embeddings = torch.empty((len(steps), *tokens.shape), device="cpu")
    recorded, noise_mask = RecordedStates(trajectory.states), trajectory.noise_mask
    if noise_mask is not None:
        noise_mask = noise_mask.to(device=x.device, dtype=x.dtype)
    fit = _Fit(predictor, settings, len(steps), on_update)
    for step in steps:
        goal = recorded.at(step.entry_to, like=x)
        kept = None
        if noise_mask is not None:
            mask = predictor.noise_mask_at(noise_mask, step.level)
            kept = NoiseMask(mask, recorded.at(step.entry, like=x), goal, step)
        at = _At(step, x, x if kept is None else kept.shown(x), goal, kept)
        try:
            tokens = fit.optimised(tokens, at)
        except NotDifferentiable as error:
            raise NotDifferentiable(
                "Null-Text Inversion needs the gradient of the model in its prompt, and it has"
                " none. Got a patch that is in the way; expected a model that can be"
                " differentiated. Remove the patch, or take Negative-Prompt Inversion, which needs"
                f" no gradient. ({error})"
            ) from error
        embeddings[step.index] = tokens
        # The very call that a reconstruction makes: it then is this path, bit for bit.
        own = PromptEmbedding(tokens)
        guided = predictor.guided(Request(at.shown, step.level, settings.text_scale, embedding=own))
        check_finite(guided.eps, "prediction", step.index, len(steps), step.level)
        x = fit.reached(at, guided.eps)
        fit.tell(at, settings.inner_steps, guided.eps, at.loss(x))
    return embeddings, x


class _At(NamedTuple):
    """Where the optimisation is."""

    step: Step
    x: torch.Tensor  # (B, C, ...) the state that the step starts from
    shown: torch.Tensor  # what the network sees of it
    goal: torch.Tensor  # (B, C, ...) the recorded state that it should reach
    kept: NoiseMask | None  # what it keeps on the way there

    def loss(self, reached: torch.Tensor) -> torch.Tensor:
        """(B,) mean squared distance to the recorded state."""
        return (reached - self.goal).square().flatten(1).mean(1)


class _Fit:
    """The optimisation, step by step."""

    def __init__(
        self,
        predictor: Predictor,
        settings: NullTextSettings,
        total: int,
        on_update: Callable[[UpdateEvent], None] | None,
    ) -> None:
        self.predictor, self.settings, self.total = predictor, settings, total
        self.on_update = on_update

    def reached(self, at: _At, eps: torch.Tensor) -> torch.Tensor:
        """Where a run gets in this step along `eps`."""
        levels = at.step.level, at.step.level_to
        if at.kept is None:
            return ddim_step(at.x, eps, *levels)
        inside = ddim_step(*at.kept.inside(at.x, at.shown, at.shown, eps), *levels)
        outside = ddim_step(at.x, at.kept.outside(at.x), *levels)
        return at.kept.settled(outside, inside)

    def optimised(self, tokens: torch.Tensor, at: _At) -> torch.Tensor:
        """The embedding (B, columns, width) float32 that lands closest to the recorded state."""
        settings, step, scale = self.settings, at.step, self.settings.text_scale
        if settings.inner_steps == 0:
            return tokens
        text = self.predictor.eps(at.shown, step.level, Prompt.POSITIVE)
        adam = _Adam(settings.rate(step.index))
        enough = settings.tolerance(step.index)
        active = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        for inner in range(settings.inner_steps):
            eps, pullback = embedding_eps(
                self.predictor, at.shown, step.level, Prompt.NEGATIVE, tokens
            )
            eps = eps + scale * (text - eps)
            reached = self.reached(at, eps)
            loss = at.loss(reached)
            gradient = self.gradient(at, reached, pullback)
            check_finite(gradient, "gradient", step.index, self.total, step.level)
            update = adam.update(gradient)
            tokens = torch.where(active[:, None, None], tokens - update, tokens)
            self.tell(at, inner, eps, loss)
            active = active & (loss >= enough)
            if not bool(active.any()):
                break
        return tokens

    def gradient(self, at: _At, reached: torch.Tensor, pullback: Pullback) -> torch.Tensor:
        """d loss / d tokens, (B, columns, width) float32."""
        _, shift = step_factors(at.step.level, at.step.level_to)
        slope = 2 * (reached - at.goal) / at.x[0].numel()
        slope = slope * (1 - self.settings.text_scale) * shift
        if at.kept is not None:
            slope = slope * at.kept.mask
        # The slopes of a mean over a latent are so small that half precision flushes them to 0: the
        # network gets each sample's at length 1 to 2, by a power of two, which rounds nothing.
        length = slope.flatten(1).norm(dim=1).clamp(min=1e-30).log2().floor().exp2()
        gradient = pullback(slope / length.reshape(-1, *[1] * (slope.ndim - 1)))
        return gradient * length[:, None, None].to(gradient.dtype)

    def tell(self, at: _At, inner: int, eps: torch.Tensor, loss: torch.Tensor) -> None:
        if self.on_update is None:
            return
        step, each = at.step, self.settings.inner_steps + 1
        x0 = eps_to_x0(at.shown, eps, step.level)
        index, total = step.index * each + inner, self.total * each
        self.on_update(UpdateEvent(index, total, step.level_to, self.reached(at, eps), x0, loss))


class _Adam:
    """Adam, arXiv 1412.6980, algorithm 1, with the constants of PyTorch; elementwise."""

    def __init__(self, rate: float, decays: tuple[float, float] = (0.9, 0.999)) -> None:
        self.rate, self.decays = rate, decays
        self.count, self.mean, self.square = 0, 0.0, 0.0

    def update(self, gradient: torch.Tensor) -> torch.Tensor:
        """What to subtract from the parameters."""
        first, second = self.decays
        self.count += 1
        self.mean = first * self.mean + (1 - first) * gradient
        self.square = second * self.square + (1 - second) * gradient.square()
        mean = self.mean / (1 - first**self.count)
        return self.rate * mean / ((self.square / (1 - second**self.count)).sqrt() + 1e-8)
