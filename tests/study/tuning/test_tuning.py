"""A small tuning on the digits from end to end: what MLflow holds, resuming, repeating, workers."""

from __future__ import annotations

import csv
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path

import mlflow
import optuna
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import FrozenTrial

from robustlab.attacks import IFGSM
from robustlab.data import DataSet, load_dataset
from robustlab.errors import InputError
from robustlab.study.conduct import conduct_study
from robustlab.study.plan import plan_study
from robustlab.study.tuning import conduct, trials
from robustlab.study.tuning.conduct import FinishedTuning, TuningProgress, conduct_tuning
from robustlab.study.tuning.constants_file import find_constants
from robustlab.study.tuning.plan import TuningPlan, plan_tuning
from robustlab.study.tuning.storage import open_storage
from robustlab.training import correctly_classified, to_inputs


@pytest.fixture(scope="module")
def digits() -> DataSet:
    """The embedded digits with their tuning slice."""
    return load_dataset("digits")


def small_plan(digits: DataSet, **options: object) -> TuningPlan:
    """Three sizes, few images, an attack of few passes."""
    settings: dict[str, object] = {
        "attack": "ifgsm",
        "models": ["perceptron"],
        "sizes": [100, 200, 300],
        "epochs": 4,
        "images": 12,
        "batch_size": 3,
        "reference": "default",
        "trials": 6,
        "tolerance": 0.01,
        "device": torch.device("cpu"),
    }
    return plan_tuning(digits, **{**settings, **options})  # type: ignore[arg-type]


def children(run_id: str, kind: str) -> list[Run]:
    """The child runs of a kind, first one first."""
    client = MlflowClient()
    return list(
        client.search_runs(
            [client.get_run(run_id).info.experiment_id],
            f"tags.`mlflow.parentRunId` = '{run_id}' and tags.`robustlab.kind` = '{kind}'",
            order_by=["attributes.start_time ASC"],
        )
    )


def all_trials(plan: TuningPlan) -> list[FrozenTrial]:
    """Every trial that Optuna knows of."""
    with open_storage(plan.storage) as storage:
        return optuna.load_study(study_name=plan.name, storage=storage).get_trials()


def drawn(plan: TuningPlan) -> list[tuple[dict[str, object], object]]:
    """Parameters and value of every trial that ended by itself, in order."""
    return [(t.params, t.values) for t in all_trials(plan) if t.state.is_finished() and t.values]


