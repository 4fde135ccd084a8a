"""What a process that is not the study's own needs to do the study's tasks."""

from __future__ import annotations

import os
from dataclasses import replace

import mlflow
import torch
from mlflow import MlflowClient

from robustlab.study.plan import StudyPlan
from robustlab.study.stages import Stages
from robustlab.study.store import StudyStore

# Lost processes only: an error of the task itself comes back at the first attempt.
MOST_RETRIES = 5


def open_stages(
    plan: StudyPlan, kind: type[Stages], study: str, owner: str, device: str, store_uri: str
) -> Stages:
    """The stages of a study for this process, on ``device``; the store is reached by its address alone."""
    from robustlab.study.conduct import use_cpu_threads

    mlflow.set_tracking_uri(store_uri)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    plan = replace(plan, device=torch.device(device))
    use_cpu_threads(plan)
    store = StudyStore(MlflowClient().get_run(study))
    # MLflow files logged models under the active experiment.
    mlflow.set_experiment(experiment_id=store.experiment_id)
    return kind(plan, store, owner)
