"""The public door: what ``fairgate`` exports is what it says it exports."""

from __future__ import annotations

import inspect
import types

import fairgate
from fairgate import errors


def test_all_is_sorted_and_complete() -> None:
    exported = {
        name
        for name, value in vars(fairgate).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert sorted(fairgate.__all__) == fairgate.__all__
    assert set(fairgate.__all__) == exported


def test_every_error_is_exported_and_in_the_tree_of_the_docstring() -> None:
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, Exception):
            assert name in fairgate.__all__
            assert name in (errors.__doc__ or "")
            assert issubclass(value, errors.FairgateError)
