"""An attack's constants describe and check themselves."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from robustlab.attacks import DDN, FMN, IFGSM, CarliniWagnerL2, Constants, TurningRayL2
from robustlab.errors import InputError

every_class = pytest.mark.parametrize(
    "constants", [CarliniWagnerL2(), CarliniWagnerL2.classic(), TurningRayL2(), DDN(), FMN(), IFGSM()]
)


@every_class
def test_fields_say_what_they_are(constants: Constants) -> None:
    """Each field has help; a number has a range that holds its default; a logarithmic one starts above zero."""
    for entry in fields(constants):
        assert entry.metadata["help"]
        if isinstance(entry.default, int | float) and not isinstance(entry.default, bool):
            assert entry.metadata["low"] <= entry.default <= entry.metadata["high"]
        if entry.metadata["log"]:
            assert entry.metadata["low"] > 0


@every_class
def test_widened_searches_more_and_stays_valid(constants: Constants) -> None:
    """Widening changes the constants, and can be repeated without leaving the ranges."""
    assert constants.widened() != constants
    for _ in range(30):
        constants = constants.widened()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_iterations", 0),
        ("max_iterations", 2.5),
        ("max_iterations", True),
        ("learning_rate", -1.0),
        ("learning_rate", float("nan")),
        ("learning_rate", "fast"),
        ("first_order_const", 1),
    ],
)
def test_bad_values(name: str, value: object) -> None:
    """A value of the wrong type or outside its range is refused, by name."""
    with pytest.raises(InputError, match=f"CarliniWagnerL2.{name} is"):
        replace(CarliniWagnerL2(), **{name: value})
