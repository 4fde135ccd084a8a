"""attack_constants.json: what goes in comes out, and what does not belong is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

from robustlab.attacks import IFGSM, CarliniWagnerL2
from robustlab.errors import InputError
from robustlab.study.tuning.constants_file import (
    ChosenConstants,
    find_constants,
    read_constants,
    write_constants,
)

TUNED = CarliniWagnerL2(warm_starts=1, max_iterations=7, learning_rate=2.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with constants of Carlini-Wagner alone."""
    path = tmp_path / "attack_constants.json"
    write_constants(path, {"cw": ChosenConstants(TUNED, "a test", {"images": 3})})
    return path


def edited(file: Path) -> dict[str, Any]:
    """The content of a file that somebody edits by hand: without the digest, as docs/reliability.md says."""
    content: dict[str, Any] = json.loads(file.read_text())
    del content["sha256"]
    return content


def test_an_altered_file_is_refused(file: Path) -> None:
    """One digit of a constant is enough."""
    file.write_text(file.read_text().replace('"max_iterations": 7', '"max_iterations": 8'))
    with pytest.raises(InputError, match="was altered"):
        read_constants(file, "mine")


def test_what_is_written_is_read(file: Path) -> None:
    """All fields, the evidence, and the origin as the reader names it."""
    assert read_constants(file, "mine") == {"cw": ChosenConstants(TUNED, "mine", {"images": 3})}


def test_whole_numbers_serve_as_floats(file: Path) -> None:
    """A file written by hand or by another JSON library may say 4 where 4.0 is meant."""
    content = edited(file)
    content["attacks"]["cw"]["constants"]["learning_rate"] = 4
    file.write_text(json.dumps(content))
    assert read_constants(file, "mine")["cw"].constants == replace(TUNED, learning_rate=4.0)


def test_a_constant_that_is_newer_than_the_file_takes_its_default(file: Path) -> None:
    """Old files stay readable."""
    content = edited(file)
    del content["attacks"]["cw"]["constants"]["inside"]
    file.write_text(json.dumps(content))
    assert read_constants(file, "mine")["cw"].constants == TUNED


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "does not hold attack constants"),
        ({"version": 99}, "version 99"),
        ({"version": None}, "version None"),
        ({"attacks": {}}, "no attack"),
        ({"attacks": {"pgd": {"constants": {}}}}, "unknown attack 'pgd'"),
        ({"attacks": {"cw": {"constants": {"passes": 3}}}}, "not known: passes"),
        ({"attacks": {"cw": {"constants": {"learning_rate": -1.0}}}}, "learning_rate is -1.0"),
        ({"attacks": {"cw": {}}}, "no constants under 'cw'"),
        ({"attacks": {"cw": 7}}, "no constants under 'cw'"),
    ],
)
def test_bad_files(file: Path, change: dict[str, object], message: str) -> None:
    """Another format, version, attack, field or a value out of range: one line that names the file."""
    file.write_text(json.dumps({**edited(file), **change}))
    with pytest.raises(InputError, match=message) as raised:
        read_constants(file, "mine")
    assert "mine" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["[1, 2", "[1, 2]", ""])
def test_no_constants_at_all(tmp_path: Path, text: str) -> None:
    """Broken JSON and JSON of something else."""
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x\.json"):
        find_constants(str(tmp_path / "x.json"), "digits")


def test_sources_are_combined(file: Path, tmp_path: Path) -> None:
    """One file per attack can be given; an attack that none of them holds keeps the default."""
    other = tmp_path / "other.json"
    write_constants(other, {"ifgsm": ChosenConstants(IFGSM(passes=9), "a test")})
    found = find_constants(f"{file}, {other}", "cifar10")
    assert (found["cw"].constants, found["ifgsm"].constants) == (TUNED, IFGSM(passes=9))
    assert found["cw"].origin == str(file)
    alone = find_constants(str(file), "cifar10")
    assert alone["ifgsm"].constants == IFGSM()
    assert "defaults" in alone["ifgsm"].origin


def test_constants_of_another_attack_are_refused(file: Path) -> None:
    """A study of I-FGSM alone has no use for a file of Carlini-Wagner."""
    with pytest.raises(InputError, match="holds constants of cw, not of ifgsm"):
        find_constants(str(file), "digits", ["ifgsm"])


def test_untuned_is_the_attacks_own(store: Path) -> None:
    """Whatever is shipped, `untuned` leaves it aside."""
    found = find_constants("untuned", "digits")
    assert (found["cw"].constants, found["ifgsm"].constants) == (CarliniWagnerL2(), IFGSM())


def test_constants_of_a_run(file: Path, store: Path) -> None:
    """runs:/<id> finds the file that a tuning or a study logged, runs:/<id>/<path> another; absent ones are named."""
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(file))
        mlflow.log_artifact(str(file), "sub")
    for source in (f"runs:/{run.info.run_id}", f"runs:/{run.info.run_id}/sub/attack_constants.json"):
        found = find_constants(source, "digits")
        assert found["cw"] == ChosenConstants(TUNED, source, {"images": 3})
    for absent in ("runs:/0123456789abcdef0123456789abcdef", f"runs:/{run.info.run_id}/nothing.json"):
        with pytest.raises(InputError, match="cannot get"):
            find_constants(absent, "digits")
