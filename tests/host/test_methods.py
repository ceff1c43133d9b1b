"""Direct Inversion, proximal guidance and the refined inversion through their nodes in the host."""

import importlib

import pytest
import torch
from host_models import (
    FLOAT32,
    conditioning,
    first,
    parity_network,
    random_latent,
    random_prompt,
    random_tensor,
    relative,
    sdxl_network,
)

SHAPE = (1, 4, 8, 8)
STEPS = 5
SCENE = 24
RUN = 1e-4  # float32 rounding of a whole run
SOURCE = "a yellow triangle on a striped blue background"
TARGET = "a red triangle on a striped blue background"


@pytest.fixture(scope="module")
def model(calm):
    return calm


@pytest.fixture(scope="module")
def direct_inversion(pack):
    node = importlib.import_module("nmg_pack.nodes.methods.direct_inversion").NMGDirectInversion
    return lambda *settings, **named: first(node.execute(*settings, **named))


@pytest.fixture(scope="module")
def proximal(pack):
    node = importlib.import_module("nmg_pack.nodes.methods.proximal").NMGProximal
    return lambda *settings, **named: first(node.execute(*settings, **named))


@pytest.fixture(scope="module")
def npi(pack):
    return importlib.import_module("nmg_pack.nmg_sampler").NegativePromptGuidance()


@pytest.fixture(scope="module")
def plain(library):
    return library.PlainGuidance()


@pytest.fixture(scope="module")
def demo(pack):
    """(model, encode, source picture as a LATENT)"""
    host_nodes = importlib.import_module("nodes")
    nodes = importlib.import_module("nmg_pack.nodes.demo")
    with torch.inference_mode():
        model, clip, vae = nodes.NMGDemoModel.execute().result
        picture, caption = nodes.NMGDemoPicture.execute(SCENE).result
        assert caption == SOURCE
        latent = {"samples": vae.encode(picture[..., :3])}
    return model, lambda text: host_nodes.CLIPTextEncode().encode(clip, text)[0], latent


class Untouched:
    """An attention edit that couples nothing."""

    def wants(self, layer):
        return False


class FromSource:
    """Everyone takes the source's result."""

    def wants(self, layer):
        return True

    def __call__(self, call):
        return call.branches.repeat(call.plain()[call.branches.source_rows])


@pytest.fixture(scope="module")
def coupled(library):
    """An editor of the given attention edit."""

    class Given(library.Editor):
        def __init__(self, attention):
            self.change = attention

        def begin(self, run):
            editing = library.EditorRun(run)
            editing.attention = lambda step: self.change
            return editing

    return Given


def invert(nodes, model, latent=None, positive=None, **options):
    output = nodes["NMGInvert"].execute(
        model,
        random_prompt(1) if positive is None else positive,
        random_latent(SHAPE) if latent is None else latent,
        steps=options.pop("steps", STEPS),
        schedule="official-masactrl",
        **options,
    )
    return first(output), output.ui["nmg"][0]


@pytest.fixture
def trajectory(nodes, model):
    return invert(nodes, model)[0]


def edit(nodes, model, trajectory, guidance, editor=None, **inputs):
    """(edit, source, cost) under prompts 2 and 3."""
    arguments = {
        "positive": random_prompt(2),
        "negative": random_prompt(3),
        "text_scale": 7.5,
        "noise_map_scale": 0.0,
        "gradient_scale": 0.0,
        "mode": "fused",
        **inputs,
    }
    output = nodes["NMGSample"].execute(
        model, trajectory, guidance=guidance, editor=editor, **arguments
    )
    edits, source = (latent["samples"] for latent in output.result)
    return edits, source, output.ui["nmg"][0]


def picture_of(model, trajectory):
    """The trajectory's clean latent as a LATENT's samples."""
    return model.model.process_latent_out(trajectory.states[0].clone())


# --- Direct Inversion ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (2, 4, 9, 7)], ids=str)
def test_the_source_output_is_the_picture_bit_for_bit(
    nodes, model, direct_inversion, coupled, shape
):
    trajectory, _ = invert(nodes, model, random_latent(shape))
    _, source, cost = edit(nodes, model, trajectory, direct_inversion(1.0), coupled(FromSource()))
    assert torch.equal(source, picture_of(model, trajectory))
    assert (cost["forward_calls"], cost["forward_rows"]) == (STEPS, 4 * STEPS)


def test_the_target_is_plain_text_guidance_unless_the_editor_couples_it(
    nodes, model, trajectory, direct_inversion, coupled, plain
):
    apart = [
        edit(nodes, model, trajectory, method, coupled(Untouched()))[0]
        for method in (direct_inversion(1.0), plain)
    ]
    assert torch.equal(*apart)
    assert relative(apart[0], edit(nodes, model, trajectory, plain)[0]) < RUN
    together = edit(nodes, model, trajectory, direct_inversion(1.0), coupled(FromSource()))[0]
    free = edit(nodes, model, trajectory, plain, coupled(FromSource()))[0]
    assert relative(together, free) > 1e-3


