"""What is installed beside the project: stated, with a lower bound. Run by `make check`, too."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())


def test_every_dependency_has_a_lower_bound() -> None:
    """No version older than the one that was tested can be installed, so neither can its known faults."""
    groups = {"": PROJECT["project"]["dependencies"], **PROJECT["project"]["optional-dependencies"]}
    groups["build"] = PROJECT["build-system"]["requires"]
    stated = [text for texts in groups.values() for text in texts if not text.startswith("robustlab[")]
    assert len(stated) > 20
    unbounded = [text for text in stated if not re.search(r"(>=|==|~=)\s*\d", text)]
    assert unbounded == []


def test_the_environment_of_mlflow_run_has_the_same_bounds() -> None:
    """conda.yaml, which `mlflow run` installs from, asks for no older versions than pyproject.toml."""
    lines = (Path(__file__).resolve().parents[1] / "conda.yaml").read_text().splitlines()
    asked = [
        line.strip().removeprefix("- ").strip('"') for line in lines if re.match(r"\s+- +\"?[a-z]", line)
    ]
    asked = [text for text in asked if not text.startswith(("conda-forge", "pip:", "python", "pip"))]
    assert asked
    bounds = [text for text in asked if re.search(r"(>=|==|~=|=)\s*\d", text)]
    assert bounds == asked
