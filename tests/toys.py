"""Predictors with closed forms that count what they are asked, and the numbers to feed them."""

import math
from typing import NamedTuple

import torch
from torch.nn.functional import avg_pool2d, interpolate, scaled_dot_product_attention

from nmg_sampler import (
    Attends,
    AttentionCall,
    AttentionLayer,
    Branches,
    Family,
    Guided,
    Half,
    ModelIdentity,
    NoiseLevel,
    Prompt,
    PromptEmbedding,
    Rows,
    UNetPlace,
    official_masactrl_schedule,
    official_schedule,
    sample,
    schedule_from_sigmas,
)
from nmg_sampler.contract import joined, loss_gradient, merge_heads, split_heads

IDENTITY = ModelIdentity(Family.VP, "eps", "SD15", "0123abcd")


def noise(*shape, seed=0, dtype=torch.float64):
    """Gaussian numbers that leave the global generator alone."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def edit_of(*args, **options):
    """What `sample` makes of the target prompts."""
    return sample(*args, **options).edit


def training_levels(count=1000):
    """The cumulative products of Stable Diffusion 1.x: scaled linear betas, 0.00085 to 0.012."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, count, dtype=torch.float64).square()
    return (1 - betas).cumprod(0).tolist()


def geometric_sigmas(steps, high=10.0, low=0.05):
    """`steps + 1` k-diffusion sigmas, noisiest first, evenly spaced in log sigma."""
    ratio = math.log(low / high)
    return [high * math.exp(ratio * k / steps) for k in range(steps + 1)]


def karras_sigmas(steps, high=14.6, low=0.03, rho=7):
    """`steps + 1` sigmas, evenly spaced in their seventh root, and none at the end."""
    ends = high ** (1 / rho), low ** (1 / rho)
    spread = [ends[0] + (ends[1] - ends[0]) * k / steps for k in range(steps + 1)]
    return [root**rho for root in spread]


# Schedules that spread their levels as unlike as those in use.
SPREADS = {
    "official": official_schedule(training_levels(), 50),
    "official-masactrl": official_masactrl_schedule(training_levels(), 50),
    "many": official_masactrl_schedule(training_levels(), 200),
    "karras": schedule_from_sigmas("karras", [*karras_sigmas(50), 0.0]),
    "exponential": schedule_from_sigmas("exponential", [*geometric_sigmas(50, 14.6, 0.03), 0.0]),
    "flow": schedule_from_sigmas("flow", [1 - k / 50 for k in range(51)], Family.FLOW),
}


class Call(NamedTuple):
    """One network evaluation."""

    kind: str  # "eps" or "guided"
    rows: int
    level: NoiseLevel
    prompt: Prompt | None  # None for guided
    with_graph: bool


class Counting:
    """The predictor contract over `noise_of`, keeping a record of forward and backward passes."""

    # What the rows of a run are, for a toy that tells branches apart.
    branches = Branches(1)

    def __init__(self):
        self.calls = []
        self.backward_passes = 0

    def noise_of(self, x, level, prompt):
        """The noise in `x`; what the toys below define."""
        raise NotImplementedError

    def noise_under(self, x, level, prompt, rows, attention=None, embedding=None):
        """The noise in the branches `rows`; what a toy with attention defines instead."""
        return self.noise_of(x, level, prompt)

    def noise_mask_at(self, mask, level):
        return mask

    def eps(self, x, level, prompt, attention=None, embedding=None, rows=None):
        with_graph = torch.is_grad_enabled() and (
            x.requires_grad or (embedding is not None and embedding.tokens.requires_grad)
        )
        self.calls.append(Call("eps", len(x), level, prompt, with_graph))
        if rows is None:
            rows = Rows.SOURCE if prompt is Prompt.SOURCE else Rows.TARGETS
        own = embedding if prompt is Prompt.NEGATIVE else None
        result = self.noise_under(x, level, prompt, rows, attention, own)
        if with_graph and result.requires_grad:
            result.register_hook(self._count_backward)
        return result

    def guided(self, request):
        return joined([self.guided_alike(part) for part in request.by_scale(self.branches)])

    def guided_alike(self, request):
        """Text guidance of one scale."""
        x, level, scale, rows, negative, embedding, attention, needs_negative = request
        single = negative is not None or (scale == 1 and not needs_negative)
        self.calls.append(Call("guided", len(x) * (1 if single else 2), level, None, False))
        positive = self.noise_under(x, level, Prompt.POSITIVE, rows, attention)
        if scale == 1 and not needs_negative:
            return Guided(positive, negative)
        if negative is None:
            negative = self.noise_under(x, level, Prompt.NEGATIVE, rows, attention, embedding)
        return Guided(negative + scale * (positive - negative), negative)

    def loss_gradient(self, x, level, prompt, loss, embedding=None):
        return loss_gradient(self, x, level, prompt, loss(), embedding)

    @property
    def rows(self):
        """Rows of each call in order."""
        return [call.rows for call in self.calls]

    def forget(self):
        """Starts the record anew."""
        self.calls, self.backward_passes = [], 0

    def _count_backward(self, gradient):
        self.backward_passes += 1


