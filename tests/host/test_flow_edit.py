"""FlowEdit on the host's models: a source branch without an editor, each at a scale of its own."""

import pytest
import torch
from family_models import FLOWS, MODELS
from host_models import relative

STEPS = 5
SOURCE_SCALE, TARGET_SCALE = 1.5, 4.0
RUN = 1e-4  # float32 rounding of a whole run
# A flow in every kind of network, and one that preserves variance: the loop is the same.
NAMES = [*sorted(FLOWS), "SD 1.x"]


@pytest.fixture
def drawn(library, model_tools):
    """(model, a trajectory of drawn states of two pictures)."""

    def make(name):
        small, model = MODELS[name], MODELS[name].load()
        schedule = model_tools.make_schedule(model, "simple", STEPS)
        x0 = model.model.process_latent_in(small.latent(batch=2)["samples"])
        states = library.trajectory.draw_states(x0, schedule, torch.Generator().manual_seed(0))
        identity = model_tools.identify(model)
        source = small.prompt(1)
        return model, library.Trajectory(
            states, schedule, identity, source, kind=library.Kind.DRAWN
        )

    return make


@pytest.fixture
def edit(library, runs):
    def call(name, model, trajectory, prompt, scale=TARGET_SCALE):
        small = MODELS[name]
        guidance = library.FlowEdit(SOURCE_SCALE)
        positive = prompt if isinstance(prompt, list) else small.prompt(prompt)
        given = positive, small.prompt(3), guidance, scale, None
        return runs.run_sampling(model, trajectory, *given)

    return call


@pytest.mark.parametrize("name", NAMES)
def test_the_same_prompt_and_scale_on_both_sides_give_the_picture(drawn, edit, name):
    model, trajectory = drawn(name)
    result, source, cost = edit(name, model, trajectory, 1, scale=SOURCE_SCALE)
    picture = model.model.process_latent_out(trajectory.states[0])
    assert relative(result, picture) < RUN
    assert relative(source, picture) < RUN
    assert (cost["forward_calls"], cost["forward_rows"]) == (STEPS, 4 * STEPS)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_papers_loop_over_the_hosts_own_predictions(library, runs, drawn, edit, name):
    small, (model, trajectory) = MODELS[name], drawn(name)
    result, _, cost = edit(name, model, trajectory, 2)
    branches = library.Branches(2, 1, True)
    steps = trajectory.schedule.descent()

    def loop(predictor, _x, _on_step):
        x0 = trajectory.states[0]
        z = x0.clone()
        for step in steps:
            q = trajectory.states[step.entry]
            scale, shift = library.trajectory.step_factors(step.level, step.level_to)
            p = z * step.level.alpha + q - x0 * step.level.alpha
            target, source = (
                predictor.guided(library.Request(x, step.level, w, rows=rows)).eps
                for x, w, rows in (
                    (p, TARGET_SCALE, library.Rows.TARGETS),
                    (q, SOURCE_SCALE, library.Rows.SOURCE),
                )
            )
            moved = scale * (p - q) + shift * (target - source)
            z = x0 + moved / step.level_to.alpha
        return runs.Done(torch.cat([x0, z]))

    conditions = {
        "source": small.prompt(1), "positive": small.prompt(2), "negative": small.prompt(3)
    }  # fmt: skip
    picture = model.model.process_latent_out(trajectory.states[0])
    job = runs.Job(conditions, picture, trajectory.schedule, loop, None, branches)
    expected = runs.run_procedure(model, job).samples[2:]
    assert relative(result, expected) < RUN
    assert relative(result, picture) > 1e-3
    # Each branch at its own scale, in a call of its own.
    assert (cost["forward_calls"], cost["forward_rows"]) == (2 * STEPS, 4 * STEPS)


def test_prompts_need_not_be_built_alike_where_branches_are_asked_apart(drawn, edit):
    model, trajectory = drawn("Flux")
    longer = edit("Flux", model, trajectory, MODELS["Flux"].prompt(2, tokens=14))[0]
    assert torch.isfinite(longer).all()
    assert relative(longer, edit("Flux", model, trajectory, 2)[0]) > 1e-3


def test_an_inverted_trajectory_is_refused_before_anything_runs(library, nodes, drawn, edit):
    model, _ = drawn("Flux")
    small = MODELS["Flux"]
    inverted = (
        nodes["NMGInvert"]
        .execute(model, small.prompt(1), small.latent(), steps=STEPS, schedule="simple")
        .args[0]
    )
    with pytest.raises(library.InvalidInput, match="trajectory is of the wrong kind"):
        edit("Flux", model, inverted, 2)
