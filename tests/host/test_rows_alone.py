"""Whatever a prompt brings along: each picture and each target is what it would be alone.

The judge of a run of several pictures and targets is the same run with one of each. What one
picture or prompt has of its own must reach its row and no other.
"""

import importlib
from types import SimpleNamespace

import pytest
import torch
from family_models import MODELS, SEEING_MORE
from host_models import first, random_controlnet, random_tensor, relative
from host_nodes import PLAIN
from host_nodes import guidance as noise_map_guidance

pytestmark = pytest.mark.host_surface

ALL = {**MODELS, **SEEING_MORE}
STEPS = 2
# Float32 rounding of a short run, in batches of other sizes.
ALONE = 2e-4
COUNTS = [(1, 3), (2, 2), (3, 1)]  # (pictures, targets)


@pytest.fixture(scope="module")
def loaded(pack):
    """The models by name, each loaded once."""
    known = {}

    def get(name):
        if name not in known:
            with torch.inference_mode():
                known[name] = ALL[name].load()
        return known[name]

    return get


@pytest.fixture(scope="module")
def join(pack):
    return importlib.import_module("nmg_pack.nodes.host.network.several").join_prompts


@pytest.fixture(scope="module")
def coupling_nothing(library):
    """An editor that couples nothing, but has a source branch."""

    class Given(library.Editor):
        def begin(self, run):
            return library.EditorRun(run)

    return Given()


# --- What a prompt can bring along ----------------------------------------------------------------


def set_on(prompt, **options):
    """What nodes do that put something on a prompt: on each part of it."""
    return [[embedding, {**has, **options}] for embedding, has in prompt]


def per_picture(make):
    """An option with a row for each picture, from `make(picture)`."""
    return lambda pictures: torch.cat([make(picture) for picture in pictures])


def picture_like(name, seed):
    """The clean latent of another picture, (1, C, ...)."""
    return lambda picture: ALL[name].latent(seed + picture)["samples"]


def pixel_mask(picture):
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 8 * picture : 32 + 8 * picture] = 1
    return mask


def frame_mask(picture):
    mask = torch.ones(1, 1, 3, 8, 8)
    mask[:, :, : picture + 1] = 0
    return mask


def spread_mask(picture):
    return pixel_mask(picture)[0]


def unclip(pictures):
    seen = SimpleNamespace(image_embeds=random_tensor((1, 1024), 40))
    return [{"clip_vision_output": seen, "strength": 0.7, "noise_augmentation": 0.3}]


# (model, columns of three prompts, options of the nodes after the text by their pictures)
CASES = {
    "pooled text, SDXL": ("SDXL", (7, 7, 7), {}),
    "pooled text, SD 3": ("SD 3", (7, 7, 7), {}),
    "prompts of unequal length, SD 1.x": ("SD 1.x", (7, 14, 14), {}),
    "prompts of unequal length, SD 3": ("SD 3", (7, 9, 9), {}),
    "prompts of unequal length, Flux": ("Flux", (7, 9, 7), {}),
    "prompts of unequal length, WAN": ("WAN", (7, 9, 9), {}),
    "a mask of the tokens, LTX": ("LTX", (7, 7, 7), {}),
    "a mask of the tokens, unequal length, LTX": ("LTX", (7, 9, 9), {}),
    "frame rate, LTX": ("LTX", (7, 7, 7), {"frame_rate": lambda pictures: 12}),
    "guidance, Flux": ("Flux", (7, 7, 7), {"guidance": lambda pictures: 2.0}),
    "reference pictures, Flux": (
        "Flux",
        (7, 7, 7),
        {"reference_latents": lambda pictures: [picture_like("Flux", 30)(0)]},
    ),
    "a reference for each picture, Flux": (
        "Flux",
        (7, 7, 7),
        {"reference_latents": lambda pictures: [per_picture(picture_like("Flux", 30))(pictures)]},
    ),
    "9 channels, inpainting": (
        "SD inpainting",
        (7, 7, 7),
        {
            "concat_latent_image": per_picture(picture_like("SD 1.x", 30)),
            "concat_mask": per_picture(pixel_mask),
        },
    ),
    "8 channels, pix2pix": (
        "SD pix2pix",
        (7, 7, 7),
        {"concat_latent_image": per_picture(picture_like("SD 1.x", 30))},
    ),
    "96 channels, Flux Fill": (
        "Flux Fill",
        (7, 7, 7),
        {
            "concat_latent_image": per_picture(picture_like("Flux", 30)),
            "concat_mask": per_picture(pixel_mask),
        },
    ),
    "36 channels, WAN image to video": (
        "WAN i2v",
        (7, 7, 7),
        {
            "concat_latent_image": per_picture(picture_like("WAN", 30)),
            "concat_mask": per_picture(frame_mask),
        },
    ),
    "unCLIP, SD 2.1": ("SD unCLIP", (7, 7, 7), {"unclip_conditioning": unclip}),
    "Revision, SDXL": (
        "SDXL",
        (7, 7, 7),
        {
            "unclip_conditioning": lambda pictures: [
                {
                    "clip_vision_output": SimpleNamespace(image_embeds=random_tensor((1, 1280), 4)),
                    "strength": 0.7,
                    "noise_augmentation": 0.3,
                }
            ]
        },
    ),
    "sizes, SDXL": ("SDXL", (7, 7, 7), {"width": lambda pictures: 512, "crop_h": lambda _: 8}),
    "an area": ("SD 1.x", (7, 7, 7), {"area": lambda _: (4, 8, 2, 0), "strength": lambda _: 0.8}),
    "a mask for each picture": (
        "SD 1.x",
        (7, 7, 7),
        {"mask": per_picture(spread_mask), "mask_strength": lambda pictures: 0.9},
    ),
    "a range of timesteps": (
        "SD 1.x",
        (7, 7, 7),
        {"start_percent": lambda pictures: 0.4, "end_percent": lambda pictures: 1.0},
    ),
}


