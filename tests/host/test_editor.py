"""Editors inside the host: the layers they reach, the rows they see, the patches beside them."""

import importlib

import pytest
import torch
from host_models import (
    FLOAT32,
    conditioning,
    first,
    make_patcher,
    parity_network,
    random_controlnet,
    random_latent,
    random_prompt,
    random_tensor,
    relative,
    sdxl_network,
)
from host_nodes import guidance

pytestmark = pytest.mark.host_surface

SHAPE = (1, 4, 8, 8)
STEPS = 3
RUN = 1e-4  # float32 rounding of a whole run


@pytest.fixture(scope="module")
def attention_tools(pack):
    return importlib.import_module("nmg_pack.nodes.host.network.unet_door")


@pytest.fixture(scope="module")
def make_editor(library):
    """An editor of the given attention edit; without one it changes nothing."""

    class Given(library.Editor):
        def __init__(self, attention=None):
            self.change = attention

        def begin(self, run):
            editing = library.EditorRun(run)
            editing.attention = lambda step: self.change
            return editing

    return Given


class Seeing:
    """Leaves every layer as it is and keeps what it saw."""

    def __init__(self, change=None):
        self.calls = []
        self.change = change

    def wants(self, layer):
        return True

    def __call__(self, call):
        self.calls.append(call)
        plain = call.plain()
        return plain if self.change is None else self.change(call, plain)


def from_source(call, plain):
    """Everyone takes the source's result."""
    return call.branches.repeat(plain[call.branches.source_rows])


@pytest.fixture
def trajectory(nodes, model):
    latent = random_latent(SHAPE)
    return first(
        nodes["NMGInvert"].execute(model, random_prompt(1), latent, steps=STEPS, schedule="normal")
    )


def edit(nodes, model, trajectory, editor=None, **inputs):
    """(edit, source, cost) under prompts 2 and 3, without noise map guidance."""
    arguments = {
        "positive": random_prompt(2),
        "negative": random_prompt(3),
        "text_scale": 4.0,
        "noise_map_scale": 0.0,
        "gradient_scale": 0.0,
        "mode": "fused",
        "editor": editor,
        **inputs,
    }
    output = nodes["NMGSample"].execute(model, trajectory, **arguments)
    edits, source = (latent["samples"] for latent in output.result)
    return edits, source, output.ui["nmg"][0]


UNETS = {
    "sd1": (
        {
            "model_channels": 32,
            "channel_mult": [1, 2, 4, 4],
            "num_res_blocks": [2, 2, 2, 2],
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            "transformer_depth_middle": 1,
        },
        [("input", f) for f in (1, 1, 2, 2, 4, 4)]
        + [("middle", 8)]
        + [("output", f) for f in (4, 4, 4, 2, 2, 2, 1, 1, 1)],
    ),
    "sdxl": (
        {
            "model_channels": 32,
            "channel_mult": [1, 2, 4],
            "num_res_blocks": [2, 2, 2],
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "transformer_depth_middle": 10,
        },
        [("input", f) for f in (2,) * 4 + (4,) * 20]
        + [("middle", 4)] * 10
        + [("output", f) for f in (4,) * 30 + (2,) * 6],
    ),
}
COMMON = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "context_dim": 48, "num_heads": 2,
    "use_spatial_transformer": True, "use_linear_in_transformer": False, "legacy": False,
}  # fmt: skip


