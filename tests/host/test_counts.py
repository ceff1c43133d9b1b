"""As many prompts, masks and noise masks as pictures, or one for all: anything else is named."""

import pytest
import torch
from host_edits import RUN, edit, edited, invert
from host_models import (
    conditioning,
    first,
    random_controlnet,
    random_latent,
    random_prompt,
    random_tensor,
    relative,
)

pytestmark = pytest.mark.host_surface

PICTURES = 2
SHAPE = (PICTURES, 4, 8, 8)


def prompts(count, seed=20):
    return conditioning(random_tensor((count, 7, 48), seed))


@pytest.fixture
def trajectory(nodes, model):
    return first(invert(nodes, model, random_latent(SHAPE)))


@pytest.fixture
def takes(nodes, model, vae, trajectory):
    """The nodes that take a prompt for the pictures they have: function of that prompt."""

    def edit_friendly(**given):
        inputs = {"positive": random_prompt(1), "negative": random_prompt(3), **given}
        return nodes["NMGEditFriendly"].execute(
            model,
            latent_image=random_latent(SHAPE),
            steps=4,
            schedule="official-masactrl",
            source_scale=2.0,
            skip=1,
            seed=0,
            **inputs,
        )

    def null_text(negative):
        return nodes["NMGNullText"].execute(
            model, trajectory, negative, text_scale=3.0, inner_steps=1, learning_rate=0.01
        )

    def like_sample(node, **more):
        def run(negative):
            return nodes[node].execute(
                model=model,
                trajectory=trajectory,
                positive=random_prompt(2),
                negative=negative,
                text_scale=3.0,
                noise_map_scale=0.0,
                gradient_scale=0.0,
                mode="fused",
                **more,
            )

        return run

    def check(negative):
        return nodes["NMGReconstructionCheck"].execute(
            model,
            trajectory,
            negative,
            vae,
            text_scale=3.0,
            noise_map_scale=0.0,
            gradient_scale=0.0,
            mode="fused",
        )

    swept = {"vae": vae, "rows": "text_scale", "row_values": "3"}
    return {
        "NMG Invert: positive": lambda given: invert(
            nodes, model, random_latent(SHAPE), prompt=given
        ),
        "Edit-Friendly Inversion: positive": lambda given: edit_friendly(positive=given),
        "Edit-Friendly Inversion: negative": lambda given: edit_friendly(negative=given),
        "Null-Text Inversion: negative": null_text,
        "NMG Sample: negative": like_sample("NMGSample"),
        "NMG Guider: negative": like_sample("NMGGuider"),
        "NMG Sweep: negative": like_sample(
            "NMGSweep", **swept, columns="noise_map_scale", column_values="0"
        ),
        "NMG Reconstruction Check: negative": check,
    }


TAKEN = [
    "NMG Invert: positive",
    "Edit-Friendly Inversion: positive",
    "Edit-Friendly Inversion: negative",
    "Null-Text Inversion: negative",
    "NMG Sample: negative",
    "NMG Guider: negative",
    "NMG Sweep: negative",
    "NMG Reconstruction Check: negative",
]


@pytest.mark.parametrize("where", TAKEN)
def test_prompts_that_fit_no_picture_are_refused_by_name(library, takes, where):
    wrong = rf"^{where} has prompts that do not fit.*Got 3 prompts for 2 pictures; expected 1 or 2"
    with pytest.raises(library.InvalidInput, match=wrong):
        takes[where](prompts(3))
    # A part of a prompt as well.
    with pytest.raises(library.InvalidInput, match=wrong):
        takes[where](prompts(1) + prompts(3))


@pytest.mark.parametrize("where", TAKEN)
@pytest.mark.parametrize("count", [1, PICTURES])
def test_one_prompt_and_one_for_each_go(takes, where, count):
    assert takes[where](prompts(count)).result


def test_a_source_prompt_of_a_file_is_counted_as_well(nodes, library, model, trajectory):
    wrong = type(trajectory)(trajectory.states, trajectory.schedule, trajectory.model, prompts(3))
    with pytest.raises(library.InvalidInput, match=r"trajectory's source prompt has prompts that"):
        edit(nodes, model, wrong, first(nodes["NMGNegativePrompt"].execute(0.0)))


def test_a_negative_prompt_for_each_edit_is_that_of_its_edit(nodes, model):
    """Without a source branch the rows of the run are the edits."""
    trajectory = first(invert(nodes, model))
    positive, negative = prompts(3, 30), prompts(3, 40)
    both = edited(nodes, model, trajectory, positive=positive, negative=negative)
    for row in range(3):
        own = {
            name: conditioning(given[0][0][row : row + 1])
            for name, given in {"positive": positive, "negative": negative}.items()
        }
        assert relative(both[row : row + 1], edited(nodes, model, trajectory, **own)) < RUN


# Noise masks.


