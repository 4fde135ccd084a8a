"""The search space: an attack's own fields, with the range and scale that their dataclass states."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields, replace

import optuna
from optuna.distributions import BaseDistribution

from robustlab.attacks.constants import Constants
from robustlab.errors import InputError
from robustlab.study.tuning.constants_file import CONSTANTS


@dataclass(frozen=True)
class Dimension:
    """One searched field: a range of numbers, or ``choices``."""

    name: str
    kind: type
    low: float | int = 0
    high: float | int = 0
    log: bool = False
    choices: tuple[bool | str, ...] = ()

    def distribution(self) -> BaseDistribution:
        """As Optuna knows it."""
        if self.choices:
            return optuna.distributions.CategoricalDistribution(self.choices)
        if self.kind is int:
            return optuna.distributions.IntDistribution(int(self.low), int(self.high), log=self.log)
        return optuna.distributions.FloatDistribution(self.low, self.high, log=self.log)

    def suggest(self, trial: optuna.Trial) -> bool | int | float | str | None:
        """The trial's value."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if self.kind is int:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def holds(self, value: object) -> bool:
        """Whether the value lies inside."""
        return value in self.choices if self.choices else self.low <= value <= self.high  # type: ignore[operator]

    def __str__(self) -> str:
        if self.choices:
            return "|".join(map(str, self.choices))
        return f"{self.low:g}:{self.high:g}" + (" log" if self.log else "")


def search_space(attack: str, wanted: Sequence[str] = ()) -> tuple[Dimension, ...]:
    """The dimensions to search.

    Args:
        attack: ``cw`` or ``ifgsm``.
        wanted: fields, each ``name``, ``name=low:high`` or ``name=a|b``; empty: what is worth tuning.

    Raises:
        InputError: an unknown attack or field, a repeated one, a range that is empty or leaves the field's own.
    """
    known = {entry.name: entry for entry in fields(_constants_of(attack))}
    if not wanted:
        return tuple(_dimension(entry) for entry in known.values() if entry.metadata["search"] is not None)
    chosen: dict[str, Dimension] = {}
    for text in wanted:
        name, given, limits = (part.strip() for part in text.partition("="))
        if name not in known:
            raise InputError(f"{attack} has no constant {name!r} to tune; choose from {', '.join(known)}")
        if name in chosen:
            raise InputError(f"the search space names {name} more than once; name each once")
        dimension = _dimension(known[name])
        chosen[name] = _narrowed(dimension, known[name].metadata, limits) if given else dimension
    return tuple(chosen.values())


def with_values(base: Constants, values: Mapping[str, object]) -> Constants:
    """``base`` with the searched fields set."""
    return replace(base, **values)


def _constants_of(attack: str) -> type[Constants]:
    if attack not in CONSTANTS:
        raise InputError(f"unknown attack {attack!r}; choose from {', '.join(CONSTANTS)}")
    return CONSTANTS[attack]


def _dimension(entry: Field[object]) -> Dimension:
    kind, metadata = type(entry.default), entry.metadata
    if kind is bool:
        return Dimension(entry.name, kind, choices=(False, True))
    if metadata["choices"] is not None:
        return Dimension(entry.name, kind, choices=tuple(metadata["choices"]))
    low, high = metadata["search"] or (metadata["low"], metadata["high"])
    return Dimension(entry.name, kind, low, high, metadata["log"])


def _narrowed(dimension: Dimension, metadata: Mapping[str, object], limits: str) -> Dimension:
    name = dimension.name
    if dimension.choices:
        by_text = {str(choice).lower(): choice for choice in dimension.choices}
        chosen = [part.strip().lower() for part in limits.split("|")]
        if not limits or set(chosen) - set(by_text):
            raise InputError(f"{name}={limits!r} is no choice of {', '.join(by_text)}; write {name}=a|b")
        return replace(dimension, choices=tuple(by_text[part] for part in dict.fromkeys(chosen)))
    try:
        low, high = (dimension.kind(part) for part in limits.split(":"))
    except ValueError:
        raise InputError(
            f"{name}={limits!r} is no range of {dimension.kind.__name__}s; write {name}=low:high"
        ) from None
    if not low < high:  # also where one is nan
        raise InputError(f"the range {name}={limits} is empty; give a low end below the high end")
    least, most = metadata["low"], metadata["high"]
    if not (math.isfinite(low) and math.isfinite(high) and least <= low and high <= most):
        raise InputError(f"the range {name}={limits} leaves what {name} may be, {least:g} to {most:g}")
    return replace(dimension, low=low, high=high, log=dimension.log and low > 0)
