"""Node: the memory that the gradient of a model takes."""

from ..host.api.sockets import io
from ..host.gradient.plans import Plan, with_plan

AUTO = "auto"


class NMGGradientMemory(io.ComfyNode):
    """A model whose gradient passes go by the plan that the user chose."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGGradientMemory",
            display_name="NMG Gradient Memory",
            category="NMG/tools",
            description=(
                "For small cards: says how methods that need the model's gradient (gradient 'full',"
                " mode 'official', Null-Text Inversion, pix2pix-zero) get by with memory. Usually"
                " not needed: they choose by the free memory, and take less when it runs out. The"
                " picture is the same with every plan."
            ),
            search_aliases=[
                "out of memory",
                "oom",
                "vram",
                "low vram",
                "gradient checkpointing",
                "activation checkpointing",
                "null text memory",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model for the method's node or NMG Sample."),
                io.Combo.Input(
                    "plan",
                    options=[AUTO, *(plan.value for plan in Plan)],
                    default=AUTO,
                    tooltip="What is kept for the way back through the model. 'auto': by the free"
                    " memory. 'keep': everything, the fastest. 'blocks': a quarter of that; the"
                    " parts of the model run once more instead.",
                ),
            ],
            outputs=[io.Model.Output("model", tooltip="The same model with that plan.")],
        )

    @classmethod
    def execute(cls, model, plan) -> io.NodeOutput:
        return io.NodeOutput(with_plan(model, None if plan == AUTO else Plan(plan)))
