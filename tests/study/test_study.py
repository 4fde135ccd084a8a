"""A small study inside this process: what MLflow holds afterwards is what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from robustlab.attacks import IFGSM, CarliniWagnerL2
from robustlab.data import DataSet, LabelledImages, load_dataset
from robustlab.errors import InputError
from robustlab.study import stages
from robustlab.study.checkpoint import load_checkpoint
from robustlab.study.conduct import FinishedStudy, conduct_study
from robustlab.study.examples import read_examples
from robustlab.study.model_log import load_logged_model
from robustlab.study.plan import StudyPlan, plan_study
from robustlab.study.read_back import find_studies, find_study, read_results
from robustlab.study.report import judge_studies, read_study
from robustlab.study.runner import StudyProgress
from robustlab.study.ui_view import prepare_experiment
from robustlab.training import TrainingDiverged, correctly_classified, to_inputs

QUICK_CW = CarliniWagnerL2(binary_search_steps=3, max_iterations=30)
QUICK_IFGSM = IFGSM(steps=5, tolerance=0.1)


def small_digits(test_images: int = 100) -> DataSet:
    """The digits with fewer test images."""
    digits = load_dataset("digits")
    return replace(
        digits, test=LabelledImages(digits.test.images[:test_images], digits.test.labels[:test_images])
    )


def small_plan(**options: object) -> StudyPlan:
    """Two sizes, two seeds, few images."""
    settings: dict[str, object] = {
        "models": ["perceptron"],
        "sizes": [100, 200],
        "seeds": [0, 1],
        "attack_images": 12,
        "epochs": 10,
        "cw": QUICK_CW,
        "ifgsm": QUICK_IFGSM,
        "device": torch.device("cpu"),
    }
    return plan_study(small_digits(), **{**settings, **options})  # type: ignore[arg-type]


@pytest.fixture
def finished(store: Path) -> FinishedStudy:
    """The small study, run."""
    return conduct_study(small_plan())


def children(client: MlflowClient, finished: FinishedStudy) -> list[mlflow.entities.Run]:
    """The study's child runs."""
    parent = client.get_run(finished.run_id)
    return client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{finished.run_id}'", max_results=100
    )


