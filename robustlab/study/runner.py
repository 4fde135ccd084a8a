"""Work off the grid: train a curve's models, find the images they all get right, attack those, log everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from robustlab.data import LabelledImages, nested_subsets, subset_digest
from robustlab.robustness import common_correct
from robustlab.study.attacking import attack_images, chosen_images
from robustlab.study.cell import Cell, CellResult
from robustlab.study.checkpoint import save_checkpoint
from robustlab.study.examples import save_examples
from robustlab.study.model_log import ModelLog
from robustlab.study.plan import StudyPlan, Variant
from robustlab.study.store import StudyStore, TrainingSubset
from robustlab.study.work import attack_work, training_work
from robustlab.training import (
    TrainingDiverged,
    TrainingResult,
    correctly_classified,
    initial_model,
    to_inputs,
    train,
)


@dataclass(frozen=True)
class StudyProgress:
    """Where a study stands: ``done`` of ``total`` in the current stage, ``work`` the finished share of everything."""

    cell: Cell
    stage: str
    done: int
    total: int
    cells_done: int
    cells: int
    work: float


@dataclass(frozen=True)
class StudyOutcome:
    """What a study measured, and which cells failed for what reason."""

    results: list[CellResult] = field(default_factory=list)
    failures: dict[Cell, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedCell:
    """A trained model between its two stages, with which test images it gets right."""

    cell: Cell
    run_id: str
    model_id: str
    version: str
    model: nn.Module
    training: TrainingResult
    train_accuracy: float
    correct: Tensor


def run_study(
    plan: StudyPlan, store: StudyStore, on_progress: Callable[[StudyProgress], None] | None = None
) -> StudyOutcome:
    """Train and attack every cell of the plan; a cell that fails is recorded and left out, the others go on."""
    return _StudyRun(plan, store, on_progress).run()


class _StudyRun:
    """One pass over the grid; holds what the stages share."""

    def __init__(
        self, plan: StudyPlan, store: StudyStore, on_progress: Callable[[StudyProgress], None] | None
    ) -> None:
        self.plan = plan
        self.store = store
        self.dataset = plan.dataset.to(plan.device)
        self.model_log = ModelLog(store.client)
        self.outcome = StudyOutcome()
        self.open_runs: list[str] = []
        self._on_progress = on_progress
        self._work_done = 0.0
        self._work_total = sum(
            training_work(plan, cell) + attack_work(plan, cell)
            for variant, seed in plan.curves()
            for cell in plan.cells(variant, seed)
        )

    def run(self) -> StudyOutcome:
        try:
            for variant in self.plan.variants:
                for seed in self.plan.seeds:
                    self.run_curve(variant, seed)
        except BaseException as error:
            # Nothing may stay RUNNING for ever, whatever ended the study (Ctrl-C too).
            for run_id in self.open_runs:
                self.store.fail_cell(run_id, f"the study ended: {type(error).__name__}", "KILLED")
            raise
        return self.outcome

    def run_curve(self, variant: Variant, seed: int) -> None:
        """All sizes of one (variant, seed): they share the subsets and the common-correct images."""
        trained = []
        subsets = nested_subsets(
            self.plan.dataset.train.labels, self.plan.dataset.num_classes, self.plan.sizes, seed
        )
        for cell in self.plan.cells(variant, seed):
            trained_cell = self.train_cell(cell, variant, subsets[cell.train_size])
            if trained_cell is not None:
                trained.append(trained_cell)
            self._work_done += training_work(self.plan, cell)
        if not trained:
            return
        common = common_correct(torch.stack([one.correct for one in trained])).cpu()
        chosen = chosen_images(common, self.plan.dataset.test.labels, self.plan.attack_images)
        for one in trained:
            self.attack_cell(one, int(common.sum()), chosen)
            self._work_done += attack_work(self.plan, one.cell)

    def train_cell(self, cell: Cell, variant: Variant, indices: Tensor) -> TrainedCell | None:
        plan, dataset = self.plan, self.dataset
        settings = plan.settings(variant)
        subset = LabelledImages(
            dataset.train.images[indices.to(plan.device)], dataset.train.labels[indices.to(plan.device)]
        )
        identity = TrainingSubset(
            cell.dataset, subset_digest(plan.dataset.digest, indices), f"robustlab:{cell.dataset}"
        )
        run_id = self.store.start_cell(cell, cell.digest(settings), settings, identity)
        self.open_runs.append(run_id)
        model = initial_model(cell.model, dataset, subset, cell.seed).to(plan.device)
        try:
            training = train(
                model,
                subset,
                plan.recipes[cell.model],
                seed=cell.seed,
                augmentation=variant.augmentation(dataset),
                on_epoch=lambda done, total, _: self.report(
                    cell, "training", done, total, training_work(plan, cell)
                ),
            )
        except TrainingDiverged as error:
            self.fail(cell, run_id, str(error))
            return None
        train_accuracy = correctly_classified(model, subset).double().mean().item()
        correct = correctly_classified(model, dataset.test)
        test_accuracy = correct.double().mean().item()
        self.report(cell, "logging", 1, 1, training_work(plan, cell))
        with self.store.artifacts(run_id) as folder:
            save_checkpoint(
                model, cell.model, dataset.image_shape, dataset.num_classes, folder / "checkpoint"
            )
            np.savez_compressed(folder / "train_indices.npz", train_indices=indices.numpy())
        model_id, version = self.model_log.log(
            model,
            cell.registered_name,
            run_id,
            dataset.image_shape,
            dataset.num_classes,
            tags={
                "dataset": cell.dataset,
                "model": cell.variant,
                "train_size": str(cell.train_size),
                "seed": str(cell.seed),
                "test_accuracy": f"{test_accuracy:.6f}",
                "study": self.store.parent_run_id,
            },
            description=f"{cell.variant} trained on {cell.train_size:,} images of {cell.dataset}, seed {cell.seed}; "
            f"test accuracy {test_accuracy:.2%}. Takes images in [0, 1], returns logits.",
        )
        self.store.log_series(run_id, "train_loss", range(1, len(training.losses) + 1), training.losses)
        self.store.log_metrics(
            run_id,
            {
                "train_accuracy": train_accuracy,
                "test_accuracy": test_accuracy,
                "train_s": training.train_s,
                "train_steps": training.steps,
            },
            model_id=model_id,
        )
        return TrainedCell(cell, run_id, model_id, version, model, training, train_accuracy, correct)

    def attack_cell(self, trained: TrainedCell, common_images: int, chosen: Tensor) -> None:
        plan, cell, run_id = self.plan, trained.cell, trained.run_id
        inputs = to_inputs(self.dataset.test.images[chosen.to(plan.device)])
        labels = self.dataset.test.labels[chosen.to(plan.device)]
        work = attack_work(plan, cell)

        def show(name: str, done: int, total: int) -> None:
            share = work / len(plan.attacks)
            self.report(cell, name, done, total, share, before=plan.attacks.index(name) * share)

        attacked = attack_images(
            plan.attacks, trained.model, inputs, labels, {"cw": plan.cw, "ifgsm": plan.ifgsm}, show
        )
        arrays: dict[str, np.ndarray] = {
            "test_indices": chosen.numpy(),
            "labels": labels.cpu().numpy(),
            **attacked.arrays,
        }
        metrics = {
            **attacked.metrics,
            "common_correct_images": common_images,
            "attacked_images": len(chosen),
            "attack_s": attacked.attack_s,
        }
        with self.store.artifacts(run_id) as folder:
            np.savez_compressed(folder / "distances.npz", **arrays)  # type: ignore[arg-type]
            save_examples(folder, chosen, inputs, attacked.adv_inputs)
        self.store.log_metrics(run_id, metrics, model_id=trained.model_id)
        warnings = {sentence for score in attacked.scores.values() for sentence in score.warnings}
        tags = dict(attacked.engine)
        if warnings:
            tags["robustlab.warning"] = "; ".join(sorted(warnings))
        if tags:
            self.store.log_tags(run_id, tags)
        for norm, score in attacked.scores.items():
            if score.mean is not None:
                self.store.client.set_model_version_tag(
                    cell.registered_name, trained.version, norm, f"{score.mean:.6f}"
                )
        self.store.finish_cell(run_id)
        self.open_runs.remove(run_id)
        l2, linf = attacked.scores.get("l2"), attacked.scores.get("linf")
        self.outcome.results.append(
            CellResult(
                cell=cell,
                train_accuracy=trained.train_accuracy,
                test_accuracy=trained.correct.double().mean().item(),
                l2=l2.mean if l2 else None,
                linf=linf.mean if linf else None,
                images=len(chosen) if plan.attacks else 0,
                l2_success_rate=l2.success_rate if l2 else None,
                linf_success_rate=linf.success_rate if linf else None,
                train_s=trained.training.train_s,
                attack_s=attacked.attack_s,
            )
        )
        self.report(cell, "logging", 1, 1, work)

    def fail(self, cell: Cell, run_id: str, reason: str) -> None:
        self.store.fail_cell(run_id, reason)
        self.open_runs.remove(run_id)
        self.outcome.failures[cell] = reason

    def report(self, cell: Cell, stage: str, done: int, total: int, work: float, before: float = 0.0) -> None:
        if self._on_progress is None:
            return
        share = before + work * (done / total if total else 1.0)
        cells_done = len(self.outcome.results) + len(self.outcome.failures)
        fraction = min(1.0, (self._work_done + share) / self._work_total)
        self._on_progress(StudyProgress(cell, stage, done, total, cells_done, self.plan.cell_count, fraction))
