"""attack_constants.json: the constants of one or several attacks, where they came from, and the evidence for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from robustlab import __version__
from robustlab.attacks import IFGSM, CarliniWagnerL2
from robustlab.attacks.constants import Constants
from robustlab.data.files import user_path
from robustlab.errors import InputError
from robustlab.files import write_atomically
from robustlab.study.artifacts import fetch_files

FILE_NAME = "attack_constants.json"
FORMAT = "robustlab attack constants"
VERSION = 1
CONSTANTS: dict[str, type[Constants]] = {"cw": CarliniWagnerL2, "ifgsm": IFGSM}

DEFAULT, UNTUNED = "default", "untuned"
_SHIPPED = Path(__file__).parents[1] / "shipped_constants"
_RUN = "runs:/"


@dataclass(frozen=True)
class ChosenConstants:
    """An attack's constants, where they were taken from, and what was measured with them (empty: nothing)."""

    constants: Constants
    origin: str
    evidence: Mapping[str, object] = field(default_factory=dict)


def write_constants(path: Path, chosen: Mapping[str, ChosenConstants]) -> None:
    """Write the file; ``chosen`` by attack name (``cw``, ``ifgsm``)."""
    attacks = {
        name: {"constants": asdict(one.constants), "origin": one.origin, "evidence": dict(one.evidence)}
        for name, one in chosen.items()
    }
    content = {"format": FORMAT, "version": VERSION, "robustlab": __version__, "attacks": attacks}
    with write_atomically(path) as file:
        file.write((json.dumps({**content, "sha256": _digest(content)}, indent=2) + "\n").encode())


def _digest(content: Mapping[str, object]) -> str:
    """SHA-256 of everything in the file but the digest itself, however it is spaced and ordered."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_constants(path: Path, origin: str) -> dict[str, ChosenConstants]:
    """Read the file; every value is checked against its attack's dataclass.

    Args:
        origin: what the user called the file; kept with the constants and named in errors.

    Raises:
        InputError: not such a file, altered since it was written, an unknown version, attack or field, a value
            out of range.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read the constants {origin}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise InputError(
            f"{origin} is not JSON; give an {FILE_NAME} that `robustlab tune` or a study made"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{origin} does not hold attack constants; give an {FILE_NAME}")
    if content.get("version") != VERSION:
        raise InputError(
            f"{origin} has version {content.get('version')!r}; this robustlab reads version {VERSION}"
        )
    if "sha256" in content and content["sha256"] != _digest(content):
        raise InputError(
            f"{origin} was altered (its SHA-256 differs); take a fresh copy, or remove its line sha256 if you meant to"
        )
    attacks = content.get("attacks")
    if not isinstance(attacks, dict) or not attacks:
        raise InputError(f"{origin} holds the constants of no attack; tune again")
    return {name: _read_attack(name, entry, origin) for name, entry in attacks.items()}


def find_constants(
    text: str, dataset_name: str, attacks: Sequence[str] = tuple(CONSTANTS)
) -> dict[str, ChosenConstants]:
    """The constants that ``--constants`` names, one entry for each of ``attacks``.

    Args:
        text: ``default`` (shipped for the data set, else the attacks' own), ``untuned`` (the attacks' own), or
            comma-separated files and ``runs:/<id>[/path]``; an attack that none of them holds keeps ``default``.
        attacks: which the caller will run.

    Raises:
        InputError: see ``read_constants``; a run or file that is not there; a source with none of ``attacks``.
    """
    untuned = {name: ChosenConstants(CONSTANTS[name](), "the attack's own defaults") for name in attacks}
    if text.strip() == UNTUNED:
        return untuned
    shipped = _SHIPPED / f"{dataset_name}.json"
    found = read_constants(shipped, f"shipped for {dataset_name}") if shipped.is_file() else {}
    if text.strip().lower() not in ("", "auto", DEFAULT):
        for source in (part.strip() for part in text.split(",")):
            held = _from_source(source)
            if attacks and not set(held) & set(attacks):
                raise InputError(
                    f"{source} holds constants of {', '.join(held)}, not of {' or '.join(attacks)}; "
                    "give a file of an attack that is run"
                )
            found |= held
    return {name: found.get(name, untuned[name]) for name in attacks}


def _from_source(source: str) -> dict[str, ChosenConstants]:
    if not source.startswith(_RUN):
        path = user_path(source)
        if not path.is_file():
            raise InputError(
                f"no constants at {source!r}; give default, untuned, an {FILE_NAME} or runs:/<id>[/path]"
            )
        return read_constants(path, source)
    run_id, _, path_in_run = source.removeprefix(_RUN).partition("/")
    with TemporaryDirectory(prefix="robustlab-") as folder:
        client = MlflowClient()
        try:
            local = fetch_files(client, client.get_run(run_id), path_in_run or FILE_NAME, Path(folder))
        except (InputError, MlflowException) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise InputError(
                f"cannot get {source} ({reason}); give runs:/<id of a tuning or study>, or runs:/<id>/<path>"
            ) from None
        return read_constants(local, source)


def _read_attack(name: str, entry: object, origin: str) -> ChosenConstants:
    if name not in CONSTANTS:
        raise InputError(
            f"{origin} holds constants of an unknown attack {name!r}; known are {', '.join(CONSTANTS)}"
        )
    values = entry.get("constants") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(values, dict):
        raise InputError(f"{origin} has no constants under {name!r}; tune again")
    kinds = {known.name: type(known.default) for known in fields(CONSTANTS[name])}
    unknown = sorted(set(values) - set(kinds))
    if unknown:
        raise InputError(
            f"{origin} has {name} constants that are not known: {', '.join(unknown)} (of another attack or version?)"
        )
    try:
        # JSON writes 4.0 and 4 alike.
        values = {
            key: float(value)
            if kinds[key] is float and isinstance(value, int) and not isinstance(value, bool)
            else value
            for key, value in values.items()
        }
        constants = replace(CONSTANTS[name](), **values)
    except (InputError, OverflowError) as error:
        raise InputError(f"{origin}: {error}") from None
    evidence = entry.get("evidence")
    return ChosenConstants(constants, origin, evidence if isinstance(evidence, dict) else {})