class Many:
    """Runs of several pictures and targets, and of one of each."""

    def __init__(self, nodes, join, model, name, columns, options):
        self.nodes, self.join, self.model, self.name = nodes, join, model, name
        self.columns, self.options = columns, options
        self.known = {}

    def prompt(self, seeds, pictures):
        """Prompts on one wire, with what the nodes after the text put on all of them."""
        small = ALL[self.name]
        lines = [small.prompt(10 + seed, self.columns[seed % 3]) for seed in seeds]
        made = {key: make(pictures) for key, make in self.options.items()}
        return set_on(self.join(lines), **made)

    def run(self, pictures, targets, noise_masks=None, **inputs):
        """The edits of pictures under targets: (targets, pictures, C, ...)."""
        small = ALL[self.name]
        latent = {"samples": torch.cat([small.latent(p)["samples"] for p in pictures])}
        if noise_masks is not None:
            latent["noise_mask"] = torch.cat([noise_masks(p) for p in pictures])
        source, negative = self.prompt([3], pictures), self.prompt([6], pictures)
        trajectory = first(
            self.nodes["NMGInvert"].execute(
                self.model, source, latent, steps=STEPS, schedule="simple"
            )
        )
        positive = self.prompt([t for t in targets for _ in pictures], pictures)
        wires = self.model, trajectory, positive, negative
        edit = self.nodes["NMGSample"].execute(*wires, text_scale=3.0, **PLAIN, **inputs)
        return first(edit)["samples"].unflatten(0, (len(targets), len(pictures)))

    def alone(self, picture, target, **inputs):
        """The edit of one picture under one target: (C, ...)."""
        if inputs:
            return self.run([picture], [target], **inputs)[0, 0]
        if (picture, target) not in self.known:
            self.known[picture, target] = self.run([picture], [target])[0, 0]
        return self.known[picture, target]

    def check(self, pictures, targets, **inputs):
        pictures, targets = [*range(pictures)], [*range(targets)]
        together = self.run(pictures, targets, **inputs)
        alone = torch.stack(
            [
                torch.stack([self.alone(picture, target, **inputs) for picture in pictures])
                for target in targets
            ]
        )
        for target in targets:
            for picture in pictures:
                place = target, picture
                distance = relative(together[place], alone[place])
                assert distance < ALONE, f"target, picture {place}: {distance:.2g}"
        rows = alone.flatten(0, 1)
        assert min(relative(a, b) for a, b in zip(rows[1:], rows[:-1], strict=True)) > 10 * ALONE


@pytest.fixture(scope="module")
def many(nodes, join, loaded):
    known = {}

    def get(case):
        if case not in known:
            name, columns, options = CASES[case]
            known[case] = Many(nodes, join, loaded(name), name, columns, options)
        return known[case]

    return get


@pytest.mark.parametrize(("pictures", "targets"), COUNTS)
@pytest.mark.parametrize("case", CASES)
def test_each_picture_and_target_is_itself_alone(many, case, pictures, targets):
    many(case).check(pictures, targets)


