"""Editors and prompts of the methods: factories for a bench and an edit on it."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from demo_edits import Bench, Edit, scenes


def prompt_to_prompt(
    bench: Bench,
    edit: Edit,
    cross_replace: float = 0.8,
    self_replace: float = 0.5,
    blend: bool = False,
    blend_threshold: float = 0.3,
    per_kind: dict[str, dict[str, float]] | None = None,
) -> Any:
    """The node's editor; `per_kind` has settings for one kind of edit that replace the others."""
    settings = {
        "cross_replace": cross_replace,
        "self_replace": self_replace,
        "blend_threshold": blend_threshold,
        **(per_kind or {}).get(edit.kind, {}),
    }
    return bench.nodes.NMGPromptToPrompt.execute(
        clip=bench.clip,
        source_prompt=scenes.caption(edit.source),
        target_prompt=scenes.caption(edit.target),
        mode="auto",
        blend_words=blend_words(edit) if blend else "",
        reweight="",
        **settings,
    ).args[0]


def blend_words(edit: Edit) -> str:
    """The words whose attention says where the edit is."""
    if edit.kind in ("background", "pattern"):
        return "background"
    return f"{edit.source.shape}, {edit.target.shape}"


def masactrl(
    bench: Bench,
    edit: Edit,
    start_step: int = 4,
    start_layer: int = 10,
    per_kind: dict[str, dict[str, int]] | None = None,
) -> Any:
    """The node's editor, without masks."""
    settings = {"start_step": start_step, "start_layer": start_layer}
    settings |= (per_kind or {}).get(edit.kind, {})
    node = importlib.import_module("nmg_pack.nodes.editors.masactrl").NMGMasaCtrl
    return node.execute(**settings).args[0]


def pix2pix_zero(bench: Bench, edit: Edit, attention_scale: float = 0.1) -> Any:
    """The node's editor; goes with `directed_prompts`."""
    node = importlib.import_module("nmg_pack.nodes.editors.pix2pix_zero").NMGPix2PixZero
    return node.execute(attention_scale).args[0]


def directed_prompts(bench: Bench, edit: Edit, forms: bool = True) -> Any:
    """The source prompt moved along the edit's direction.

    Args:
        bench, edit: where the prompts are encoded, and what changes.
        forms: whether the direction is the mean over all forms of the captions, or of the
            caption's own form alone, which makes it the target prompt.
    """
    nodes = importlib.import_module("nmg_pack.nodes.editors.direction")
    numbers = range(len(scenes.caption_forms)) if forms else (edit.source.form,)
    before, after = (
        "\n".join(scenes.caption(dataclasses.replace(scene, form=form)) for form in numbers)
        for scene in (edit.source, edit.target)
    )
    direction = nodes.NMGEditDirection.execute(bench.clip, before, after).args[0]
    return nodes.NMGApplyDirection.execute(bench.source_prompts, direction, 1.0).args[0]


def target_prompts(bench: Bench, edit: Edit) -> Any:
    """The target caption."""
    return bench.target_prompts