@pytest.mark.parametrize("name", UNETS)
def test_the_layers_are_those_of_the_family_in_order_of_execution(
    nodes, attention_tools, make_editor, name
):
    config, expected = UNETS[name]
    model = make_patcher({**COMMON, **config})
    door = attention_tools.UNetDoor(model.model.diffusion_model)
    pairs = list(door.places.values())
    assert [(layer.unet.stage, layer.factor) for layer, _ in pairs] == expected
    assert [layer.index for layer, _ in pairs] == list(range(len(expected)))
    assert {(one.attends.value, other.attends.value) for one, other in pairs} == {("self", "cross")}
    # As they are really executed, at a size that does not divide evenly.
    latent = random_latent((1, 4, 24, 20))
    made = first(
        nodes["NMGInvert"].execute(model, random_prompt(1), latent, steps=1, schedule="normal")
    )
    seeing = Seeing()
    edit(nodes, model, made, make_editor(seeing))
    seen = [call for call in seeing.calls if call.half.value == "cond"]
    assert [call.layer for call in seen] == door.layers
    for call in seen:
        factor = call.layer.factor
        assert call.size == (-(-24 // factor), -(-20 // factor))


def test_a_neutral_editor_leaves_source_and_edit_what_they_are_alone(
    nodes, model, trajectory, make_editor
):
    edits, source, _ = edit(nodes, model, trajectory, make_editor(Seeing()))
    free, clean, _ = edit(nodes, model, trajectory)
    own, _, _ = edit(nodes, model, trajectory, positive=random_prompt(1))
    assert relative(edits, free) < RUN
    assert relative(source, own) < RUN
    assert relative(clean, trajectory.states[0] / 0.18215) < FLOAT32


def test_with_the_same_prompt_the_edit_is_the_source_bit_for_bit(
    nodes, model, trajectory, make_editor
):
    for change in (None, from_source):
        edits, source, _ = edit(
            nodes,
            model,
            trajectory,
            make_editor(Seeing(change)),
            positive=random_prompt(1),
        )
        assert torch.equal(edits, source)


def test_the_source_is_what_it_is_whatever_the_editor_does(nodes, model, trajectory, make_editor):
    _, source, _ = edit(nodes, model, trajectory, make_editor())
    edits, same, _ = edit(nodes, model, trajectory, make_editor(Seeing(from_source)))
    free, _, _ = edit(nodes, model, trajectory, make_editor())
    assert relative(same, source) < RUN
    assert relative(edits, free) > 0.01


def test_prompts_of_unequal_length_share_a_call_with_their_own_lengths(
    nodes, model, trajectory, make_editor
):
    seeing = Seeing()
    longer = random_prompt(2, tokens=14)
    edits, _, cost = edit(nodes, model, trajectory, make_editor(seeing), positive=longer)
    crosses = [
        call
        for call in seeing.calls
        if call.half.value == "cond" and call.layer.attends.value == "cross"
    ]
    assert {call.columns for call in crosses} == {(7, 14)}
    first_call = crosses[0]
    assert torch.equal(first_call.k[0, :, :7], first_call.k[0, :, 7:])
    alone, _, _ = edit(nodes, model, trajectory, positive=longer)
    assert relative(edits, alone) < RUN
    assert cost["forward_calls"] == STEPS


def several(count, **options):
    """A CONDITIONING with one row per prompt: prompts 2, 3, ..."""
    rows = torch.cat([random_prompt(2 + index)[0][0] for index in range(count)])
    return conditioning(rows, **options)


@pytest.mark.parametrize("pictures", [1, 2])
def test_several_prompts_are_as_many_edits_of_each_picture(nodes, model, make_editor, pictures):
    latent = random_latent((pictures, *SHAPE[1:]))
    trajectory = first(
        nodes["NMGInvert"].execute(model, random_prompt(1), latent, steps=STEPS, schedule="normal")
    )
    # Twice as many rows as pictures, or they would be one prompt per picture.
    prompts = several(3) if pictures == 1 else several(4)[:1]
    count = 3 if pictures == 1 else 2
    for editor in (None, make_editor(Seeing(from_source))):
        edits, _, cost = edit(nodes, model, trajectory, editor, positive=prompts)
        assert len(edits) == count * pictures
        rows = count + (editor is not None)
        assert cost == {
            "forward_calls": STEPS,
            "forward_rows": 2 * rows * STEPS,
            "backward_rows": 0,
            "seconds": cost["seconds"],
        }
        for index in range(count):
            part = prompts[0][0][index * (4 // count if pictures == 2 else 1) :]
            part = part[: 2 if pictures == 2 else 1]
            alone, _, _ = edit(nodes, model, trajectory, editor, positive=conditioning(part))
            got = edits[index * pictures : (index + 1) * pictures]
            assert relative(got, alone) < RUN


def test_prompts_that_fit_no_picture_are_refused(nodes, model, library):
    latent = random_latent((2, *SHAPE[1:]))
    trajectory = first(
        nodes["NMGInvert"].execute(model, random_prompt(1), latent, steps=STEPS, schedule="normal")
    )
    with pytest.raises(library.InvalidInput, match="3 prompts for 2 pictures"):
        edit(nodes, model, trajectory, positive=several(3))


def test_cond_and_uncond_in_two_calls_are_the_same_edit(
    nodes, model, trajectory, make_editor, monkeypatch
):
    together, _, _ = edit(nodes, model, trajectory, make_editor(Seeing(from_source)))
    monkeypatch.setattr(model.model, "memory_required", lambda *_, **__: 1e30)
    seeing = Seeing(from_source)
    apart, _, _ = edit(nodes, model, trajectory, make_editor(seeing))
    assert relative(apart, together) < RUN
    assert {len(call.q) for call in seeing.calls} == {2}


def test_another_packs_attention_replacement_keeps_what_it_adds(
    nodes, model, trajectory, make_editor
):
    """As IPAdapter does: the attention of the prompt plus something of its own."""
    attend = importlib.import_module("comfy.ldm.modules.attention").optimized_attention
    asked = []

    def adds(q, k, v, extra):
        asked.append(extra["block"])
        return attend(q, k, v, extra["n_heads"]) + 0.3

    patched = model.clone()
    for number in (1, 2, 4):
        for place in [("input", number)]:
            patched.set_model_attn2_replace(adds, *place)
    alone, _, _ = edit(nodes, patched, trajectory)
    neutral, _, _ = edit(nodes, patched, trajectory, make_editor(Seeing()))
    plain, _, _ = edit(nodes, model, trajectory)
    assert asked
    assert relative(neutral, alone) < RUN
    assert relative(alone, plain) > 0.01
    same, source, _ = edit(
        nodes,
        patched,
        trajectory,
        make_editor(Seeing(from_source)),
        positive=random_prompt(1),
    )
    assert torch.equal(same, source)


def test_a_patch_that_keeps_the_editor_out_is_named(nodes, model, trajectory, library, make_editor):
    def swallow(apply_model, args):
        options = args["c"]["transformer_options"]
        options["patches_replace"] = {"attn1": {}, "attn2": {}}
        return apply_model(args["input"], args["timestep"], **args["c"])

    patched = model.clone()
    patched.set_model_unet_function_wrapper(swallow)
    with pytest.raises(library.InvalidInput, match="kept from the attention"):
        edit(nodes, patched, trajectory, make_editor(Seeing()))


def test_an_editor_leaves_no_trace_even_when_cancelled(nodes, model, trajectory, make_editor):
    management = importlib.import_module("comfy.model_management")
    before = edit(nodes, model, trajectory)[0]
    network = model.model.diffusion_model
    hooks = len(network._forward_pre_hooks)

    def cancel(call, plain):
        management.interrupt_current_processing()
        management.throw_exception_if_processing_interrupted()

    with pytest.raises(management.InterruptProcessingException):
        edit(nodes, model, trajectory, make_editor(Seeing(cancel)))
    assert len(network._forward_pre_hooks) == hooks
    assert "patches_replace" not in model.model_options["transformer_options"]
    assert torch.equal(edit(nodes, model, trajectory)[0], before)


def test_a_second_run_of_the_same_editor_is_the_first(nodes, model, trajectory, make_editor):
    editor = make_editor(Seeing(from_source))
    runs = [edit(nodes, model, trajectory, editor)[0] for _ in range(2)]
    assert torch.equal(*runs)


def test_models_without_such_attention_are_refused_with_those_that_work(library, make_editor):
    door = importlib.import_module("nmg_pack.nodes.host.network.door")

    class Patcher:
        def get_model_object(self, name):
            return torch.nn.Linear(2, 2)

    with pytest.raises(library.InvalidInput, match=r"Got Linear; .*SD 1.x, SD 2.x or SDXL"):
        door.check_editable(Patcher(), make_editor())


def test_gradients_pass_through_an_edit(nodes, model, trajectory, make_editor):
    """The source's own gradient pass has no editor in it: it is what it is without one."""
    method = guidance(nodes, mode="official", gradient="full", loss="l2", gradient_scale=200.0)
    _, source, cost = edit(
        nodes, model, trajectory, make_editor(Seeing(from_source)), guidance=method
    )
    alone, _, _ = edit(nodes, model, trajectory, guidance=method, positive=random_prompt(1))
    assert relative(source, alone) < RUN
    assert cost["backward_rows"] == STEPS
    assert cost["forward_rows"] == STEPS * (1 + 4)


def pooled_prompt(seed, rows=1):
    """A prompt as SDXL takes it: with its pooled embedding and sizes."""
    embeddings = torch.cat([random_tensor((1, 7, 48), seed + row) for row in range(rows)])
    pooled = torch.cat([random_tensor((1, 1280), 50 + seed + row) for row in range(rows)])
    return conditioning(embeddings, pooled_output=pooled, width=64, height=64)


@pytest.mark.parametrize("pictures", [1, 2])
def test_the_pooled_text_of_sdxl_goes_with_its_own_branch(nodes, make_editor, pictures):
    model = sdxl_network()
    latent = random_latent((pictures, 4, 8, 8))
    prompt = pooled_prompt(1)
    made = first(nodes["NMGInvert"].execute(model, prompt, latent, steps=STEPS, schedule="normal"))
    inputs = {"negative": pooled_prompt(3)}
    edits, source, _ = edit(
        nodes, model, made, make_editor(Seeing()), positive=pooled_prompt(5, 2 * pictures), **inputs
    )
    own, _, _ = edit(nodes, model, made, positive=prompt, **inputs)
    assert relative(source, own) < RUN
    for target in range(2):
        seed = 5 + target * pictures
        single, _, _ = edit(nodes, model, made, positive=pooled_prompt(seed, pictures), **inputs)
        assert relative(edits[target * pictures : (target + 1) * pictures], single) < RUN
    same, source, _ = edit(
        nodes, model, made, make_editor(Seeing(from_source)), positive=prompt, **inputs
    )
    assert torch.equal(same, source)


def test_another_size_in_the_prompt_of_sdxl_is_its_own(nodes, make_editor):
    """CLIP Text Encode SDXL may tell the model another size for the target."""
    model = sdxl_network()
    made = first(
        nodes["NMGInvert"].execute(
            model, pooled_prompt(1), random_latent(SHAPE), steps=STEPS, schedule="normal"
        )
    )
    larger = pooled_prompt(5)
    larger[0][1].update(width=128, crop_w=8)
    edits, _, _ = edit(
        nodes, model, made, make_editor(Seeing()), positive=larger, negative=pooled_prompt(3)
    )
    alone, _, _ = edit(nodes, model, made, positive=larger, negative=pooled_prompt(3))
    assert relative(edits, alone) < RUN


def test_a_model_that_predicts_velocity_takes_an_editor_as_well(nodes, make_editor):
    model = parity_network("two", prediction="V_PREDICTION")
    made = first(
        nodes["NMGInvert"].execute(
            model, random_prompt(1), random_latent(SHAPE), steps=STEPS, schedule="normal"
        )
    )
    edits, source, _ = edit(nodes, model, made, make_editor(Seeing()))
    assert relative(edits, edit(nodes, model, made)[0]) < RUN
    assert relative(source, edit(nodes, model, made, positive=random_prompt(1))[0]) < RUN


def with_options(options, prompt):
    """A prompt with these options."""
    changed = [[embedding, dict(given)] for embedding, given in prompt]
    changed[0][1].update(options)
    return changed


LEFT = {"area": (8, 4, 0, 0), "strength": 1.0}
SHARE = {"area": ("percentage", 1.0, 0.5, 0.0, 0.0), "strength": 1.0}
BOUNDS = {
    "mask": torch.eye(8)[None],
    "mask_strength": 1.0,
    "set_area_to_bounds": True,
}


@pytest.fixture
def nothing_runs(monkeypatch):
    """Any run of the host is an error."""
    guider = importlib.import_module("comfy.samplers").CFGGuider
    monkeypatch.setattr(guider, "sample", lambda *_, **__: pytest.fail("it ran"))


@pytest.mark.parametrize("options", [LEFT, SHARE, BOUNDS], ids=["area", "share", "bounds"])
def test_an_area_on_the_negative_prompt_is_named_before_anything_runs(
    nodes, model, trajectory, library, make_editor, nothing_runs, options
):
    """The host gives each other prompt a part for it, and the blame fell on positive."""
    with pytest.raises(library.InvalidInput, match=r"NMG Sample: negative has an area") as raised:
        edit(
            nodes,
            model,
            trajectory,
            make_editor(),
            negative=with_options(options, random_prompt(3)),
        )
    assert "on negative alone" in str(raised.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (LEFT, "area"),
        ({"strength": 0.5}, "strength"),
        ({"mask": torch.ones(1, 8, 8), "mask_strength": 1.0}, "mask"),
        ({"start_percent": 0.5}, "start_percent"),
        ({"control": object()}, "ControlNet"),
    ],
    ids=lambda given: given if isinstance(given, str) else None,
)
def test_a_target_prompt_that_is_not_built_alike_is_named_before_anything_runs(
    nodes, model, trajectory, library, make_editor, nothing_runs, options, named
):
    with pytest.raises(library.InvalidInput, match=f"positive is not built like .*{named}"):
        edit(
            nodes,
            model,
            trajectory,
            make_editor(),
            positive=with_options(options, random_prompt(2)),
        )


def test_a_target_prompt_in_parts_is_named_before_anything_runs(
    nodes, model, trajectory, library, make_editor, nothing_runs
):
    with pytest.raises(library.InvalidInput, match="positive is not built like .*2 parts"):
        edit(nodes, model, trajectory, make_editor(), positive=random_prompt(2) + random_prompt(4))


@pytest.mark.parametrize("same", [True, False], ids=["the same", "none on negative"])
def test_one_area_on_source_and_target_goes_with_an_editor(nodes, model, make_editor, same):
    made = first(
        nodes["NMGInvert"].execute(
            model,
            with_options(LEFT, random_prompt(1)),
            random_latent(SHAPE),
            steps=STEPS,
            schedule="normal",
        )
    )
    prompts = {
        "positive": with_options(LEFT, random_prompt(2)),
        "negative": with_options(LEFT if same else {}, random_prompt(3)),
    }
    edits, _, _ = edit(nodes, model, made, make_editor(Seeing()), **prompts)
    alone, _, _ = edit(nodes, model, made, **prompts)
    assert relative(edits, alone) < RUN


def test_a_controlnet_that_the_host_would_lend_to_the_source_is_refused_with_an_editor(
    nodes, model, trajectory, library, make_editor, nothing_runs
):
    """As Apply ControlNet (OLD) does: on positive alone. The picture was inverted without it."""
    lent = with_options({"control_apply_to_uncond": True}, random_controlnet()(random_prompt(2)))
    with pytest.raises(library.InvalidInput, match="positive is not built like .*ControlNet"):
        edit(nodes, model, trajectory, make_editor(Seeing()), positive=lent)
