"""Node: attention editing by the words of two prompts."""

from ...nmg_sampler import AlignmentMode, LocalBlend
from ...nmg_sampler.editors import PromptToPromptSettings
from ...nmg_sampler.words import lines
from ..host.api.display import show_text
from ..host.api.sockets import Editor, io
from ..host.api.speaking import speaking_as
from ..host.models.dynamic_prompts import check_plain
from ..host.models.tokens import tokenize

# What stands in the place of the alignment while the prompts are still on their way.
_LATER = "by the words of the connected prompts"


class NMGPromptToPrompt(io.ComfyNode):
    """The words that stay keep their place in the picture; the words that change take it over."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGPromptToPrompt",
            display_name="Prompt-to-Prompt",
            category="NMG/editor",
            description=(
                "An editor for NMG Sample (Prompt-to-Prompt, arXiv 2208.01626): the edit takes the"
                " attention of the source, word by word, so that shape and layout stay and only the"
                " changed words act. Connect the same texts here and to CLIP Text Encode."
            ),
            search_aliases=[
                "p2p",
                "attention control",
                "word swap",
                "cross attention replace",
                "refine",
                "reweight",
                "local blend",
            ],
            inputs=[
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The CLIP the prompts are encoded with. Not needed with prompts of NMG"
                    " Prompts, which keep their words.",
                ),
                io.String.Input(
                    "source_prompt",
                    multiline=True,
                    tooltip="The text of NMG Invert's prompt, word for word. Leave both texts empty"
                    " with prompts of NMG Prompts.",
                ),
                io.String.Input(
                    "target_prompt",
                    multiline=True,
                    tooltip="The text of NMG Sample's positive, word for word. Several lines are as"
                    " many edits at once: encode them with NMG Prompts.",
                ),
                io.Combo.Input(
                    "mode",
                    options=[mode.value for mode in AlignmentMode],
                    default=AlignmentMode.AUTO.value,
                    tooltip="How the words of the prompts find each other. 'auto': by comparison,"
                    " any number of words. 'replace': n-th word by n-th word, equal counts."
                    " 'refine': equal tokens in their order, all others are new.",
                ),
                io.Float.Input(
                    "cross_replace",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Part of the run, 0 to 1, in which the words' attention is taken from"
                    " the source. 0: not at all; 1: to the last step, the most faithful layout.",
                ),
                io.Float.Input(
                    "self_replace",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Part of the run, 0 to 1, in which the picture's structure is taken"
                    " from the source. Lower it where the shape has to change; 0.3 to 0.7 usual.",
                ),
                io.String.Input(
                    "blend_words",
                    default="",
                    tooltip="Local blend: the edit shows only where these words are seen, as in"
                    " 'cat, tiger' (source word, target word); 'cat' if it is in both; more pairs"
                    " after ';'. Empty: everywhere.",
                ),
                io.String.Input(
                    "reweight",
                    default="",
                    tooltip="Stronger or weaker words of the target prompt, as in"
                    " 'tiger:2.0, table:0.5'. Dimensionless; 1 is neutral, negative pushes away.",
                ),
                io.String.Input(
                    "word_schedules",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Another cross_replace for single words of the target prompt, as in"
                    " 'tiger:0.4' (the end) or 'tiger:0.2-0.6' (a part of the run, 0 to 1).",
                ),
                io.Float.Input(
                    "blend_threshold",
                    default=LocalBlend.threshold,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="Local blend: how strongly the words must be seen, 0 to 1 of the"
                    " maximum. Lower: a larger area changes.",
                ),
                io.Float.Input(
                    "blend_start",
                    default=LocalBlend.start,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="Local blend: part of the run, 0 to 1, before it acts. The first maps"
                    " are vague.",
                ),
            ],
            outputs=[
                Editor.Output("editor", tooltip="For the editor input of NMG Sample."),
                io.String.Output(
                    "alignment",
                    tooltip="How the prompts were aligned, in words; also shown on the node.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        *,
        clip=None,
        source_prompt,
        target_prompt,
        mode,
        cross_replace,
        self_replace,
        blend_words,
        reweight,
        word_schedules="",
        blend_threshold=PromptToPromptSettings.blend_threshold,
        blend_start=PromptToPromptSettings.blend_start,
    ) -> io.NodeOutput:
        settings = PromptToPromptSettings(
            mode,
            cross_replace,
            self_replace,
            blend_words,
            reweight,
            word_schedules,
            blend_threshold,
            blend_start,
        )
        if not (source_prompt.strip() or target_prompt.strip()):
            return io.NodeOutput(settings, _LATER, ui={"text": (_LATER,)})
        with speaking_as("Prompt-to-Prompt"):
            check_plain(source_prompt, "source_prompt")
            check_plain(target_prompt, "target_prompt")
            source = tokenize(clip, source_prompt)
            targets = [tokenize(clip, line) for line in lines(target_prompt)]
            editor = settings.between(source, targets)
        summary = "\n".join(edit.alignment.summary for edit in editor.edits)
        show_text(cls, summary)
        return io.NodeOutput(editor, summary, ui={"text": (summary,)})
