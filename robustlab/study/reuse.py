"""Models that an earlier study trained exactly so, whatever it attacked them with: they need no training again."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from mlflow.entities import Run
from torch import Tensor, nn

from robustlab.errors import InputError
from robustlab.shapes import Bool
from robustlab.study.artifacts import read_arrays
from robustlab.study.checkpoint import CHECKPOINT, load_checkpoint
from robustlab.study.claims import STAGE_TAG, TRAINED
from robustlab.study.lineage import FILE_NAME as LINEAGE_FILE
from robustlab.study.patience import StoreLost
from robustlab.study.store import StudyStore
from robustlab.training import TrainingResult

TRAINING_TAG = "robustlab.training"
TRAINED_IN_TAG = "robustlab.trained_in"
CORRECT_FILE = "correct.npz"
_MOST_LOOKED_AT = 5


@dataclass(frozen=True)
class EarlierTraining:
    """A trained model, the run that trained it, with what (``lineage``), and what was found there.

    ``train_accuracy`` is over the training images, ``correct`` (T,) says which test images it gets right.
    """

    run_id: str
    model: nn.Module
    training: TrainingResult
    lineage: dict[str, str]
    train_accuracy: float
    correct: Bool[Tensor, " images"]


def earlier_training(store: StudyStore, digest: str) -> EarlierTraining | None:
    """The newest whole model in the experiment whose training has this digest, on the CPU; None where there is none."""
    found = store.client.search_runs(
        [store.experiment_id],
        f"tags.`{TRAINING_TAG}` = '{digest}' and tags.`{STAGE_TAG}` = '{TRAINED}'",
        max_results=_MOST_LOOKED_AT,
    )
    for run in found:
        try:
            return _read(store, run)
        except StoreLost:
            raise
        except (InputError, ValueError, KeyError):
            continue  # its artifacts were deleted or damaged; another may be whole, else it is trained again
    return None


def _read(store: StudyStore, run: Run) -> EarlierTraining:
    run_id = run.info.run_id
    with store.fetched(run_id, CHECKPOINT) as folder:
        model = load_checkpoint(folder)
    with store.fetched(run_id, LINEAGE_FILE) as path:
        lineage = json.loads(path.read_text())
    losses = sorted(store.client.get_metric_history(run_id, "train_loss"), key=lambda metric: metric.step)
    training = TrainingResult(
        tuple(metric.value for metric in losses),
        int(run.data.metrics["train_steps"]),
        run.data.metrics["train_s"],
    )
    return EarlierTraining(
        run.data.tags.get(TRAINED_IN_TAG, run_id),
        model,
        training,
        lineage,
        run.data.metrics["train_accuracy"],
        read_correct(store, run_id),
    )


def read_correct(store: StudyStore, run_id: str) -> Bool[Tensor, " images"]:
    """Which test images a trained cell's model gets right, as was stored when it was trained."""
    with store.fetched(run_id, CORRECT_FILE) as path:
        return torch.from_numpy(read_arrays(path)["correct"])
