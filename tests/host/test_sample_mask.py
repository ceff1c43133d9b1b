"""The mask of NMG Sample: of any size, black, white or between, it does what it looks like."""

import pytest
import torch
from host_models import calm_network, first, random_latent, random_prompt, relative

SHAPE = (1, 4, 8, 12)
STEPS = 5
RUN = 1e-4  # float32 rounding of a whole run


@pytest.fixture(scope="module")
def model(pack):
    with torch.inference_mode():
        return calm_network()


@pytest.fixture(scope="module")
def trajectory(nodes, model):
    arguments = model, random_prompt(1), random_latent(SHAPE), STEPS, "official-masactrl"
    with torch.inference_mode():
        return first(nodes["NMGInvert"].execute(*arguments))


@pytest.fixture
def edit(nodes, model, trajectory):
    """The edit's samples; without a method as by the widgets' defaults."""

    def call(mask=None, scale=1.5, **options):
        prompts = random_prompt(2), random_prompt(3)
        settings = 5.0, scale, 5000.0, "fused"
        run = nodes["NMGSample"].execute(
            model, trajectory, *prompts, *settings, mask=mask, **options
        )
        return run.result

    return call


@pytest.fixture
def guidance(nodes):
    """Noise Map Guidance in mode fused as NMG Sample makes it, and with options."""

    def call(scale=1.5, **options):
        choices = "fused", "direct", "l1", "auto", scale, 5000.0, 0.0, 1.0
        return first(nodes["NMGGuidance"].execute(*choices, **options))

    return call


@pytest.fixture(scope="module")
def editor(library):
    """An editor that couples nothing, but has a source branch."""

    class Given(library.Editor):
        def begin(self, run):
            return library.EditorRun(run)

    return Given()


def even(value, size=SHAPE[2:]):
    return torch.full((1, *size), value)


def samples(run):
    return run[0]["samples"]


@pytest.mark.parametrize("size", [(1, 1), (8, 12), (64, 96), (50, 31)], ids=str)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_an_even_mask_of_any_size_is_its_factor_of_the_scale(edit, guidance, size, value):
    method = guidance(inside=0.5, outside=2.0)
    masked = samples(edit(even(value, size), guidance=method))
    uniform = samples(edit(scale=1.5 * (2.0 - 1.5 * value)))
    assert relative(masked, uniform) < RUN


@pytest.mark.parametrize("size", [(1, 1), (50, 31)], ids=str)
def test_put_back_under_a_black_mask_the_latent_is_the_pictures(edit, guidance, size):
    run = edit(even(0.0, size), guidance=guidance(blend=1.0))
    assert torch.equal(samples(run), run[1]["samples"])
    white = samples(edit(even(1.0, size), guidance=guidance(blend=1.0, inside=1.0)))
    assert relative(white, samples(edit())) < RUN


@pytest.mark.parametrize("size", [(1, 1), (50, 31)], ids=str)
def test_with_an_editor_black_is_the_source_branch_and_white_no_mask(edit, editor, size):
    edited, source = edit(even(0.0, size), editor=editor)
    assert torch.equal(edited["samples"], source["samples"])
    unmasked = samples(edit(editor=editor))
    # Resized white is 1 within rounding, black is 0 exactly.
    assert relative(samples(edit(even(1.0, size), editor=editor)), unmasked) < RUN
    assert relative(unmasked, source["samples"]) > 100 * RUN


def test_with_an_editor_a_soft_edge_lies_between(edit, editor):
    mask = torch.zeros(1, *SHAPE[2:])
    mask[..., 6:] = 1
    mask[..., 5] = 0.5
    edited, source = edit(mask, editor=editor)
    change = (edited["samples"] - source["samples"]).abs().mean((0, 1, 2))
    assert not change[:5].any()
    assert 0 < change[5] < change[6:].min()


@pytest.mark.parametrize("count", [0, 2])
def test_masks_for_another_number_of_pictures_are_refused(edit, library, count):
    wrong = rf"^NMG Sample: mask does not fit the pictures. Got {count} masks for 1"
    with pytest.raises(library.InvalidInput, match=wrong):
        edit(torch.ones(count, 8, 12))