# The unconditional prediction is asked for by itself here, for all prompts at once.
@pytest.mark.parametrize(
    "case",
    [
        "prompts of unequal length, SD 1.x",
        "prompts of unequal length, Flux",
        "a mask of the tokens, unequal length, LTX",
        "96 channels, Flux Fill",
        "an area",
    ],
)
def test_each_is_itself_alone_where_it_is_held(nodes, many, case):
    method = noise_map_guidance(nodes, mode="official", gradient_scale=200.0, loss="l2")
    many(case).check(2, 2, guidance=method)


@pytest.mark.parametrize(
    "case",
    [
        "prompts of unequal length, SD 1.x",
        "pooled text, SDXL",
        "9 channels, inpainting",
        "8 channels, pix2pix",
        "unCLIP, SD 2.1",
        "a mask for each picture",
    ],
)
def test_beside_a_source_branch_each_is_what_it_is_without(many, coupling_nothing, case):
    run = many(case)
    beside, without = (run.run([0, 1], [0, 1], editor=e) for e in (coupling_nothing, None))
    assert relative(beside, without) < ALONE
    run.check(2, 2, editor=coupling_nothing)


@pytest.mark.parametrize("name", ["SD inpainting", "Flux Fill", "LTX", "WAN 2.2 5B"])
def test_a_noise_mask_for_each_picture_reaches_it_alone(nodes, join, loaded, name):
    _, *sides, width = ALL[name].shape

    def mask(picture):
        own = torch.zeros(1, 1, *sides, width)
        own[..., picture : width // 2 + picture] = 1
        return own

    Many(nodes, join, loaded(name), name, (7, 7, 7), {}).check(2, 2, noise_masks=mask)


# --- A prompt for each picture --------------------------------------------------------------------


def own_prompts(nodes, join, model, name, columns):
    """Two pictures, each under prompts of its own from one wire, and each by itself."""
    small = ALL[name]

    def run(pictures):
        latent = {"samples": torch.cat([small.latent(picture)["samples"] for picture in pictures])}
        source, positive, negative = (
            join([small.prompt(seed + p, columns[p]) for p in pictures]) for seed in (10, 20, 30)
        )
        trajectory = first(
            nodes["NMGInvert"].execute(model, source, latent, steps=STEPS, schedule="simple")
        )
        edit = nodes["NMGSample"].execute(
            model, trajectory, positive, negative, text_scale=3.0, **PLAIN
        )
        return first(edit)["samples"]

    return run([0, 1]), torch.cat([run([0]), run([1])])


@pytest.mark.parametrize(
    ("name", "columns"), [("SD 1.x", (7, 14)), ("LTX", (7, 7)), ("SD 3", (7, 7))]
)
def test_pictures_under_prompts_of_their_own_are_those_alone(nodes, join, loaded, name, columns):
    together, alone = own_prompts(nodes, join, loaded(name), name, columns)
    for got, expected in zip(together, alone, strict=True):
        assert relative(got, expected) < ALONE


def test_prompts_of_pictures_that_one_call_cannot_take_are_refused(nodes, library, join, loaded):
    with pytest.raises(library.InvalidInput, match="prompt for each picture.*not built alike"):
        own_prompts(nodes, join, loaded("Flux"), "Flux", (7, 9))


@pytest.mark.parametrize("count", [2, 4])
def test_more_or_fewer_prompts_than_pictures_are_refused_by_the_input(
    nodes, library, join, loaded, count
):
    small, model = ALL["SD 1.x"], loaded("SD 1.x")
    latent = small.latent(batch=3)
    several, one = join([small.prompt(seed) for seed in range(count)]), small.prompt(1)
    with pytest.raises(library.InvalidInput, match=f"positive has.*{count} prompts for 3 pictures"):
        nodes["NMGInvert"].execute(model, several, latent, steps=STEPS, schedule="simple")
    trajectory = first(
        nodes["NMGInvert"].execute(model, one, latent, steps=STEPS, schedule="simple")
    )
    wires = model, trajectory
    with pytest.raises(library.InvalidInput, match=f"negative has.*{count} prompts for 3 pictures"):
        nodes["NMGSample"].execute(*wires, one, several, text_scale=3.0, **PLAIN)
    with pytest.raises(library.InvalidInput, match=f"positive has.*{count} prompts for 3 pictures"):
        nodes["NMGSample"].execute(*wires, several, one, text_scale=3.0, **PLAIN)


# --- NMG Prompts with encoders of other kinds -----------------------------------------------------


class MaskedEncoder:
    """What an encoder with a mask of its tokens gives: that of LTX-Video, as the host calls it."""

    def __init__(self, columns):
        self.columns = columns

    def tokenize(self, text, return_word_ids=False):
        self.tokenizer = self
        return {"t5xxl": text} if return_word_ids else text

    def encode_from_tokens_scheduled(self, text):
        prompt = MODELS["LTX"].prompt(len(text), self.columns(text))
        prompt[0][1]["attention_mask"][:, len(text) :] = 0
        return prompt


@pytest.mark.parametrize("columns", [lambda text: 9, len], ids=["padded", "as long as the text"])
def test_lines_of_an_encoder_with_masks_are_each_read_through_its_own(nodes, loaded, columns):
    small, model, clip = MODELS["LTX"], loaded("LTX"), MaskedEncoder(columns)
    latent = small.latent()
    trajectory = first(
        nodes["NMGInvert"].execute(model, small.prompt(1), latent, steps=STEPS, schedule="simple")
    )

    def edit(text):
        prompts = first(nodes["NMGPrompts"].execute(clip, text))
        wires = model, trajectory, prompts, small.prompt(3)
        return first(nodes["NMGSample"].execute(*wires, text_scale=3.0, **PLAIN))["samples"]

    together, alone = edit("a cat\na big dog"), torch.cat([edit("a cat"), edit("a big dog")])
    for got, expected in zip(together, alone, strict=True):
        assert relative(got, expected) < ALONE
    assert relative(alone[1], alone[0]) > 10 * ALONE


# --- ControlNets ----------------------------------------------------------------------------------


@pytest.fixture
def small_edit(nodes, model):
    """The edit of the network "two" under a target and a source prompt, with an editor or not."""

    def run(source, positive, editor=None, negative=None):
        latent = {"samples": 4.0 * random_tensor((1, 4, 8, 8), 0)}
        trajectory = first(
            nodes["NMGInvert"].execute(model, source, latent, steps=STEPS, schedule="simple")
        )
        wires = model, trajectory, positive, negative or prompt(3)
        return nodes["NMGSample"].execute(*wires, text_scale=3.0, **PLAIN, editor=editor).result

    return run


def prompt(seed, **options):
    return [[random_tensor((1, 7, 48), seed), options]]


def test_the_same_controlnet_from_two_nodes_is_the_same(small_edit, coupling_nothing):
    control = random_controlnet()
    prompts = control(prompt(1)), control(prompt(2))
    beside, without = (first_of(small_edit(*prompts, e)) for e in (coupling_nothing, None))
    assert relative(beside, without) < ALONE


def test_another_controlnet_on_the_source_is_refused_beside_an_editor(
    library, small_edit, coupling_nothing
):
    control = random_controlnet()
    for other in (control(prompt(2), strength=0.4), control(control(prompt(2))), prompt(2)):
        with pytest.raises(library.InvalidInput, match="ControlNet"):
            small_edit(control(prompt(1)), other, coupling_nothing)


def first_of(result):
    return result[0]["samples"]


@pytest.mark.parametrize("kind", ["area", "control"])
def test_what_is_on_the_target_prompt_does_not_reach_the_source(nodes, library, model, kind):
    """The host gives the other prompts of a run the areas and the ControlNets of *positive*."""
    latent = {"samples": 4.0 * random_tensor((1, 4, 8, 8), 0)}
    trajectory = first(
        nodes["NMGInvert"].execute(model, prompt(1), latent, steps=STEPS, schedule="simple")
    )
    runs = importlib.import_module("nmg_pack.nodes.host.runs")
    narrow = {
        "area": set_on(prompt(2), area=(4, 4, 0, 0), strength=1.0),
        "control": set_on(random_controlnet()(prompt(2)), control_apply_to_uncond=True),
    }[kind]
    found = []

    def procedure(predictor, x, on_step):
        level = trajectory.schedule.levels[1]
        return runs.Done(x, predictor.eps(x, level, library.Prompt.SOURCE))

    for positive in (prompt(2), narrow):
        conditions = {"source": prompt(1), "positive": positive, "negative": prompt(3)}
        job = runs.Job(conditions, latent["samples"], trajectory.schedule, procedure)
        found.append(runs.run_procedure(model, job).result)
    assert torch.equal(*found)
