"""Constants that a tuning is told to try first."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import torch

from robustlab.attacks import IFGSM
from robustlab.cli import main
from robustlab.data import load_dataset
from robustlab.study.tuning.conduct import conduct_tuning
from robustlab.study.tuning.constants_file import ChosenConstants, write_constants
from robustlab.study.tuning.plan import TuningPlan, plan_tuning
from robustlab.study.tuning.storage import open_storage

START = IFGSM(passes=23, first_epsilon=0.7)


def plan(trials: int, start: IFGSM = START) -> TuningPlan:
    """Few images, few passes."""
    return plan_tuning(
        load_dataset("digits"),
        attack="ifgsm",
        models=["perceptron"],
        sizes=[100, 200, 300],
        epochs=2,
        images=6,
        batch_size=3,
        reference="default",
        space=["passes", "first_epsilon"],
        trials=trials,
        device=torch.device("cpu"),
        starts=[start],
    )


def test_they_are_the_first_trial_and_no_later_one(store: Path) -> None:
    for trials in (2, 3):  # the second tuning goes on with the first
        conduct_tuning(plan(trials))
    with open_storage(plan(3).storage) as storage:
        found = optuna.load_study(study_name=plan(3).name, storage=storage).get_trials()
    tried = [trial.params for trial in found if "untuned" not in trial.user_attrs]
    start = {"passes": 23, "first_epsilon": 0.7}
    assert len(tried) == 3
    assert tried[0] == start
    assert start not in tried[1:]


def test_constants_that_the_search_leaves_out_are_refused(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_constants(store / "wide.json", {"ifgsm": ChosenConstants(IFGSM(passes=400), "made")})
    given = ["--attack", "ifgsm", "--start-from", str(store / "wide.json")]
    assert main(["tune", *given]) == 2
    shown = capsys.readouterr().err
    assert "--start-from has passes=400, outside of what is searched (8:200 log)" in " ".join(shown.split())
