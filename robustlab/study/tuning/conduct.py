"""A whole tuning: the parent run, the models and the reference once, the search, and what is kept of it."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlflow
import optuna
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from robustlab import __version__
from robustlab.errors import InputError
from robustlab.study.artifacts import digests, fetch_files, log_folder
from robustlab.study.parent import parent_run
from robustlab.study.secrets import without_password
from robustlab.study.store import StudyStore, run_page, ui_command
from robustlab.study.tuning.choice import Choice, choose, evidence, front_choices, front_table
from robustlab.study.tuning.constants_file import FILE_NAME, ChosenConstants, write_constants
from robustlab.study.tuning.judgement import judge
from robustlab.study.tuning.models import study_models
from robustlab.study.tuning.plan import TuningPlan
from robustlab.study.tuning.plots import PAGE, whole_trials, write_plots
from robustlab.study.tuning.storage import (
    PRUNED_AFTER,
    bury_dead_trials,
    open_storage,
)
from robustlab.study.tuning.subjects import (
    Subjects,
    load_subjects,
    make_subjects,
    save_subjects,
    train_models,
)
from robustlab.study.tuning.trials import (
    Search,
    add_starts,
    add_untuned,
    end_child,
    finished_trials,
    open_search,
    run_trials,
    start_child,
)
from robustlab.study.tuning.workers import SUBJECTS, Assignment, RunWorkers, work_in_processes

# User attributes of the Optuna study: which settings it is for, and the run that its trials hang on.
_SETTINGS, _PARENT = "settings", "parent_run_id"


@dataclass(frozen=True)
class TuningProgress:
    """Where a tuning stands: ``done`` of ``total`` in a stage; ``trials`` finished; the best so far, if any."""

    stage: str
    done: int
    total: int
    trials: int
    pruned: int
    trials_wanted: int
    best: Choice | None


@dataclass(frozen=True)
class FinishedTuning:
    """What the user is told at the end."""

    plan: TuningPlan
    choice: Choice
    subjects: Subjects
    run_id: str
    trials: int
    pruned: int
    constants_file: str
    ui_command: str
    run_page: str


OnProgress = Callable[[TuningProgress], None]


def conduct_tuning(
    plan: TuningPlan, on_progress: OnProgress | None = None, run_workers: RunWorkers | None = None
) -> FinishedTuning:
    """Run the plan, or go on with it where an interrupted one stopped.

    Args:
        run_workers: where trials are run; None: in processes of this machine if the plan asks for several, else here.

    Raises:
        InputError: a storage that cannot be used, a name taken by other settings, no image to tune on.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with open_storage(plan.storage) as storage:
        study = open_search(storage, plan.name, _search(plan))
        if run_workers is None and plan.workers > 1:
            run_workers = work_in_processes
        return _conduct(plan, study, on_progress, run_workers)