def test_what_a_tuning_leaves_in_mlflow(digits: DataSet, store: Path) -> None:
    """Parent, flat trials, pruning, plots, constants with evidence; the chosen trial keeps what its child run says."""
    seen: list[TuningProgress] = []
    plan = small_plan(digits, trials=14)
    finished = conduct_tuning(plan, seen.append)
    client = MlflowClient()
    parent = client.get_run(finished.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["robustlab.kind"] == "tuning"
    assert parent.data.params["tuning.tolerance"] == "0.01"

    runs = children(finished.run_id, "trial")
    assert len(runs) == finished.trials == 14
    assert all(run.info.status == "FINISHED" for run in runs)
    pruned = [run for run in runs if run.data.tags["robustlab.state"] == "pruned"]
    assert len(pruned) == finished.pruned == int(parent.data.metrics["pruned_trials"]) > 0
    states = [trial.state.name for trial in all_trials(plan)]
    assert (states.count("PRUNED"), states.count("COMPLETE")) == (len(pruned), 14 - len(pruned) + 1)
    batches = 3 * 12 // 3
    for run in runs:
        points = client.get_metric_history(run.info.run_id, "batch_cost")
        if run in pruned:
            assert len(points) == run.data.metrics["pruned_after_batches"] < batches
            assert "distance" not in run.data.metrics
        else:
            assert sorted(point.step for point in points) == list(range(batches))
            assert run.data.metrics["success_rate"] <= 1
        assert {f"ifgsm.{name}" for name in vars(IFGSM())} == set(run.data.params)
    assert len(children(finished.run_id, "untuned")) == len(children(finished.run_id, "reference")) == 1

    folder = Path(finished.constants_file).parent
    content = json.loads((folder / "attack_constants.json").read_text())["attacks"]["ifgsm"]
    evidence = content["evidence"]
    assert (evidence["images"], evidence["slice_images"]) == (len(finished.subjects.labels), 100)
    assert evidence["dataset_digest"] == digits.digest
    assert evidence["models"] == ["perceptron 100", "perceptron 200", "perceptron 300"]
    assert evidence["tuned"]["mean_ratio"] <= 1.01
    assert evidence["tuned"]["worst_ratio"] <= 1.02
    assert evidence["tuned"]["propagations"] <= evidence["untuned"]["propagations"]
    if finished.choice.trial is not None:
        chosen = next(run for run in runs if run.info.run_name == f"trial {finished.choice.trial}")
        assert chosen.data.metrics["propagations"] == evidence["tuned"]["propagations"]
        assert {k: str(v) for k, v in content["constants"].items()} == {
            key.removeprefix("ifgsm."): value for key, value in chosen.data.params.items()
        }
    page = (folder / "tuning.html").read_text()
    assert page.count("plotly.js v") >= 1, "the library is in the page, no network is needed"
    assert "Not drawn" not in page
    assert all(name in page for name in ("Pareto front", "Parameter importances", "History"))
    front = json.loads((folder / "front.json").read_text())
    work = [point["propagations"] for point in front]
    assert work == sorted(work)
    assert [p["distance"] for p in front] == sorted((p["distance"] for p in front), reverse=True)
    with (folder / "trials.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 14
    assert seen[-1].trials == 14
    assert seen[-1].best is not None


def test_tuning_images_are_the_slices_and_right_in_every_model(digits: DataSet, store: Path) -> None:
    """What is attacked is in the slice, in no test set, and classified correctly by all models of the tuning."""
    subjects = conduct_tuning(small_plan(digits, trials=1, images=0)).subjects
    held_out = {image.numpy().tobytes() for image in to_inputs(digits.tuning.images)}
    test = {image.numpy().tobytes() for image in to_inputs(digits.test.images)}
    assert len(test) == len(digits.test)
    attacked = {image.numpy().tobytes() for image in subjects.inputs}
    assert attacked <= held_out
    assert not attacked & test
    for model in subjects.models.values():
        assert bool((model(subjects.inputs).argmax(dim=1) == subjects.labels).all())
    right = torch.stack([correctly_classified(model, digits.tuning) for model in subjects.models.values()])
    assert subjects.common == int(right.all(dim=0).sum()) == len(subjects.labels) + subjects.missed


def test_a_seed_repeats_a_tuning_and_another_does_not(digits: DataSet, store: Path) -> None:
    """Two searches with one seed draw the same constants and measure the same, in storages of their own."""
    plans = [
        small_plan(digits, storage=str(store / f"{seed}-{n}.journal"), seed=seed, trials=3)
        for seed, n in ((0, 1), (0, 2), (1, 1))
    ]
    chosen = [conduct_tuning(plan).choice.constants for plan in plans]
    assert drawn(plans[0]) == drawn(plans[1])
    assert drawn(plans[0]) != drawn(plans[2])
    assert chosen[0] == chosen[1]


def test_an_interrupted_tuning_goes_on(digits: DataSet, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trials that were finished stay, the rest is drawn as if nothing had happened, under the same parent."""
    whole = small_plan(digits, storage=str(store / "whole.journal"), trials=5)
    conduct_tuning(whole)
    plan = small_plan(digits, trials=5)

    def interrupt(progress: TuningProgress) -> None:
        if progress.stage == "trial" and progress.trials == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conduct_tuning(plan, interrupt)
    parent = MlflowClient().search_runs(["1"], "tags.`robustlab.kind` = 'tuning'")[0]
    assert parent.info.status == "FAILED"
    assert [run.info.status for run in children(parent.info.run_id, "trial")] == ["FINISHED"] * 2 + ["KILLED"]

    def train_nothing(*arguments: object, **options: object) -> None:
        raise AssertionError("the models were kept")

    monkeypatch.setattr(conduct, "train_models", train_nothing)
    finished = conduct_tuning(plan)
    assert finished.run_id == parent.info.run_id
    assert MlflowClient().get_run(finished.run_id).info.status == "FINISHED"
    assert finished.trials == 5
    assert drawn(plan) == drawn(whole)
    assert len(children(finished.run_id, "untuned")) == 1


def test_a_killed_process_leaves_nothing_running(digits: DataSet, store: Path) -> None:
    """A trial whose process is gone is failed and its run closed when the tuning goes on."""
    plan = small_plan(digits, trials=2)
    conduct_tuning(plan)
    with mlflow.start_run() as run:
        pass
    MlflowClient().update_run(run.info.run_id, status="RUNNING")
    with open_storage(plan.storage) as storage:
        trial = optuna.load_study(study_name=plan.name, storage=storage).ask()
        trial.set_user_attr("worker", f"{platform.node()}:{2**22 + 1}")  # beyond the largest process id
        trial.set_user_attr("run_id", run.info.run_id)
    finished = conduct_tuning(small_plan(digits, trials=3))
    assert finished.trials == 3
    states = [t.state.name for t in all_trials(plan)]
    assert states.count("FAIL") == 1
    assert "RUNNING" not in states
    assert MlflowClient().get_run(run.info.run_id).info.status == "KILLED"


def test_other_settings_need_another_name(digits: DataSet, store: Path) -> None:
    """A name stands for one search: mixing two would compare constants under different conditions."""
    conduct_tuning(small_plan(digits, trials=1, name="mine"))
    with pytest.raises(InputError, match=r"'mine' .* has other settings"):
        conduct_tuning(small_plan(digits, trials=1, name="mine", tolerance=0.02))
    assert conduct_tuning(small_plan(digits, trials=2, name="mine")).trials == 2


def test_pareto_mode_minimises_both(digits: DataSet, store: Path) -> None:
    """Two objectives, nothing pruned, a front in which more work is always nearer."""
    plan = small_plan(digits, mode="pareto", sampler="nsga2", trials=5, reference="6x10", tolerance=1.0)
    finished = conduct_tuning(plan)
    runs = children(finished.run_id, "trial")
    assert finished.pruned == 0
    with open_storage(plan.storage) as storage:
        study = optuna.load_study(study_name=plan.name, storage=storage)
        assert len(study.directions) == 2
        best = {trial.number for trial in study.best_trials}
    by_number = {run.info.run_name: run for run in runs}
    for trial in all_trials(plan)[1:]:
        metrics = by_number[f"trial {trial.number}"].data.metrics
        assert trial.values == [metrics["distance"], metrics["propagations"]]
    front = json.loads((Path(finished.constants_file).parent / "front.json").read_text())
    assert {point["trial"] for point in front} == best
    for point in front:
        file = f"runs:/{finished.run_id}/front/trial-{point['trial']}.json"
        assert asdict(find_constants(file, "digits", ["ifgsm"])["ifgsm"].constants) == point["constants"]


def test_failures_are_penalised_and_never_chosen(
    digits: DataSet, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack that misses images is finite for Optuna, and the untuned defaults are kept instead."""
    attack = trials.ATTACKS["ifgsm"]

    def miss_one(model, inputs, labels, constants, **options):  # type: ignore[no-untyped-def]
        result = attack(model, inputs, labels, constants, **options)
        result.success[0] = False
        result.distance[0] = torch.inf
        return result

    monkeypatch.setattr(trials, "ATTACKS", {"ifgsm": miss_one})
    finished = conduct_tuning(small_plan(digits, trials=2))
    assert finished.choice.trial is None
    assert finished.choice.constants == IFGSM()
    assert finished.choice.within
    for run in children(finished.run_id, "trial"):
        pruned = run.data.tags["robustlab.state"] == "pruned"
        assert 1000 < run.data.metrics["cost_so_far" if pruned else "cost"] < 1e9


def test_no_image_to_tune_on(digits: DataSet, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice without an image that all models get right, or no slice at all, is said, not averaged over."""
    from dataclasses import replace

    from robustlab.data.images import no_images

    with pytest.raises(InputError, match="too few test images a class"):
        conduct_tuning(small_plan(replace(digits, tuning=no_images())))
    wrong = replace(digits.tuning, labels=(digits.tuning.labels + 1) % 10)
    monkeypatch.setattr(
        "robustlab.study.tuning.subjects.correctly_classified",
        lambda model, data: torch.zeros(len(data), dtype=torch.bool),
    )
    with pytest.raises(InputError, match=r"no image of the tuning slice \(100 images\)"):
        conduct_tuning(small_plan(replace(digits, tuning=wrong), name="wrong"))


def test_a_study_takes_tuned_constants_and_tells_them(digits: DataSet, store: Path) -> None:
    """A study given a tuning's run logs values and origin; its cells' digests hold the values."""
    tuned = conduct_tuning(small_plan(digits, trials=3))
    source = f"runs:/{tuned.run_id}"
    chosen = find_constants(source, "digits", ["ifgsm"])["ifgsm"]
    assert chosen.constants == tuned.choice.constants
    assert isinstance(chosen.constants, IFGSM)
    options = {
        "models": ["perceptron"],
        "sizes": [100],
        "epochs": 2,
        "attacks": ["ifgsm"],
        "attack_images": 3,
    }
    plan = plan_study(
        digits,
        **options,
        ifgsm=chosen.constants,
        constants_origin={"ifgsm": chosen.origin},  # type: ignore[arg-type]
    )
    finished = conduct_study(plan)
    params = MlflowClient().get_run(finished.run_id).data.params
    assert params["constants.ifgsm"] == source
    assert params["ifgsm.shrink"] == str(tuned.choice.constants.shrink)  # type: ignore[attr-defined]
    again = find_constants(f"runs:/{finished.run_id}", "digits", ["ifgsm"])["ifgsm"]
    assert again.constants == chosen.constants
    cell = plan.cells(plan.variants[0], 0)[0]
    elsewhere = plan_study(digits, **options, ifgsm=chosen.constants)  # type: ignore[arg-type]
    default = plan_study(digits, **options, ifgsm=IFGSM(passes=49))  # type: ignore[arg-type]
    variant = plan.variants[0]
    assert cell.digest(plan.settings(variant)) == cell.digest(elsewhere.settings(variant))
    assert cell.digest(plan.settings(variant)) != cell.digest(default.settings(variant))


def test_models_of_a_study(digits: DataSet, store: Path) -> None:
    """A tuning can take a study's models; they are the ones that it would have trained itself."""
    sizes = [100, 200, 300]
    study = conduct_study(
        plan_study(digits, models=["perceptron"], sizes=sizes, epochs=4, attacks=[]), kind="study"
    )
    taken = conduct_tuning(small_plan(digits, trials=1, models_from=study.run_id))
    trained = conduct_tuning(small_plan(digits, trials=1))
    assert torch.equal(taken.subjects.untuned.distance, trained.subjects.untuned.distance)
    with pytest.raises(InputError, match="no finished perceptron on 400 images"):
        conduct_tuning(small_plan(digits, models_from=study.run_id, sizes=[100, 200, 400]))
    with pytest.raises(InputError, match="no study with the run id"):
        conduct_tuning(small_plan(digits, models_from="absent"))


def workers_and_trials(finished: FinishedTuning, plan: TuningPlan) -> set[str]:
    """The processes that the finished trials ran in."""
    known = all_trials(plan)
    done = [trial for trial in known if trial.values and "worker" in trial.user_attrs]
    assert len(done) == finished.trials
    assert len(children(finished.run_id, "trial")) == len(known) - 1, "one child run a trial"
    return {trial.user_attrs["worker"] for trial in done}


@pytest.mark.slow
def test_two_workers_share_a_study_on_postgresql(digits: DataSet, store: Path, postgres: str) -> None:
    """Both processes run trials of one search, which ends when they have enough together."""
    plan = small_plan(digits, trials=40, workers=2, storage=postgres)
    finished = conduct_tuning(plan)
    assert 40 <= finished.trials <= 41
    assert len(workers_and_trials(finished, plan)) == 2
    again = conduct_tuning(plan)
    assert (again.trials, again.run_id) == (finished.trials, finished.run_id)
    assert all(run.info.status == "FINISHED" for run in children(finished.run_id, "trial"))


@pytest.mark.slow
# of the ask below, which a worker did that then died
@pytest.mark.filterwarnings("ignore:Heartbeat of storage:UserWarning")
def test_a_silent_workers_trial_is_started_again(
    digits: DataSet, store: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL a trial without a sign of life is failed and its constants are tried again."""
    monkeypatch.setattr("robustlab.study.tuning.storage._HEARTBEAT_S", 1)
    monkeypatch.setattr("robustlab.study.tuning.storage._GRACE_S", 2)
    plan = small_plan(digits, trials=1, storage=postgres, name="silent")
    conduct_tuning(plan)
    with open_storage(plan.storage) as storage:
        study = optuna.load_study(study_name=plan.name, storage=storage)
        lost = study.ask({dimension.name: dimension.distribution() for dimension in plan.space})
        storage.record_heartbeat(lost._trial_id)  # type: ignore[attr-defined]
    time.sleep(3)
    assert conduct_tuning(small_plan(digits, trials=2, storage=postgres, name="silent")).trials == 2
    after = all_trials(plan)
    assert after[lost.number].state.name == "FAIL"
    assert after[-1].params == lost.params
    assert after[-1].state.name in ("COMPLETE", "PRUNED")  # the constants were drawn at random