def test_without_an_editor_the_sample_node_says_what_it_needs(
    nodes, model, trajectory, direct_inversion, library
):
    with pytest.raises(library.InvalidInput, match=r"^NMG Sample: guidance needs an editor\."):
        edit(nodes, model, trajectory, direct_inversion(1.0))


def test_bad_settings_are_refused_by_the_nodes_name(direct_inversion, proximal, library):
    with pytest.raises(library.InvalidInput, match=r"^Direct Inversion: strength .*Got 2;"):
        direct_inversion(2)
    with pytest.raises(library.InvalidInput, match=r"^Proximal Guidance: quantile .*Got 2;"):
        proximal("soft", 2)


# --- Proximal guidance ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize("text_scale", [1.0, 7.5])
@pytest.mark.parametrize("with_editor", [False, True], ids=["alone", "with an editor"])
def test_between_negative_prompt_inversion_and_the_reconstruction(
    nodes, model, trajectory, proximal, npi, plain, coupled, kind, text_scale, with_editor
):
    editor = coupled(Untouched()) if with_editor else None
    run = (nodes, model, trajectory)

    def result(guidance, **inputs):
        return edit(*run, guidance, editor, text_scale=text_scale, **inputs)[0]

    own = edit(*run, plain, positive=random_prompt(1), text_scale=1.0)[0]
    nothing = result(proximal(kind, 0.0, recon_strength=0.0))
    assert torch.equal(nothing, result(npi))
    everything = result(proximal(kind, 1.0, recon_strength=0.0))
    assert relative(everything, own) < RUN
    some = result(proximal(kind, 0.7, recon_strength=0.0))
    assert relative(some, own) > 10 * RUN
    assert relative(some, nothing) > 10 * RUN


def test_all_of_the_pull_where_nothing_is_edited_is_the_picture(
    nodes, model, trajectory, proximal, coupled
):
    guidance = proximal("soft", 1.0, recon_strength=1.0)
    for editor in (None, coupled(Untouched())):
        edits, source, _ = edit(nodes, model, trajectory, guidance, editor)
        for got in (edits, source):
            assert torch.equal(got, picture_of(model, trajectory))


def test_it_costs_two_rows_in_one_call_at_scale_one_as_well(nodes, model, trajectory, proximal):
    for text_scale in (7.5, 1.0):
        cost = edit(nodes, model, trajectory, proximal("soft", 0.7), text_scale=text_scale)[2]
        assert (cost["forward_calls"], cost["forward_rows"]) == (STEPS, 2 * STEPS)


@pytest.mark.parametrize("text_scale", [1.0, 7.5])
@pytest.mark.parametrize("with_editor", [False, True], ids=["alone", "with an editor"])
def test_a_batch_of_two_equals_two_singles_at_odd_sizes(
    nodes, model, proximal, coupled, text_scale, with_editor
):
    editor = coupled(FromSource()) if with_editor else None
    latent = random_latent((2, 4, 9, 7))
    # Hard and with all of the pull, an element at the threshold would jump by rounding alone.
    guidance = proximal("soft", 0.7, recon_strength=0.0)
    both = edit(
        nodes, model, invert(nodes, model, latent)[0], guidance, editor, text_scale=text_scale
    )[0]
    for k in range(2):
        single, _ = invert(nodes, model, {"samples": latent["samples"][k : k + 1]})
        alone = edit(nodes, model, single, guidance, editor, text_scale=text_scale)[0]
        assert relative(both[k : k + 1], alone) < RUN


def test_a_noise_mask_keeps_the_latent_outside_bit_for_bit(
    nodes, model, proximal, direct_inversion, coupled
):
    keep = torch.ones(1, 8, 8)
    keep[:, :, :3] = 0
    trajectory, _ = invert(nodes, model, random_latent(SHAPE, noise_mask=keep))
    for guidance, editor in (
        (proximal("soft", 0.5), None),
        (proximal("soft", 0.5), coupled(FromSource())),
        (direct_inversion(1.0), coupled(FromSource())),
    ):
        edits = edit(nodes, model, trajectory, guidance, editor)[0]
        expected = picture_of(model, trajectory)
        assert torch.equal(edits[..., :3], expected[..., :3])
        assert relative(edits[..., 3:], expected[..., 3:]) > 1e-3


def test_where_the_mask_is_black_the_picture_comes_back_and_elsewhere_the_edit(
    nodes, model, trajectory, proximal
):
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1
    guidance = proximal("soft", 0.0, recon_strength=1.0)
    edits = edit(nodes, model, trajectory, guidance, mask=mask)[0]
    expected = picture_of(model, trajectory)
    assert torch.equal(edits[..., 4:], expected[..., 4:])
    assert relative(edits[..., :4], expected[..., :4]) > 1e-3