@pytest.fixture
def noise_masks(nodes, model, trajectory, host):
    """What takes a LATENT: function of that LATENT."""

    def custom(latent):
        guider = first(
            nodes["NMGGuider"].execute(
                model,
                trajectory,
                random_prompt(2),
                random_prompt(3),
                text_scale=3.0,
                noise_map_scale=0.0,
                gradient_scale=0.0,
                mode="fused",
            )
        )
        sampler, sigmas = nodes["NMGSampler"].execute(trajectory).result
        nodes_of_host = host("comfy_extras.nodes_custom_sampler")
        latent = {**latent, "samples": guider.plan.picture}
        return nodes_of_host.SamplerCustomAdvanced.execute(
            first(nodes_of_host.DisableNoise.execute()), guider, sampler, sigmas, latent
        )

    def edit_friendly(latent):
        return nodes["NMGEditFriendly"].execute(
            model,
            random_prompt(1),
            random_prompt(3),
            latent,
            steps=4,
            schedule="official-masactrl",
            source_scale=2.0,
            skip=1,
            seed=0,
        )

    return {
        "NMG Invert": lambda latent: invert(nodes, model, latent),
        "Edit-Friendly Inversion": edit_friendly,
        "NMG Guider": custom,
    }


@pytest.mark.parametrize("where", ["NMG Invert", "Edit-Friendly Inversion", "NMG Guider"])
def test_noise_masks_that_fit_no_picture_are_refused_by_name(library, noise_masks, where):
    for mask in (torch.ones(3, 8, 8), torch.ones(3, 1, 64, 64)):
        wrong = rf"^{where}: latent_image has noise masks.*Got 3 noise masks for 2 pictures"
        with pytest.raises(library.InvalidInput, match=wrong):
            noise_masks[where](random_latent(SHAPE, noise_mask=mask))


@pytest.mark.parametrize("where", ["NMG Invert", "Edit-Friendly Inversion", "NMG Guider"])
@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (1, 1, 64, 64), (2, 8, 8), (2, 1, 64, 64)])
def test_one_noise_mask_and_one_for_each_go(noise_masks, where, shape):
    assert noise_masks[where](random_latent(SHAPE, noise_mask=torch.ones(shape))).result


@pytest.mark.parametrize("shape", [(5, 8, 8), (1, 1, 5, 8, 8), (2, 1, 5, 8, 8)])
def test_the_noise_masks_of_a_video_are_its_frames(host, shape):
    check = host("nmg_pack.nodes.host.models.latent_masks").check_noise_mask_count
    check(torch.ones(shape), torch.Size((2, 16, 5, 8, 8)))


def test_more_noise_masks_than_videos_are_refused(host, library):
    check = host("nmg_pack.nodes.host.models.latent_masks").check_noise_mask_count
    with pytest.raises(library.InvalidInput, match="Got 3 noise masks for 2 pictures"):
        check(torch.ones(3, 1, 5, 8, 8), torch.Size((2, 16, 5, 8, 8)))


# What travels with a prompt.


def masked(count):
    return [[embedding, {"mask": torch.ones(count, 8, 8)}] for embedding, _ in random_prompt(2)]


def hinted(count):
    ((embedding, options),) = random_controlnet()(random_prompt(2))
    control = options["control"].copy()
    control.set_cond_hint(torch.ones(count, 3, 64, 64), 0.7, (0.0, 1.0))
    return [[embedding, {"control": control, "control_apply_to_uncond": False}]]


@pytest.mark.parametrize("where", ["NMG Invert: positive", "NMG Sample: negative"])
@pytest.mark.parametrize("made", [masked, hinted])
def test_masks_and_hints_that_fit_no_picture_are_refused_by_name(library, takes, made, where):
    with pytest.raises(library.InvalidInput, match=f"^{where} brings .*Got 3 for 2 pictures"):
        takes[where](made(3))
    assert takes[where](made(PICTURES)).result


def test_masks_are_not_dealt_out_to_the_edits(nodes, library, model):
    trajectory = first(invert(nodes, model))
    several = [[random_tensor((3, 7, 48), 30), {"mask": torch.ones(3, 8, 8)}]]
    with pytest.raises(library.InvalidInput, match="positive brings masks.*Got 3 for 1 picture"):
        edit(nodes, model, trajectory, positive=several)


def test_prompts_of_equal_and_of_unequal_length_go_together(nodes, host, model):
    join = host("nmg_pack.nodes.host.network.several").join_prompts
    equal = [random_prompt(seed) for seed in (40, 41, 42)]
    unequal = [random_prompt(seed, tokens=tokens) for seed, tokens in ((10, 7), (11, 14), (12, 7))]
    trajectory = first(invert(nodes, model))
    together = edited(nodes, model, trajectory, positive=join(equal) + join(unequal))
    for place, got in enumerate(together):
        both = [*equal[place], *unequal[place]]
        assert relative(got[None], edited(nodes, model, trajectory, positive=both)) < RUN
    assert len(together) == len(equal)
    assert min(relative(a, b) for a, b in zip(together[1:], together[:-1], strict=True)) > 100 * RUN


@pytest.mark.parametrize("others", [(2,), (3, 2)])
def test_prompts_that_are_not_as_many_are_refused_with_both_numbers(
    nodes, library, host, model, others
):
    join = host("nmg_pack.nodes.host.network.several").join_prompts
    trajectory = first(invert(nodes, model))
    positive = join([random_prompt(seed, tokens=7 * (1 + seed % 2)) for seed in range(3)])
    for count in others:
        positive = positive + [[random_tensor((count, 7, 48), count), {}]]
    with pytest.raises(library.InvalidInput, match="not as many. Got 2 and 3"):
        edit(nodes, model, trajectory, positive=positive)
