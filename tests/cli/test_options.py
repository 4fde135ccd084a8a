"""Options become values, and say what they mean."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from robustlab.attacks import IFGSM, CarliniWagnerL2
from robustlab.cli import main, options
from robustlab.cli.app import VERBS
from robustlab.errors import InputError
from robustlab.study.tuning.constants_file import ChosenConstants, write_constants


def test_auto_and_empty_leave_the_choice_to_us() -> None:
    """MLflow hands an empty text over where a parameter is empty."""
    for text in ("auto", "AUTO", "", " "):
        assert options.parse_list("sizes", text, int) == []
        assert options.parse_int("epochs", text) is None
        assert options.parse_data_dir(text) is None
        assert options.parse_device(text) is None
        assert options.parse_constants("cw", text, CarliniWagnerL2) == CarliniWagnerL2()


def test_lists_take_spaces() -> None:
    """`1000, 5000` is what people type."""
    assert options.parse_list("sizes", "1000, 5000", int) == [1000, 5000]


def test_constants_are_set_by_name() -> None:
    """Each value gets its field's type, the others keep their defaults."""
    constants = options.parse_constants("ifgsm", "steps=7", IFGSM)
    assert constants == IFGSM(steps=7)


def test_recipes_are_set_by_name() -> None:
    """Everything but the budget, which has options of its own."""
    assert options.parse_recipe("auto") == {}
    assert options.parse_recipe("learning_rate=0.1, precision=bf16") == {
        "learning_rate": 0.1,
        "precision": "bf16",
    }
    with pytest.raises(
        InputError, match="--recipe has 'epochs=3'; write name=value with a name of batch_size"
    ):
        options.parse_recipe("epochs=3")


def test_constants_of_a_file_then_single_ones(tmp_path: Path) -> None:
    """`--cw` changes what `--constants` gives, and the origin says both."""
    file = tmp_path / "attack_constants.json"
    write_constants(file, {"cw": ChosenConstants(CarliniWagnerL2(warm_starts=1), "a test")})
    changes = {"cw": "warm_steps=9", "ifgsm": "auto"}
    found = options.resolve_constants(str(file), "cifar10", ["cw", "ifgsm"], changes)
    assert found["cw"].constants == CarliniWagnerL2(warm_starts=1, warm_steps=9)
    assert found["cw"].origin == f"{file}, then --cw warm_steps=9"
    assert found["ifgsm"].constants == IFGSM()


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` exits with 0 and says what the verb does."""
    assert main([verb, "--help"]) == 0
    assert f"robustlab {verb}" in capsys.readouterr().out


def test_the_list_of_verbs_says_what_each_does() -> None:
    """The list, which is shown without loading the verbs, begins each verb's own help."""
    for name, (module, summary) in VERBS.items():
        function = getattr(import_module(f"robustlab.cli.{module}"), name)
        assert inspect.getdoc(function).splitlines()[0] == summary  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], {"torch", "mlflow", "numpy"}),
        (["version"], {"torch", "mlflow", "numpy"}),
        (["status", "--once"], {"torch", "torchvision", "matplotlib", "sklearn", "optuna"}),
        (
            ["study", "--models", "no such model"],
            {"torchvision", "matplotlib", "sklearn", "optuna", "plotly", "mlflow.pytorch"},
        ),
    ],
)
def test_a_verb_loads_what_it_needs_alone(arguments: list[str], unwanted: set[str], store: Path) -> None:
    """Libraries take seconds to load: a verb that answers at once, or finds all done, does not wait for them."""
    code = f"import sys; from robustlab.cli import main; main({arguments}); print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert unwanted & set(answer.stdout.split()) == set()


def test_help_explains_every_constant_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    """The attack's own dataclass is the one truth for its options."""
    assert main(["study", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for constants in (CarliniWagnerL2, IFGSM):
        for field in fields(constants):
            assert f"{field.name}={field.default}" in text
