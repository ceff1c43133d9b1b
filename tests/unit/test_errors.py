"""The errors: one form, and names that say nothing of where the pack is installed."""

import pytest

from nmg_sampler import errors

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type)
    and issubclass(value, errors.NMGError)
    and value is not errors.NMGError
]


def test_an_error_says_what_was_got_what_was_expected_and_what_to_do():
    error = errors.InvalidInput.of("steps", "is no count", 0, "1 or more", "Raise it.")
    assert str(error) == "steps is no count. Got 0; expected 1 or more. Raise it."


@pytest.mark.parametrize("error", CLASSES)
def test_a_class_is_not_named_after_the_folder_the_pack_is_in(error):
    """The host shows users the module as well."""
    assert f"{error.__module__}.{error.__qualname__}" == f"nmg_sampler.errors.{error.__name__}"