def test_a_negative_of_several_parts_is_refused_by_name(
    nodes, model, trajectory, proximal, library
):
    both = [*random_prompt(3), *random_prompt(4)]
    with pytest.raises(library.InvalidInput, match=r"^NMG Sample: negative is no single prompt"):
        edit(nodes, model, trajectory, proximal("soft", 0.7), negative=both)


def test_the_methods_leave_no_trace_in_the_model(
    nodes, model, trajectory, proximal, direct_inversion, coupled, plain
):
    before = edit(nodes, model, trajectory, plain)[0]
    edit(nodes, model, trajectory, proximal("hard", 0.7), coupled(FromSource()))
    edit(nodes, model, trajectory, direct_inversion(1.0), coupled(FromSource()))
    assert torch.equal(edit(nodes, model, trajectory, plain)[0], before)


# --- Refined inversion ---------------------------------------------------------------------------


def closes(nodes, model, plain, count, **inputs):
    """The relative error of plain reconstruction after `count` refinements."""
    trajectory, cost = invert(nodes, model, refine_iterations=count, **inputs)
    assert (
        cost["forward_calls"]
        == cost["forward_rows"]
        == (1 + count) * len(trajectory.schedule.query_levels)
    )
    own = trajectory.source
    back = edit(nodes, model, trajectory, plain, positive=own, text_scale=1.0)[0]
    return relative(back, picture_of(model, trajectory))


def test_reconstruction_closes_by_a_factor_with_every_refinement(nodes, model, plain):
    errors = [closes(nodes, model, plain, count) for count in (0, 1, 2, 4)]
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < 0.5 * errors[1]
    assert errors[3] < 0.25 * errors[2] or errors[3] < FLOAT32


def test_no_refinement_is_the_plain_inversion_bit_for_bit(nodes, model, trajectory):
    same, _ = invert(nodes, model, refine_iterations=0)
    assert torch.equal(same.states, trajectory.states)
    refined, _ = invert(nodes, model, refine_iterations=1)
    assert not torch.equal(refined.states, trajectory.states)


def test_refinement_and_regularisation_go_together(nodes, model):
    options = {"regularize": 1, "refine_iterations": 2}
    one, again = (invert(nodes, model, **options)[0].states for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, invert(nodes, model, refine_iterations=2)[0].states)


# --- On other models -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", ["velocity", "sdxl"])
def test_the_methods_work_on_other_models(nodes, proximal, direct_inversion, coupled, make, npi):
    if make == "sdxl":
        model = sdxl_network()
        prompts = [
            conditioning(
                random_tensor((1, 7, 48), seed),
                pooled_output=random_tensor((1, 1280), 50 + seed),
                width=64,
                height=64,
            )
            for seed in (1, 2, 3)
        ]
    else:
        model = parity_network("two", prediction="V_PREDICTION")
        prompts = [random_prompt(seed) for seed in (1, 2, 3)]
    trajectory, _ = invert(nodes, model, positive=prompts[0])
    inputs = {"positive": prompts[1], "negative": prompts[2], "text_scale": 2.0}
    guidance = direct_inversion(1.0)
    source = edit(nodes, model, trajectory, guidance, coupled(FromSource()), **inputs)[1]
    assert torch.equal(source, picture_of(model, trajectory))
    ours, theirs = (
        edit(nodes, model, trajectory, guidance, **inputs)[0]
        for guidance in (proximal("hard", 0.0, recon_strength=0.0), npi)
    )
    assert torch.equal(ours, theirs)
    guidance = proximal("hard", 1.0, recon_strength=1.0)
    edits = edit(nodes, model, trajectory, guidance, **inputs)[0]
    assert torch.equal(edits, picture_of(model, trajectory))


def test_all_three_on_the_demo_model(nodes, demo, proximal, direct_inversion, library, plain, npi):
    model, encode, latent = demo
    made = {
        count: invert(nodes, model, latent, encode(SOURCE), steps=20, refine_iterations=count)[0]
        for count in (0, 2)
    }
    inputs = {"negative": encode(""), "positive": encode(SOURCE), "text_scale": 1.0}
    errors = [
        relative(edit(nodes, model, t, plain, **inputs)[0], picture_of(model, t))
        for t in made.values()
    ]
    assert errors[1] < 0.5 * errors[0]
    inputs |= {"positive": encode(TARGET), "text_scale": 5.0}
    expected = picture_of(model, made[0])
    distances = [
        relative(edit(nodes, model, made[0], method, **inputs)[0], expected)
        for method in (npi, *(proximal("soft", q) for q in (0.4, 0.7, 0.9)))
    ]
    assert distances == sorted(distances, reverse=True)
    editor = first(nodes["NMGMasaCtrl"].execute(2, 0))
    _, source, _ = edit(nodes, model, made[0], direct_inversion(1.0), editor, **inputs)
    assert torch.equal(source, expected)
