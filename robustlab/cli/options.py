"""Options that several verbs share, and how their text becomes values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer

from robustlab.attacks import IFGSM, CarliniWagnerL2
from robustlab.attacks.constants import Constants
from robustlab.cli.auto import AUTO as AUTO
from robustlab.cli.auto import is_auto as is_auto
from robustlab.data import DATASET_NAMES
from robustlab.data.files import user_path
from robustlab.errors import InputError
from robustlab.models import MODEL_NAMES
from robustlab.recipes import RECIPE_OPTIONS, Recipe
from robustlab.study.tuning.constants_file import CONSTANTS, ChosenConstants, find_constants

C = TypeVar("C", bound=Constants)
T = TypeVar("T")


def _constants_help(constants: type[Constants]) -> str:
    parts = []
    for field in fields(constants):
        unit = f" [{field.metadata['unit']}]" if field.metadata["unit"] else ""
        parts.append(f"{field.name}={field.default} ({field.metadata['help']}{unit})")
    return "; ".join(parts)


Dataset = Annotated[
    str,
    typer.Option(help=f"Data set: {', '.join(DATASET_NAMES)}, or imagefolder:<path> with train/ and test/."),
]
Models = Annotated[
    str,
    typer.Option(
        help=f"Comma-separated models: {', '.join(MODEL_NAMES)}, each also with +aug (augmented training); "
        "auto: the data set's own list."
    ),
]
Sizes = Annotated[
    str,
    typer.Option(
        help="Comma-separated training sizes [images], ascending multiples of the class count; auto: the paper's grid."
    ),
]
Seeds = Annotated[
    str, typer.Option(help="Comma-separated seeds; each draws its own subsets and training runs.")
]
Attacks = Annotated[str, typer.Option(help="Comma-separated attacks: cw (Carlini-Wagner, L2), ifgsm (Linf).")]
AttackImages = Annotated[
    int, typer.Option(help="Attack at most this many common-correct test images per curve [images]; 0: all.")
]
CrossCheck = Annotated[
    int,
    typer.Option(
        help="Other attacks check each score on so many of the attacked images, and flag an overestimate [images]; "
        "0: no check."
    ),
]
TrainBudget = Annotated[
    str,
    typer.Option(
        help="What stays fixed across sizes: epochs (passes over the subset) or steps (optimiser steps of the "
        "largest size)."
    ),
]
Epochs = Annotated[
    str, typer.Option(help="Training epochs [passes over the subset]; auto: the recipe's own.")
]
RecipeChanges = Annotated[
    str,
    typer.Option(
        "--recipe",
        help="Training recipe of every model as name=value,...; auto: each model's own. Names: "
        f"{', '.join(RECIPE_OPTIONS)}. precision=bf16 is faster on CPUs with bf16 units.",
    ),
]
AttackConstants = Annotated[
    str,
    typer.Option(
        "--constants",
        help="Attack constants for all sizes: default (tuned ones where they are shipped for the data set), untuned "
        "(the attacks' own defaults), or comma-separated attack_constants.json files and runs:/<id>[/path].",
    ),
]
CW = Annotated[
    str,
    typer.Option(
        help="Carlini-Wagner constants as name=value,..., on top of --constants; auto: just those. "
        f"Names: {_constants_help(CarliniWagnerL2)}."
    ),
]
Ifgsm = Annotated[
    str,
    typer.Option(
        help="I-FGSM constants as name=value,..., on top of --constants; auto: just those. "
        f"Names: {_constants_help(IFGSM)}."
    ),
]
DataDir = Annotated[
    str,
    typer.Option(
        help="Directory of the data sets' files; auto: $ROBUSTLAB_DATA_DIR, else ~/.cache/robustlab/data."
    ),
]
Download = Annotated[bool, typer.Option(help="Fetch missing data files from their official addresses.")]
Device = Annotated[
    str, typer.Option(help="Device to train and attack on: cpu, cuda, cuda:1 ...; auto: CUDA if any.")
]
Devices = Annotated[
    str,
    typer.Option(
        help="Device to train and attack on: cpu, cuda, cuda:1 ...; several, as cuda:0,cuda:1, share the cells, one "
        "process each; auto: all CUDA devices, else the CPU."
    ),
]

Fresh = Annotated[
    bool,
    typer.Option(
        "--fresh",
        help="Begin anew instead of going on with what an earlier study of the same settings has finished.",
    ),
]
StartFresh = Annotated[
    str, typer.Option(hidden=True, help="yes or no: --fresh as a value, for `mlflow run -P fresh=yes`.")
]

Executor = Annotated[
    str,
    typer.Option(help="Where cells run: local (one process per device) or ray (tasks of a Ray cluster)."),
]
RayAddress = Annotated[
    str,
    typer.Option(
        help="Ray cluster for --executor ray: host:port, ray://host:port, or local to start one here."
    ),
]
GpusPerCell = Annotated[
    float,
    typer.Option(help="GPUs that a cell reserves on Ray; 0.25 puts four on one, 0 uses the CPU alone."),
]
CpusPerCell = Annotated[float, typer.Option(help="CPU cores that a cell reserves on Ray.")]


def parse_list(option: str, text: str, convert: Callable[[str], T]) -> list[T]:
    """Split a comma-separated option; empty where it is ``auto``.

    Raises:
        InputError: an element that cannot be converted.
    """
    if is_auto(text):
        return []
    values = []
    for part in text.split(","):
        try:
            values.append(convert(part.strip()))
        except ValueError:
            raise InputError(
                f"--{option} has {part.strip()!r} where {_kind(convert)} belongs in {text!r}; separate with commas"
            ) from None
    return values


def parse_int(option: str, text: str) -> int | None:
    """A whole number, or None where it is ``auto``."""
    if is_auto(text):
        return None
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--{option} is {text!r}; give a whole number or auto") from None


def parse_constants(option: str, text: str, constants: type[C], base: C | None = None) -> C:
    """Read ``name=value,...`` into an attack's constants; the others are those of ``base`` (None: the defaults).

    Raises:
        InputError: an unknown name, a value of the wrong kind or out of range.
    """
    base = constants() if base is None else base
    if is_auto(text):
        return base
    known = {field.name: type(field.default) for field in fields(constants)}
    return replace(base, **_named_values(option, text, known))


def parse_recipe(text: str) -> dict[str, object]:
    """Read ``--recipe``'s ``name=value,...``; empty where it is ``auto``.

    Raises:
        InputError: an unknown name or a value of the wrong kind.
    """
    known = {field.name: type(field.default) for field in fields(Recipe) if field.name in RECIPE_OPTIONS}
    return {} if is_auto(text) else _named_values("recipe", text, known)


def _named_values(option: str, text: str, known: Mapping[str, type]) -> dict[str, object]:
    values: dict[str, object] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in known:
            raise InputError(
                f"--{option} has {part.strip()!r}; write name=value with a name of {', '.join(known)}"
            )
        if name in values:
            raise InputError(f"--{option} gives {name} more than once; name each once")
        values[name] = _convert(option, name, value, known[name])
    return values


def resolve_constants(
    text: str, dataset: str, attacks: Sequence[str], changes: Mapping[str, str]
) -> dict[str, ChosenConstants]:
    """What ``--constants`` names for ``attacks``, then ``--cw`` and ``--ifgsm`` (``changes``) on top of it.

    Raises:
        InputError: see ``find_constants`` and ``parse_constants``.
    """
    found = find_constants(text, dataset, attacks)
    chosen = {}
    for name, change in changes.items():
        base = found.get(name, ChosenConstants(CONSTANTS[name](), "not used"))
        constants = parse_constants(name, change, CONSTANTS[name], base.constants)
        same = constants == base.constants
        chosen[name] = base if same else ChosenConstants(constants, f"{base.origin}, then --{name} {change}")
    return chosen


def parse_data_dir(text: str) -> Path | None:
    """The data directory, or None where it is ``auto``."""
    return None if is_auto(text) else user_path(text)


def parse_device(text: str) -> torch.device | None:
    """A device that is there, or None where it is ``auto``.

    Raises:
        InputError: not a device's name, or the device is missing.
    """
    if is_auto(text):
        return None
    try:
        device = torch.device(text)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {text!r} cannot be used ({reason}); give cpu, cuda or auto") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {text!r} is not supported; give cpu, cuda or auto")
    return device


def parse_yes_no(option: str, text: str) -> bool:
    """Whether it is yes.

    Raises:
        InputError: neither yes nor no.
    """
    answer = text.strip().lower()
    if answer not in ("yes", "no"):
        raise InputError(f"--{option} is {text!r}; give yes or no")
    return answer == "yes"


def parse_devices(text: str) -> list[torch.device]:
    """Devices to share the cells between, separated by commas: all CUDA devices where it is ``auto``; empty: whichever.

    Raises:
        InputError: see ``parse_device``.
    """
    if is_auto(text):
        count = torch.cuda.device_count()
        return [torch.device("cuda", number) for number in range(count)] if count > 1 else []
    places = [parse_device(part.strip() or text) for part in text.split(",")]
    return [place for place in places if place is not None]


def _convert(option: str, name: str, value: str, kind: type) -> object:
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise InputError(f"--{option} has {name}={value!r}; give true or false")
        return value.lower() == "true"
    try:
        return kind(value)
    except ValueError:
        raise InputError(f"--{option} has {name}={value!r}; give a value of type {kind.__name__}") from None


def _kind(convert: Callable[[str], object]) -> str:
    return "a whole number" if convert is int else "a name"