class ConstantNoise(Counting):
    """The same noise whatever the state, level and prompt: DDIM is exact both ways."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def noise_of(self, x, level, prompt):
        return self.value.to(x.dtype).expand_as(x)


class LinearNoise(Counting):
    """eps = A x over the flattened sample, plus a shift per prompt: the Jacobian is A."""

    def __init__(self, matrix, shifts=(0.0, 0.0, 0.0)):
        super().__init__()
        self.matrix = matrix
        self.shifts = dict(zip(Prompt, shifts, strict=True))

    def noise_of(self, x, level, prompt):
        return (x.flatten(1) @ self.matrix.T).reshape(x.shape) + self.shifts[prompt]


class GaussianNoise(Counting):
    """The exact noise of data x0 ~ N(mean, spread^2): E[eps | x] in closed form."""

    def __init__(self, mean=0.7, spread=0.5):
        super().__init__()
        self.mean, self.spread = mean, spread

    def noise_of(self, x, level, prompt):
        return level.sigma * (x - level.alpha * self.mean) / self._variance(level)

    def carry(self, x, level, level_to):
        """The state at `level_to` on the exact probability flow through `x` at `level`.

        Along the flow the standardised state (x - alpha * mean) / std stays what it is.
        """
        standardised = (x - level.alpha * self.mean) / math.sqrt(self._variance(level))
        return level_to.alpha * self.mean + math.sqrt(self._variance(level_to)) * standardised

    def _variance(self, level):
        return level.alpha**2 * self.spread**2 + level.sigma**2


class SmoothNoise(Counting):
    """A small nonlinear network: elements mix with their neighbours, prompts and levels matter.

    Elementwise, so a sample's numbers do not depend on its batch. The positive prompt is `target`
    away from the source prompt; at 0 both are the same text.
    """

    def __init__(self, target=0.0):
        super().__init__()
        self.bias = {Prompt.SOURCE: 0.4, Prompt.POSITIVE: 0.4 + target, Prompt.NEGATIVE: -0.3}

    def noise_of(self, x, level, prompt):
        neighbours = 0.6 * x.roll(1, -1) - 0.5 * x.roll(1, -2) + 0.3 * x.roll(1, 1)
        hidden = torch.tanh(0.8 * x + neighbours + self.bias[prompt] * level.alpha)
        # Like a trained network: most of a noisy state is noise, little of a clean one.
        return level.sigma * x + 0.6 * level.alpha * hidden


class FailingNoise(Counting):
    """Another predictor until call number `call` (from 0), which answers with one bad number."""

    def __init__(self, inner, call, value=math.nan):
        super().__init__()
        self.inner, self.call, self.value = inner, call, value

    def noise_of(self, x, level, prompt):
        result = self.inner.noise_of(x, level, prompt).clone()
        if len(self.calls) == self.call + 1:
            result.view(-1)[0] = self.value
        return result


class DetachedNoise(Counting):
    """A network behind a patch that cuts the graph."""

    def noise_of(self, x, level, prompt):
        return 0.5 * x.detach()


def toy_layers():
    """(self-, cross-)attention of three transformer blocks: way down, bottom, way up."""
    places = (("input", 1), ("middle", 2), ("output", 1))
    return [
        tuple(
            AttentionLayer(index, 3, attends, factor, UNetPlace(stage, (1, 2)))
            for attends in (Attends.SELF, Attends.CROSS)
        )
        for index, (stage, factor) in enumerate(places)
    ]


def call_to(layer, q, k, v, *, half=Half.COND, branches, size, columns=(), attend):
    """A layer's call on tokens (rows, heads, tokens, dim), of which q's are the picture's."""
    crosses = layer.attends is Attends.CROSS
    prompt = slice(0, k.shape[2] if crosses else 0)
    picture = slice(0, q.shape[2])
    return AttentionCall(layer, half, branches, size, q, k, v, picture, prompt, columns, attend)


