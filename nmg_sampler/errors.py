"""The errors of the library: who is wrong, what was got, what was expected, what to do."""


class NMGError(Exception):
    """Any of the errors below; a node catches it to add its own name."""

    def __init_subclass__(cls) -> None:
        # ComfyUI writes the class with its module in front of the message, and the module of a
        # node pack is named after the folder it is installed in.
        cls.__module__ = "nmg_sampler.errors"


class InvalidInput(NMGError, ValueError):
    """An argument that cannot be used. The message names it and says what to do."""

    @classmethod
    def of(cls, argument: str, problem: str, got: object, expected: str, action: str):
        """The error in the one form that every message of this package has."""
        return cls(f"{argument} {problem}. Got {got}; expected {expected}. {action}")


class TrajectoryMismatch(InvalidInput):
    """A trajectory that was made for something else than it is used with."""


class NotFinite(NMGError, RuntimeError):
    """The model answered with NaN or infinity in the middle of a run."""


class NotDifferentiable(NMGError, RuntimeError):
    """The model, or a patch on it, cannot be differentiated in the latent."""

    @classmethod
    def through_patch(cls, got: str):
        """The error of a graph that is broken somewhere in the model, at `got`."""
        return cls(
            f"gradient 'full' is not possible through a patch of this model. Got {got}; expected"
            " operations autograd can follow. Use gradient 'direct', or remove the patch."
        )
