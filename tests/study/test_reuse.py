"""A model is trained once: other attacks, sizes and verbs take it from the study that trained it."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from robustlab.study import stages
from robustlab.study.checkpoint import WEIGHTS_FILE
from robustlab.study.conduct import FinishedStudy, conduct_study
from robustlab.study.reuse import TRAINED_IN_TAG
from tests.study.test_study import children, small_plan

FEW = {"sizes": [100, 200], "seeds": [0], "epochs": 2, "attack_images": 3}


def by_size(finished: FinishedStudy) -> dict[str, Run]:
    """The study's cells by training size."""
    return {run.data.params["train_size"]: run for run in children(MlflowClient(), finished)}


def refuse_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on a training is a failure, and so is asking a model for its accuracies."""

    def known(*_: object, **__: object) -> None:
        raise AssertionError("this model was trained before")

    monkeypatch.setattr(stages, "train", known)
    monkeypatch.setattr(stages, "correctly_classified", known)


def test_other_attacks_take_the_trained_models(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First only trained, then attacked: same weights, accuracies, losses and lineage, and said where they are from."""
    trained = by_size(conduct_study(small_plan(**FEW, attacks=[]), "train"))
    refuse_training(monkeypatch)
    attacked = conduct_study(small_plan(**FEW))
    assert not attacked.outcome.failures
    for size, run in by_size(attacked).items():
        origin = trained[size]
        assert run.data.tags[TRAINED_IN_TAG] == origin.info.run_id
        for name in ("test_accuracy", "train_accuracy", "train_s", "train_steps"):
            assert run.data.metrics[name] == origin.data.metrics[name]
        assert run.data.metrics["l2"] > 0
        assert run.data.tags["robustlab.weights_sha256"] == origin.data.tags["robustlab.weights_sha256"]
        client = MlflowClient()
        losses = [
            [point.value for point in client.get_metric_history(one.info.run_id, "train_loss")]
            for one in (origin, run)
        ]
        assert losses[0] == losses[1]
        assert len(losses[0]) == 2


def test_a_model_of_a_third_study_names_the_run_that_trained_it(store: Path) -> None:
    """Not the one in between."""
    first = by_size(conduct_study(small_plan(**FEW, attacks=[]), "train"))
    conduct_study(small_plan(**FEW, attacks=["ifgsm"]))
    third = by_size(conduct_study(small_plan(**FEW)))
    assert {run.data.tags[TRAINED_IN_TAG] for run in third.values()} == {
        run.info.run_id for run in first.values()
    }


@pytest.mark.parametrize(
    "other",
    [
        {"epochs": 3},
        {"recipe": {"learning_rate": 0.01}},
        {"recipe": {"precision": "bf16"}},
        {"train_budget": "steps"},
    ],
)
def test_another_recipe_is_another_training(other: dict[str, object]) -> None:
    """Anything that changes the weights changes the digest; attacks and further sizes do not."""

    def digest(subset: str = "a", **options: object) -> str:
        plan = small_plan(**{**FEW, **options})
        return plan.training_digest(plan.cells(plan.variants[0], plan.seeds[0])[0], subset)

    assert digest(**other) != digest()
    assert digest("b") != digest()
    assert digest(seeds=[1]) != digest()
    assert digest(attacks=[], sizes=[100], attack_images=5) == digest()


def test_fresh_trains_again(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--fresh` takes nothing over, neither cells nor models."""
    settings = {**FEW, "sizes": [100], "attacks": []}
    conduct_study(small_plan(**settings), "train")
    refuse_training(monkeypatch)
    with pytest.raises(AssertionError, match="trained before"):
        conduct_study(small_plan(**settings), "train", fresh=True)


def test_a_damaged_model_is_trained_again(store: Path) -> None:
    """A checkpoint whose digest does not hold is no model."""
    settings = {**FEW, "sizes": [100]}
    trained = by_size(conduct_study(small_plan(**settings, attacks=[]), "train"))["100"]
    weights = Path(trained.info.artifact_uri.removeprefix("file://")) / "checkpoint" / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-8])
    again = by_size(conduct_study(small_plan(**settings)))["100"]
    assert TRAINED_IN_TAG not in again.data.tags
    tag = "robustlab.weights_sha256"
    assert again.data.tags[tag] == trained.data.tags[tag]
