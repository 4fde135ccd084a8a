"""What an attack's constants are: a frozen dataclass whose fields say what they mean and may be.

The command line's flags, the logged parameters and the tuning space are all read from these fields.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from robustlab.errors import InputError


def constant(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | int | None = None,
    high: float | int | None = None,
    log: bool = False,
    search: tuple[float | int, float | int] | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field with its meaning: range (inclusive), unit, scale, and where tuning looks unless it is told.

    ``low`` and ``high`` are what is valid, ``search`` is the part of it where good values lie; None: tuning leaves the
    field alone.
    """
    return field(
        default=default,
        metadata={
            "help": help,
            "unit": unit,
            "low": low,
            "high": high,
            "log": log,
            "search": search,
            "choices": choices,
        },
    )


@dataclass(frozen=True)
class Constants:
    """Base of every attack's constants: checks each field against its own metadata."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            _check(
                f"{type(self).__name__}.{entry.name}",
                getattr(self, entry.name),
                entry.default,
                entry.metadata,
            )

    def widened(self) -> Constants:
        """Constants with a wider search, for images that these missed."""
        raise NotImplementedError


def _check(name: str, value: Any, default: Any, metadata: Any) -> None:
    """The value has the default's type and lies in the range or among the choices."""
    if metadata["choices"] is not None:
        if value not in metadata["choices"]:
            raise InputError(f"{name} is {value!r}; choose from {', '.join(metadata['choices'])}")
        return
    wanted = type(default)
    right = isinstance(value, int | float) if wanted is float else isinstance(value, wanted)
    if not right or (wanted is not bool and isinstance(value, bool)):
        raise InputError(f"{name} is {value!r}; give a value of type {wanted.__name__}")
    low, high = metadata["low"], metadata["high"]
    if wanted is bool or low is None or high is None:
        return
    if not math.isfinite(value) or not low <= value <= high:
        raise InputError(f"{name} is {value!r}; give a value from {low:g} to {high:g}")
