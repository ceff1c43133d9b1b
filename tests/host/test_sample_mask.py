"""The mask of NMG Sample: of any size, black, white or between, it does what it looks like."""

import importlib

import pytest
import torch
from host_models import first, random_latent, random_prompt, relative
from host_nodes import guidance as noise_map_guidance

SHAPE = (1, 4, 8, 12)
STEPS = 5
RUN = 1e-4  # float32 rounding of a whole run


@pytest.fixture(scope="module")
def model(calm):
    return calm


@pytest.fixture(scope="module")
def trajectory(nodes, model):
    with torch.inference_mode():
        return first(
            nodes["NMGInvert"].execute(
                model,
                random_prompt(1),
                random_latent(SHAPE),
                steps=STEPS,
                schedule="official-masactrl",
            )
        )


@pytest.fixture
def edit(nodes, model, trajectory):
    """The edit's samples; without a method as by the widgets' defaults."""

    def call(mask=None, scale=1.5, **options):
        run = nodes["NMGSample"].execute(
            *(model, trajectory, random_prompt(2), random_prompt(3)),
            text_scale=5.0,
            noise_map_scale=scale,
            gradient_scale=5000.0,
            mode="fused",
            mask=mask,
            **options,
        )
        return run.result

    return call


@pytest.fixture
def guidance(nodes):
    """Noise Map Guidance in mode fused as NMG Sample makes it, and with options."""

    def call(scale=1.5, **options):
        return noise_map_guidance(nodes, noise_map_scale=scale, **options)

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
    assert torch.equal(samples(edit(even(1.0, size), editor=editor)), unmasked)
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


@pytest.fixture
def fit_mask(pack):
    return importlib.import_module("nmg_pack.nodes.host.models.latent_masks").fit_mask


LATENT = torch.Size((1, 4, 8, 12))


@pytest.mark.parametrize("size", [(64, 96), (61, 97), (512, 13), (20, 768)], ids=str)
def test_a_stroke_of_one_pixel_leaves_a_trace_wherever_it_is(fit_mask, size):
    for axis in (1, 2):
        for place in range(size[axis - 1]):
            stroke = torch.zeros(1, *size)
            stroke.select(axis, place).fill_(1)
            fitted = fit_mask(stroke, LATENT)
            assert float(fitted.sum()) > 0.1
            assert float(fitted.max()) <= 1


@pytest.mark.parametrize("size", [(1, 1), (8, 12), (3, 500), (64, 96), (50, 31)], ids=str)
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_an_even_mask_stays_even_at_any_size(fit_mask, size, value):
    fitted = fit_mask(even(value, size), LATENT)
    assert fitted.shape == (1, 1, 8, 12)
    # Made larger, grey is so within rounding.
    assert float((fitted - torch.tensor(value)).abs().max()) <= (1e-6 if value == 0.3 else 0)


def test_a_mask_at_the_pictures_size_is_the_mean_of_each_cell(fit_mask):
    mask = torch.rand(1, 64, 96, generator=torch.Generator().manual_seed(1))
    cells = mask.unflatten(2, (12, 8)).unflatten(1, (8, 8)).mean((2, 4))
    torch.testing.assert_close(fit_mask(mask, LATENT)[:, 0], cells)


def test_of_a_latents_own_mask_a_thin_stroke_may_change_as_well(pack):
    latent_mask = importlib.import_module("nmg_pack.nodes.host.models.latent_masks").latent_mask
    stroke = torch.zeros(1, 64, 96)
    stroke[:, 17] = 1
    kept = latent_mask(stroke, LATENT)[0, 0]
    assert kept[2].min() == 1 / 8
    assert not kept[[0, 1, 3, 4, 5, 6, 7]].any()


@pytest.mark.parametrize(
    ("name", "settings"), [("NMGPlainGuidance", {}), ("NMGNegativePrompt", {"interpolation": 0.0})]
)
def test_methods_without_a_hold_put_the_picture_back_where_the_mask_is_black(
    nodes, edit, name, settings
):
    method = first(nodes[name].execute(**settings))
    mask = torch.zeros(1, *SHAPE[2:])
    mask[..., 6:] = 1
    edited, picture = (run["samples"] for run in edit(mask, guidance=method))
    assert torch.equal(edited[..., :6], picture[..., :6])
    assert not torch.isclose(edited[..., 6:], picture[..., 6:]).all()
    white = samples(edit(even(1.0), guidance=method))
    assert torch.equal(white, samples(edit(guidance=method)))
