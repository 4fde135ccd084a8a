"""The models of a study that was run before, to tune on instead of training new ones."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from torch import nn

from robustlab.errors import InputError
from robustlab.study.artifacts import fetch_files
from robustlab.study.checkpoint import CHECKPOINT, load_checkpoint
from robustlab.study.plan import Variant
from robustlab.study.read_back import find_study
from robustlab.study.tuning.plan import TuningPlan
from robustlab.study.tuning.subjects import subject_name


def study_models(plan: TuningPlan) -> dict[str, nn.Module]:
    """One model per variant and size of the plan, by ``subject_name``, from the study's checkpoints.

    Raises:
        InputError: no such study, another data set, a size that it has no finished model of.
    """
    client = MlflowClient()
    study = find_study(client, plan.models_from)
    cells = client.search_runs(
        [study.info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{study.info.run_id}' and attributes.status = 'FINISHED'",
        max_results=1000,
    )
    models: dict[str, nn.Module] = {}
    for variant in plan.variants:
        models |= _of_variant(
            plan, variant, [c for c in cells if c.data.tags.get("robustlab.kind") == "cell"]
        )
    return models


def _of_variant(plan: TuningPlan, variant: Variant, cells: Sequence[Run]) -> dict[str, nn.Module]:
    wanted = {
        "dataset": plan.dataset.name,
        "model": variant.model,
        "augmented": str(variant.augmented).lower(),
        "seed": str(plan.train_seed),
    }
    fitting = {
        int(cell.data.params["train_size"]): cell
        for cell in cells
        if all(cell.data.params.get(key) == value for key, value in wanted.items())
    }
    models = {}
    with tempfile.TemporaryDirectory(prefix="robustlab-") as folder:
        for size in plan.sizes:
            cell = fitting.get(size)
            if cell is None:
                have = ", ".join(map(str, sorted(fitting))) or "none"
                raise InputError(
                    f"the study {plan.models_from} has no finished {variant} on {size} images of "
                    f"{plan.dataset.name} with seed {plan.train_seed}; its sizes: {have}"
                )
            if cell.data.params.get("dataset_digest") != plan.dataset.digest:
                raise InputError(
                    f"the study {plan.models_from} was run on another version of {plan.dataset.name}"
                )
            there = Path(folder) / str(size)
            there.mkdir()
            place = fetch_files(MlflowClient(), cell, CHECKPOINT, there)
            models[subject_name(variant, size)] = load_checkpoint(place).to(plan.device)
    return models