def _conduct(
    plan: TuningPlan, study: optuna.Study, on_progress: OnProgress | None, run_workers: RunWorkers | None
) -> FinishedTuning:
    threads = _use_cpu_threads(plan)
    search = _search(plan)
    _check_settings(study, plan)
    bury_dead_trials(study)
    parent = study.user_attrs.get(_PARENT)
    known = parent if parent and _run_exists(parent) else None
    with (
        tempfile.TemporaryDirectory(prefix="robustlab-") as folder,
        parent_run(f"tune {plan.name}", _tags(plan), _description(plan), run_id=known) as run,
    ):
        store = StudyStore(run)
        store.log_params(store.parent_run_id, _params(plan))
        if known and known != store.parent_run_id:
            store.log_tags(store.parent_run_id, {"robustlab.goes_on_from": known})
        progress = _Reporter(plan, study, on_progress)
        subjects, place = _prepare(plan, store, study, known, Path(folder), progress)
        add_untuned(study, search, subjects)
        add_starts(study, plan.space, plan.starts)
        progress.subjects = subjects
        try:
            if run_workers is not None:
                assignment = Assignment(
                    search,
                    plan.name,
                    plan.storage,
                    mlflow.get_tracking_uri(),
                    store.parent_run_id,
                    place,
                    str(plan.device),
                    max(1, threads // plan.workers),
                )
                progress("trials", 0, 1)
                failed = run_workers(assignment, plan.workers, lambda: progress("trials", 0, 1))
                if failed:
                    store.log_tags(store.parent_run_id, {"robustlab.failed_workers": str(failed)})
            # All trials, or what workers that died have left over.
            run_trials(
                study, search, subjects, store, on_batch=lambda done, all_: progress("trial", done, all_)
            )
        finally:
            bury_dead_trials(study)
        progress("trials", 1, 1)
        choice = _log_results(plan, store, study, subjects)
        trials = finished_trials(study)
        return FinishedTuning(
            plan,
            choice,
            subjects,
            store.parent_run_id,
            len(trials),
            sum(PRUNED_AFTER in trial.user_attrs for trial in trials),
            store.local_artifact(store.parent_run_id, FILE_NAME),
            ui_command(),
            run_page(store.experiment_id, store.parent_run_id),
        )


class _Reporter:
    """Tells the caller where the tuning stands; looks trials up only when their number can have changed."""

    def __init__(self, plan: TuningPlan, study: optuna.Study, on_progress: OnProgress | None) -> None:
        self.plan, self.study, self.on_progress = plan, study, on_progress
        self.subjects: Subjects | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self.on_progress is None:
            return
        trials = finished_trials(self.study)
        pruned = sum(PRUNED_AFTER in trial.user_attrs for trial in trials)
        best = None if self.subjects is None else choose(self.study, self.plan, self.subjects)
        self.on_progress(TuningProgress(stage, done, total, len(trials), pruned, self.plan.trials, best))


def _prepare(
    plan: TuningPlan,
    store: StudyStore,
    study: optuna.Study,
    known: str | None,
    folder: Path,
    report: Callable[[str, int, int], None],
) -> tuple[Subjects, Path]:
    """The models, images, reference and defaults: from the run that this one goes on from, else made and logged."""
    if known:
        # Interrupted before they were logged, they are made again, the same.
        run = store.client.get_run(known)
        if digests(run, SUBJECTS):
            place = fetch_files(store.client, run, SUBJECTS, folder)
            return load_subjects(place, plan.device), place
    dataset = plan.dataset.to(plan.device)
    if plan.models_from:
        models = study_models(plan)
    else:
        models = {}
        for variant in plan.variants:
            recipe = plan.recipes[variant.model]
            models |= train_models(dataset, variant, plan.sizes, recipe, plan.train_seed, report)
    subjects = make_subjects(dataset, models, plan.reference, plan.images, report)
    place = folder / SUBJECTS
    place.mkdir()
    save_subjects(subjects, dataset, place)
    log_folder(store.client, store.parent_run_id, place, SUBJECTS)
    store.log_metrics(
        store.parent_run_id,
        {
            "tuning.images": len(subjects.labels),
            "tuning.slice_images": subjects.slice_images,
            "tuning.common_correct_images": subjects.common,
            "tuning.images_the_reference_missed": subjects.missed,
        },
    )
    untuned = start_child(store, "untuned defaults", "untuned", plan.attack, plan.untuned)
    end_child(store, untuned, judge(subjects.untuned, subjects.reference).metrics(), "complete")
    named = {"robustlab.kind": "reference", "robustlab.attack": plan.attack}
    reference = store.start_child(f"reference {plan.reference}", named, {"reference": plan.reference.title})
    end_child(store, reference, judge(subjects.reference, subjects.reference).metrics(), "complete")
    study.set_user_attr(_PARENT, store.parent_run_id)
    return subjects, place


def _log_results(plan: TuningPlan, store: StudyStore, study: optuna.Study, subjects: Subjects) -> Choice:
    """Log the chosen constants with their evidence, the front, all trials and the plots to the parent."""
    choice = choose(study, plan, subjects)
    trials = finished_trials(study)
    origin = f"tuned, runs:/{store.parent_run_id}"
    found = ChosenConstants(choice.constants, origin, evidence(choice, plan, subjects, len(trials)))
    with store.artifacts(store.parent_run_id) as folder:
        write_constants(folder / FILE_NAME, {plan.attack: found})
        (folder / "front").mkdir()
        for point in front_choices(study, plan, subjects):
            one = ChosenConstants(point.constants, origin, evidence(point, plan, subjects, len(trials)))
            write_constants(folder / "front" / f"trial-{point.trial}.json", {plan.attack: one})
        (folder / "front.json").write_text(json.dumps(front_table(study, plan), indent=2) + "\n")
        _write_trials(study, plan, folder / "trials.csv")
        write_plots(study, folder / PAGE)
    measured = {
        f"{side}.{key}": value
        for side, one in (
            ("tuned", choice.judgement),
            ("untuned", choice.untuned),
            ("reference", choice.reference),
        )
        for key, value in one.metrics().items()
    }
    pruned = sum(PRUNED_AFTER in trial.user_attrs for trial in trials)
    counts = {"trials": len(trials), "pruned_trials": pruned, "within_tolerance": float(choice.within)}
    store.log_metrics(store.parent_run_id, measured | counts)
    return choice


def _write_trials(study: optuna.Study, plan: TuningPlan, path: Path) -> None:
    """One row per finished trial: state, values, searched constants."""
    whole = {trial.number for trial in whole_trials(study)}
    names = [dimension.name for dimension in plan.space]
    keys = ["distance", "worst_ratio", "success_rate", "propagations"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", "value", *keys, *names])
        for trial in finished_trials(study):
            state = "complete" if trial.number in whole else "pruned"
            found = [trial.user_attrs.get(key, "") for key in keys]
            value = trial.values[0] if state == "complete" else ""
            writer.writerow([trial.number, state, value, *found, *(trial.params.get(n) for n in names)])


def _search(plan: TuningPlan) -> Search:
    return Search(
        plan.attack,
        plan.untuned,
        plan.mode,
        plan.tolerance,
        plan.space,
        plan.batch_size,
        plan.sampler,
        plan.seed,
        plan.trials,
    )


def _check_settings(study: optuna.Study, plan: TuningPlan) -> None:
    """A search of that name is either new or one with the same settings."""
    known = study.user_attrs.get(_SETTINGS)
    if known is None:
        study.set_user_attr(_SETTINGS, plan.digest())
    elif known != plan.digest():
        raise InputError(
            f"the tuning {plan.name!r} in {without_password(plan.storage)} has other settings; "
            "give the same ones to go on with it, or another --name"
        )


def _run_exists(run_id: str) -> bool:
    try:
        return MlflowClient().get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException:
        return False


def _use_cpu_threads(plan: TuningPlan) -> int:
    """One thread where the images are tiny, as in a study."""
    if plan.device.type == "cpu" and min(plan.dataset.image_shape[1:]) < 16:
        torch.set_num_threads(1)
        return os.cpu_count() or 1
    return torch.get_num_threads()


def _params(plan: TuningPlan) -> dict[str, object]:
    """Dotted names, so that they never meet the parameters that ``mlflow run`` logs itself."""
    return {key if "." in key else f"tuning.{key}": value for key, value in plan.settings().items()}


def _tags(plan: TuningPlan) -> dict[str, str]:
    return {
        "robustlab.kind": "tuning",
        "robustlab.dataset": plan.dataset.name,
        "robustlab.models": ",".join(map(str, plan.variants)),
        "robustlab.attack": plan.attack,
        "robustlab.version": __version__,
        "robustlab.device": str(plan.device),
        "robustlab.tuning": plan.name,
        "robustlab.storage": without_password(plan.storage),
        "robustlab.workers": str(plan.workers),
    }


def _description(plan: TuningPlan) -> str:
    models = ", ".join(map(str, plan.variants))
    return (
        f"Tunes the constants of **{plan.attack}** on **{plan.dataset.name}**, {models} trained on "
        f"{', '.join(f'{size:,}' for size in plan.sizes)} images at once, on images that no score ever sees. "
        f"Reference: {plan.reference.title}. Mode: {plan.mode}. The trials are "
        "the child runs; attack_constants.json holds what was chosen."
    )
