"""The two stages of a cell, each complete in the store when it returns, each fit to be done again from the start."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from torch import Tensor

from robustlab.data import LabelledImages, nested_subsets, subset_digest
from robustlab.errors import InputError
from robustlab.shapes import Bool
from robustlab.study.attacking import attack_images
from robustlab.study.cell import Cell, CellResult
from robustlab.study.checkpoint import (
    CHECKPOINT,
    load_checkpoint,
    load_training_state,
    save_checkpoint,
    save_training_state,
)
from robustlab.study.claims import STAGE_TAG, TRAINED, check_owner
from robustlab.study.examples import save_examples
from robustlab.study.lineage import FILE_NAME as LINEAGE_FILE
from robustlab.study.lineage import lineage
from robustlab.study.model_log import ModelLog
from robustlab.study.patience import StoreLost
from robustlab.study.plan import StudyPlan, Variant
from robustlab.study.read_back import result_of
from robustlab.study.registry import MODEL_TAG, register_model
from robustlab.study.reuse import CORRECT_FILE, TRAINED_IN_TAG, TRAINING_TAG, earlier_training, read_correct
from robustlab.study.store import StudyStore, TrainingSubset
from robustlab.training import TrainingState, correctly_classified, initial_model, to_inputs, train

PROGRESS = "progress"
# A training keeps its state after the first epoch that ends this long after the last time.
KEEP_STATE_VARIABLE = "ROBUSTLAB_KEEP_STATE_S"
_KEEP_STATE_S = 60.0

ShowStage = Callable[[Cell, str, int, int, float], None]
"""Called with (cell, stage, done, total, share of the cell's training or attack work that is done)."""


def _show_nothing(cell: Cell, stage: str, done: int, total: int, share: float) -> None:
    pass


class Stages:
    """What a process needs to do cells of one study: the images on its device, and the traced graphs."""

    def __init__(self, plan: StudyPlan, store: StudyStore, owner: str, show: ShowStage | None = None) -> None:
        self.plan, self.store, self.owner = plan, store, owner
        self.dataset = plan.dataset.to(plan.device)
        self.model_log = ModelLog(store)
        self.show = show or _show_nothing
        self._subsets = lru_cache(maxsize=4)(self._nested_subsets)

    def _nested_subsets(self, seed: int) -> dict[int, Tensor]:
        data = self.plan.dataset
        return nested_subsets(data.train.labels, data.num_classes, self.plan.sizes, seed)

    def train(self, cell: Cell, run_id: str) -> Bool[Tensor, " images"]:
        """Train the cell's model and log it; returns which test images it gets right.

        The tag that says so is written last: a cell that has it needs no training again.

        Raises:
            TrainingDiverged: the loss is not finite.
            ClaimLost: another study took the cell over.
        """
        plan, dataset, store = self.plan, self.dataset, self.store
        variant = Variant(cell.model, cell.augmented)
        indices = self._subsets(cell.seed)[cell.train_size]
        subset = LabelledImages(
            dataset.train.images[indices.to(plan.device)], dataset.train.labels[indices.to(plan.device)]
        )
        identity = TrainingSubset(
            cell.dataset, subset_digest(plan.dataset.digest, indices), f"robustlab:{cell.dataset}"
        )
        store.describe_cell(run_id, cell, plan.settings(variant), identity)
        training_digest = plan.training_digest(cell, identity.digest)
        earlier = earlier_training(store, training_digest) if plan.reuse_models else None
        if earlier is not None:
            model, training = earlier.model.to(plan.device), earlier.training
            train_accuracy, correct = earlier.train_accuracy, earlier.correct
        else:
            model = initial_model(cell.model, dataset, subset, cell.seed).to(plan.device)
            training = train(
                model,
                subset,
                plan.recipes[cell.model],
                seed=cell.seed,
                augmentation=variant.augmentation(dataset),
                on_epoch=lambda done, total, _: self.show(cell, "training", done, total, done / total),
                on_state=_StateKeeper(store, run_id),
                resume=self._state(run_id),
            )
            train_accuracy = correctly_classified(model, subset).double().mean().item()
            correct = correctly_classified(model, dataset.test).cpu()
        test_accuracy = correct.double().mean().item()
        self.show(cell, "logging", 1, 1, 1.0)
        check_owner(store.client.get_run(run_id), self.owner)
        with store.artifacts(run_id) as folder:
            digest = save_checkpoint(
                model, cell.model, dataset.image_shape, dataset.num_classes, folder / CHECKPOINT
            )
            np.savez_compressed(folder / "train_indices.npz", train_indices=indices.numpy())
            np.savez_compressed(folder / CORRECT_FILE, correct=correct.numpy())
            made_with = lineage(plan.device) if earlier is None else earlier.lineage
            (folder / LINEAGE_FILE).write_text(json.dumps(made_with, indent=2) + "\n")
        tags = {
            "dataset": cell.dataset,
            "model": cell.variant,
            "train_size": str(cell.train_size),
            "seed": str(cell.seed),
            "test_accuracy": f"{test_accuracy:.6f}",
            "study": store.parent_run_id,
        }
        model_id = self.model_log.log(
            model, cell.registered_name, run_id, dataset.image_shape, dataset.num_classes, tags
        )
        store.log_series(run_id, "train_loss", range(1, len(training.losses) + 1), training.losses)
        metrics = {
            "train_accuracy": train_accuracy,
            "test_accuracy": test_accuracy,
            "train_s": training.train_s,
            "train_steps": training.steps,
        }
        store.log_metrics(run_id, metrics, model_id=model_id)
        done = {MODEL_TAG: model_id, "robustlab.weights_sha256": digest, TRAINING_TAG: training_digest}
        if earlier is not None:
            done[TRAINED_IN_TAG] = earlier.run_id
        store.log_tags(run_id, {**done, STAGE_TAG: TRAINED})
        store.delete_artifacts(run_id, PROGRESS)
        return correct

    def attack(self, cell: Cell, run_id: str, common_images: int, chosen: Tensor) -> CellResult:
        """Attack the model that ``train`` logged on the test images ``chosen``, register it, and end the run."""
        plan, store = self.plan, self.store
        inputs = to_inputs(self.dataset.test.images[chosen.to(plan.device)])
        labels = self.dataset.test.labels[chosen.to(plan.device)]
        with store.fetched(run_id, CHECKPOINT) as folder:
            model = load_checkpoint(folder).to(plan.device)

        def show(name: str, done: int, total: int) -> None:
            share = (plan.attacks.index(name) + (done / total if total else 1.0)) / len(plan.attacks)
            self.show(cell, name, done, total, share)

        attacked = attack_images(
            plan.attacks,
            model,
            inputs,
            labels,
            {"cw": plan.cw, "ifgsm": plan.ifgsm},
            show,
            check_images=plan.cross_check,
        )
        arrays: dict[str, np.ndarray] = {
            "test_indices": chosen.numpy(),
            "labels": labels.cpu().numpy(),
            **attacked.arrays,
        }
        metrics = {
            **attacked.metrics,
            "common_correct_images": common_images,
            "attacked_images": len(chosen) if plan.attacks else 0,
            "attack_s": attacked.attack_s,
        }
        with store.artifacts(run_id) as folder:
            np.savez_compressed(folder / "distances.npz", **arrays)  # type: ignore[arg-type]
            save_examples(folder, chosen, inputs, attacked.adv_inputs)
        run = store.client.get_run(run_id)
        store.log_metrics(run_id, metrics, model_id=run.data.tags.get(MODEL_TAG))
        store.log_tags(run_id, attacked.tags)
        run = store.client.get_run(run_id)
        check_owner(run, self.owner)
        result = result_of(run)
        # Before the run ends: a registered version and a finished cell always come together.
        register_model(store, plan, run, result)
        store.finish_cell(run_id)
        self.show(cell, "logging", 1, 1, 1.0)
        return result

    def correct_images(self, run_id: str) -> Bool[Tensor, " images"]:
        """Which test images a trained cell's model gets right, as ``train`` stored it."""
        return read_correct(self.store, run_id)

    def _state(self, run_id: str) -> TrainingState | None:
        """The newest whole state of an interrupted training, if it kept one."""
        states = []
        slots = [item.path for item in self.store.client.list_artifacts(run_id, PROGRESS)]
        for slot in slots:
            try:
                with self.store.fetched(run_id, slot) as folder:
                    states.append(load_training_state(folder))
            except StoreLost:
                raise
            except InputError:
                continue  # interrupted while it was written; the other slot is whole
        return max(states, key=lambda state: state.steps, default=None)


class _StateKeeper:
    """Keeps a training's state every minute, in turn under two names: one of them is whole at any moment.

    ROBUSTLAB_KEEP_STATE_S says after how many seconds instead; 0: after every epoch.
    """

    def __init__(self, store: StudyStore, run_id: str) -> None:
        self._store, self._run_id = store, run_id
        self._every_s = _keep_state_s()
        self._last, self._slot = time.monotonic(), 0

    def __call__(self, state: Callable[[], TrainingState]) -> None:
        if time.monotonic() - self._last < self._every_s:
            return
        with self._store.artifacts(self._run_id, f"{PROGRESS}/{self._slot}") as folder:
            save_training_state(state(), folder)
        self._last, self._slot = time.monotonic(), 1 - self._slot


def _keep_state_s() -> float:
    text = os.environ.get(KEEP_STATE_VARIABLE, str(_KEEP_STATE_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise InputError(f"{KEEP_STATE_VARIABLE} is {text!r}; give seconds from 0 on, or leave it out (60)")
    return seconds