def test_the_store_holds_what_was_measured(finished: FinishedStudy, store: Path) -> None:
    """Parent, curves, children, scores, artifacts, registered models: all there and consistent."""
    client = MlflowClient()
    parent = client.get_run(finished.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["robustlab.kind"] == "study"
    results = finished.outcome.results
    assert len(results) == 4

    curve = client.get_metric_history(finished.run_id, "l2/perceptron")
    assert [point.step for point in curve] == [100, 200]
    of_100 = [result.l2 for result in results if result.cell.train_size == 100]
    assert curve[0].value == pytest.approx(sum(of_100) / 2)  # type: ignore[arg-type]
    for name in ("test_accuracy", "train_accuracy", "linf", "attacked_images"):
        assert len(client.get_metric_history(finished.run_id, f"{name}/perceptron")) == 2

    runs = children(client, finished)
    assert len(runs) == 4
    digests = set()
    for run in runs:
        assert run.info.status == "FINISHED"
        metrics, params = run.data.metrics, run.data.params
        result = next(
            result
            for result in results
            if (str(result.cell.train_size), str(result.cell.seed)) == (params["train_size"], params["seed"])
        )
        assert metrics["l2"] == result.l2
        assert metrics["linf"] == result.linf
        assert metrics["l2_success_rate"] == metrics["linf_success_rate"] == 1.0
        assert metrics["attacked_images"] == 12
        assert metrics["cross_check_images"] == 8
        assert metrics["l2_unstable_images"] == metrics["images_without_verdict"] == 0
        assert metrics["train_s"] > 0
        assert params["recipe.epochs"] == "10"
        assert params["cw.max_iterations"] == "30"
        digests.add(run.inputs.dataset_inputs[0].dataset.digest)
        stored = np.load(Path(run.info.artifact_uri.removeprefix("file://")) / "distances.npz")
        assert float(stored["l2_distance"].astype(np.float64).mean()) == pytest.approx(metrics["l2"])
        assert stored["test_indices"].shape == (12,)
    assert len(digests) == 4, "each subset has a digest of its own"

    versions = client.search_model_versions("name = 'digits-perceptron'")
    assert len(versions) == 4
    assert {(v.tags["train_size"], v.tags["seed"]) for v in versions} == {
        ("100", "0"), ("100", "1"), ("200", "0"), ("200", "1"),
    }  # fmt: skip
    assert all("l2" in version.tags for version in versions)
    assert Path(finished.figure).is_file()
    assert Path(finished.figure).with_suffix(".svg").is_file()
    assert (Path(finished.figure).parent / "results.csv").read_text().count("\n") == 5


def test_the_study_ends_with_a_report(finished: FinishedStudy, store: Path) -> None:
    """Report among the parent's artifacts, a verdict per curve as its tag, the same verdicts read back later."""
    client = MlflowClient()
    run = client.get_run(finished.run_id)
    page = Path(finished.report).read_text()
    assert Path(finished.report).parent == Path(finished.figure).parent
    assert "12 images are too few to test" in page
    assert run.data.tags["verdict.l2.perceptron"] == run.data.tags["verdict.linf.perceptron"] == "undecided"
    study = read_study(client, run)
    assert study.unfinished == []
    assert study.dataset["test_images"] == 100
    assert len(study.packages) > 20
    assert finished.judgement is not None
    again = judge_studies([study])
    assert list(again.verdicts) == list(finished.judgement.verdicts)
    for key, curve in again.curves.items():
        assert curve is not None
        assert curve.scores == pytest.approx(
            [np.mean([getattr(r, key.norm) for r in finished.outcome.results if r.cell.train_size == size])
             for size in (100, 200)]
        )  # fmt: skip


def test_kept_examples_are_the_adversarial_images(finished: FinishedStudy, store: Path) -> None:
    """The stored pictures have the stored distances, and the model takes them for the stored labels."""
    client = MlflowClient()
    test = small_digits().test
    for run in children(client, finished):
        folder = Path(run.info.artifact_uri.removeprefix("file://"))
        stored = np.load(folder / "distances.npz")
        model = load_checkpoint(folder / "checkpoint")
        for norm, order in (("l2", 2), ("linf", np.inf)):
            kept = read_examples(folder / "examples.npz")[norm]
            assert np.array_equal(kept.test_indices, stored["test_indices"][:4])
            clean = to_inputs(test.images[kept.test_indices]).numpy()
            assert np.array_equal(kept.inputs, clean)
            lengths = np.linalg.norm(kept.perturbations.reshape(4, -1), ord=order, axis=1)
            assert lengths == pytest.approx(stored[f"{norm}_distance"][:4], rel=0.02)
            assert (stored[f"{norm}_adv_labels"] != stored["labels"]).all()
            # Rounded to 127 steps an image may fall back over the boundary that it was just beyond; a tenth
            # further out it does not.
            far = torch.from_numpy((kept.inputs + 1.1 * kept.perturbations).clip(0, 1))
            assert (model(far).argmax(1).numpy() == stored[f"{norm}_adv_labels"][:4]).all()


def test_the_experiment_gets_its_view_once(finished: FinishedStudy, store: Path) -> None:
    """The UI's view holds our columns; a description that a user wrote stays."""
    client = MlflowClient()
    experiment = client.get_run(finished.run_id).info.experiment_id
    tags = client.get_experiment(experiment).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert "metrics.`l2`" in json.loads(tags["mlflow.sharedViewState.robustlab"])["selectedColumns"]
    client.set_experiment_tag(experiment, "mlflow.note.content", "mine")
    prepare_experiment(client, experiment)
    assert client.get_experiment(experiment).tags["mlflow.note.content"] == "mine"


def test_studies_are_found_by_id_name_and_list(finished: FinishedStudy, store: Path) -> None:
    """Names hold commas themselves; lists of ids are split; each study comes once; a wrong one is named."""
    client = MlflowClient()
    name = client.get_run(finished.run_id).info.run_name
    found = [
        find_studies(client, texts)
        for texts in ([name], [finished.run_id, name], [f"{finished.run_id},{name}"])
    ]
    assert [[run.info.run_id for run in runs] for runs in found] == [[finished.run_id]] * 3
    with pytest.raises(InputError, match="'nothing'"):
        find_studies(client, [f"{finished.run_id},nothing"])


# torch 2.11's loader warns of its own buffers
@pytest.mark.filterwarnings("ignore::UserWarning:torch.export")
def test_registered_models_load_without_pickle_and_give_the_logged_accuracy(
    finished: FinishedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every version, though all but the first were saved into the first one's graph, answers as its own checkpoint."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_ALLOW_MODEL_CODE_EXECUTION", "false")
    client = MlflowClient()
    test = small_digits().test
    seen = set()
    for version in client.search_model_versions("name = 'digits-perceptron'"):
        loaded = load_logged_model(f"models:/digits-perceptron/{version.version}")
        run = client.get_run(version.run_id)
        checkpoint = load_checkpoint(Path(run.info.artifact_uri.removeprefix("file://")) / "checkpoint")
        logits = loaded(to_inputs(test.images))
        assert torch.equal(logits, checkpoint(to_inputs(test.images)))
        accuracy = correctly_classified(loaded, test).double().mean().item()
        assert accuracy == run.data.metrics["test_accuracy"]
        seen.add(float(logits.detach().sum()))
    assert len(seen) == 4, "four different models"


def test_a_study_is_repeatable(store: Path) -> None:
    """The same plan twice gives the same accuracies and distances to the bit."""
    plan = small_plan(seeds=[0], models=["resnet"], epochs=3)
    first, second = conduct_study(plan), conduct_study(plan, fresh=True)
    for one, other in zip(first.outcome.results, second.outcome.results, strict=True):
        assert (one.l2, one.linf, one.test_accuracy) == (other.l2, other.linf, other.test_accuracy)


def test_results_can_be_read_back(finished: FinishedStudy) -> None:
    """`report` sees what the study printed, by id, by name, and as the newest study."""
    client = MlflowClient()
    expected = sorted(finished.outcome.results, key=lambda result: result.cell)
    by_id = find_study(client, finished.run_id)
    assert read_results(client, by_id) == expected
    assert find_study(client, by_id.info.run_name).info.run_id == finished.run_id
    assert find_study(client, None).info.run_id == finished.run_id


def test_a_diverged_cell_fails_alone(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell's run says why, the other cells have scores, the parent names the failure."""
    train = stages.train

    def train_or_diverge(model, subset, *args, **kwargs):  # type: ignore[no-untyped-def]
        if len(subset.labels) == 200:
            raise TrainingDiverged("the training loss was nan in epoch 1 of 3")
        return train(model, subset, *args, **kwargs)

    monkeypatch.setattr(stages, "train", train_or_diverge)
    finished = conduct_study(small_plan(sizes=[100, 200, 300], seeds=[0]))
    assert [result.cell.train_size for result in finished.outcome.results] == [100, 300]
    assert [cell.train_size for cell in finished.outcome.failures] == [200]
    client = MlflowClient()
    failed = [run for run in children(client, finished) if run.info.status == "FAILED"]
    assert len(failed) == 1
    assert "nan" in failed[0].data.tags["robustlab.failure"]
    assert "200 seed 0" in client.get_run(finished.run_id).data.tags["robustlab.failures"]


def test_an_interrupted_study_leaves_nothing_running(store: Path) -> None:
    """Ctrl-C ends the open cells as KILLED and the parent as FAILED."""

    def interrupt(progress: StudyProgress) -> None:
        if progress.stage == "cw":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conduct_study(small_plan(seeds=[0]), on_progress=interrupt)
    runs = MlflowClient().search_runs(["1"], max_results=100)
    assert sorted(run.info.status for run in runs) == ["FAILED", "KILLED", "KILLED"]


def test_progress_only_rises_and_ends_at_one(store: Path) -> None:
    """The share of the work that the display shows never falls, and the last report is the end."""
    seen: list[StudyProgress] = []
    conduct_study(small_plan(), on_progress=seen.append)
    shares = [progress.work for progress in seen]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert {progress.stage for progress in seen} == {"training", "logging", "cw", "ifgsm"}


def test_training_only_makes_models_without_scores(store: Path) -> None:
    """Without attacks the cells have accuracies and registered models, and no distortion is claimed."""
    finished = conduct_study(small_plan(seeds=[0], attacks=[]), kind="train")
    assert finished.figure == ""
    assert all(result.l2 is None and result.linf is None for result in finished.outcome.results)
    assert len(MlflowClient().search_model_versions("name = 'digits-perceptron'")) == 2