class AttentiveNoise(Counting):
    """A small UNet-like network with attention, which honours branches and attention edits.

    Args:
        source, negative: (columns, 4) embeddings of a prompt.
        targets: the embeddings of the target prompts.
        branches: what the rows of the run are.
    """

    heads = 2

    def __init__(self, source, targets, negative, branches, seed=0):
        super().__init__()
        self.source, self.targets, self.negative = source, list(targets), negative
        self.branches = branches
        self.weights = noise(3, 2, 4, 4, 4, seed=seed) / 2  # layer, kind, (q, k, v, out)

    def embedding(self, prompt):
        own = {Prompt.SOURCE: self.source, Prompt.NEGATIVE: self.negative}
        return PromptEmbedding((own.get(prompt) if prompt in own else self.targets[0])[None])

    def noise_under(self, x, level, prompt, rows, attention=None, embedding=None):
        text = prompt is not Prompt.NEGATIVE
        branches = self.branches.part(rows)
        if len(x) != branches.rows:  # the held rows alone, under the negative prompt
            branches = Branches(branches.pictures, len(x) // branches.pictures)
        prompts = [self.source] * branches.with_source + self.targets[: branches.targets]
        if not text:
            prompts = [self.negative] * branches.count
        # (rows of a branch, columns, width) each
        prompts = [prompt.expand(branches.pictures, -1, -1) for prompt in prompts]
        if embedding is not None:
            one = embedding.tokens.expand(branches.pictures, -1, -1)
            prompts = [one] * branches.count
        longest = math.lcm(*(prompt.shape[1] for prompt in prompts))
        context = torch.cat([p.repeat(1, longest // p.shape[1], 1) for p in prompts]).to(x.dtype)
        columns = tuple(prompt.shape[1] for prompt in prompts)
        half = Half.COND if text else Half.UNCOND
        hidden = x
        for pair in toy_layers():
            for layer in pair:
                hidden = hidden + 0.5 * self._attend(
                    hidden, layer, context, columns, half, branches, attention
                )
        # Like a trained network: most of a noisy state is noise, little of a clean one.
        return level.sigma * x + 0.4 * level.alpha * torch.tanh(hidden)

    def _attend(self, hidden, layer, context, columns, half, branches, attention):
        cells = avg_pool2d(hidden, layer.factor)
        size = tuple(cells.shape[2:])
        tokens = cells.flatten(2).transpose(1, 2)
        crosses = layer.attends is Attends.CROSS
        wq, wk, wv, wo = self.weights[layer.index, int(crosses)].to(hidden.dtype)
        other = context if crosses else tokens
        q, k, v = (split_heads(each, self.heads) for each in (tokens @ wq, other @ wk, other @ wv))
        call = call_to(
            layer,
            q,
            k,
            v,
            half=half,
            branches=branches,
            size=size,
            columns=columns if crosses and half is Half.COND else (),
            attend=scaled_dot_product_attention,
        )
        edit = attention is not None and attention.wants(layer)
        out = merge_heads(attention(call) if edit else call.plain()) @ wo
        return interpolate(out.transpose(1, 2).unflatten(2, size), hidden.shape[2:])
