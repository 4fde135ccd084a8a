"""A whole study from plan to figure: the parent run around the grid."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from mlflow import MlflowClient

from robustlab import __version__
from robustlab.evidence import headline
from robustlab.files import write_atomically
from robustlab.robustness import mean_over_seeds
from robustlab.study.cell import CellResult
from robustlab.study.claims import Claims
from robustlab.study.executors import LocalExecutor
from robustlab.study.owners import Heartbeat
from robustlab.study.parent import parent_run, study_experiment
from robustlab.study.patience import Patience, PatientClient, few_http_retries
from robustlab.study.plan import StudyPlan
from robustlab.study.read_back import SUSPICION_TAG
from robustlab.study.registry import set_aliases
from robustlab.study.report import Judgement, judge_studies, read_study, write_report
from robustlab.study.resume import PLAN_TAG, close_abandoned, forget, own, take_up
from robustlab.study.runner import MakeExecutor, StudyOutcome, StudyProgress, run_study
from robustlab.study.store import StudyStore, run_page, ui_command
from robustlab.study.tuning.constants_file import FILE_NAME as CONSTANTS_FILE
from robustlab.study.tuning.constants_file import ChosenConstants, write_constants
from robustlab.study.ui_view import prepare_experiment, view_page

_CURVES = {
    "test_accuracy": "test_accuracy",
    "train_accuracy": "train_accuracy",
    "l2": "l2",
    "linf": "linf",
    "images": "attacked_images",
}


@dataclass(frozen=True)
class FinishedStudy:
    """What the user is told at the end: results, failures, and where everything is."""

    outcome: StudyOutcome
    run_id: str
    figure: str
    ui_command: str
    run_page: str
    view_page: str
    report: str = ""
    judgement: Judgement | None = None


def conduct_study(
    plan: StudyPlan,
    kind: str = "study",
    on_progress: Callable[[StudyProgress], None] | None = None,
    *,
    fresh: bool = False,
    tell: Callable[[str], None] | None = None,
    make_executor: MakeExecutor = LocalExecutor,
) -> FinishedStudy:
    """Run the plan's grid in MLflow and log what belongs to the study as a whole to its parent run.

    A study of the same plan that was begun before, in the same experiment, is taken up: finished cells stay as they
    are. The parent's metrics are curves with the training size as their step, means over the seeds.

    Args:
        fresh: begin anew, whatever there is.
        tell: called with a line for the user: what was found done, and while the store is waited for.

    Raises:
        InputError: the store takes no run or no artifacts, stays away for too long, or ``fresh`` meets a running study.
    """
    use_cpu_threads(plan)
    with few_http_retries():
        patience = Patience(tell)
        client = PatientClient(patience)
        experiment_id = patience.call(study_experiment)
        if fresh:
            plan = replace(plan, reuse_models=False)
            forget(client, experiment_id, plan, kind)
        earlier = take_up(client, experiment_id, plan.digest(kind))
        models = ",".join(map(str, plan.variants))
        name = f"{kind} {plan.dataset.name} {models} {time.strftime('%Y-%m-%d %H:%M')}"
        tags = {
            "robustlab.kind": kind,
            PLAN_TAG: plan.digest(kind),
            "robustlab.dataset": plan.dataset.name,
            "robustlab.models": models,
            "robustlab.version": __version__,
            "robustlab.code": str(Path(__file__).resolve().parents[1]),
            "robustlab.device": str(plan.device),
            "robustlab.threads": str(torch.get_num_threads()),
            "robustlab.cells": str(plan.cell_count),
        }
        earlier_id = None if earlier is None else earlier.info.run_id
        earlier_name = name if earlier is None else earlier.info.run_name
        with parent_run(earlier_name, tags, _description(plan), earlier_id, patience) as run:
            owner = own(client, run)
            store = StudyStore(run, patience)
            try:
                with Heartbeat(MlflowClient(), store.parent_run_id):
                    close_abandoned(client, experiment_id, store.parent_run_id)
                    _begin(store, plan)
                    claims = Claims(client, experiment_id, owner)
                    outcome = run_study(plan, store, claims, on_progress, make_executor, tell)
                    return _sum_up(store, plan, outcome)
            finally:
                owner.stop()


def _begin(store: StudyStore, plan: StudyPlan) -> None:
    """What the parent run says before the first cell; of a study that is taken up, what it does not say yet."""
    store.log_new_params(store.parent_run_id, _grid_params(plan))
    store.check_artifacts()
    _log_constants(store, plan)
    prepare_experiment(store.client, store.experiment_id)
    with store.artifacts(store.parent_run_id) as folder:
        _write_dataset(plan, folder / "dataset.json")


def _sum_up(store: StudyStore, plan: StudyPlan, outcome: StudyOutcome) -> FinishedStudy:
    """Curves, table, figure, report and aliases from the cells' results."""
    _log_curves(store, plan, outcome.results)
    if outcome.failures:
        lines = [
            f"{cell.variant} {cell.train_size} seed {cell.seed}: {why}"
            for cell, why in outcome.failures.items()
        ]
        store.log_tags(store.parent_run_id, {"robustlab.failures": "; ".join(lines)[:5000]})
    doubted = [one for one in outcome.results if one.suspicion]
    if doubted:
        lines = [f"{one.cell.shown}: {one.suspicion}" for one in doubted]
        text = f"{len(doubted)} of {len(outcome.results)} cells: " + "; ".join(lines)
        store.log_tags(store.parent_run_id, {SUSPICION_TAG: text[:5000]})
    figure, report, judgement = "", "", None
    if outcome.results:
        with store.artifacts(store.parent_run_id) as folder:
            write_results(outcome.results, folder / "results.csv")
    if outcome.results and plan.attacks:
        from robustlab.study.figure import draw_study, save_figure  # loads matplotlib, at the end of a study

        studies = [read_study(store.client, store.client.get_run(store.parent_run_id))]
        judgement = judge_studies(studies)
        store.log_tags(store.parent_run_id, _verdict_tags(judgement))
        with store.artifacts(store.parent_run_id) as folder:
            drawn = draw_study(outcome.results, plan.dataset.name, judgement.turning_points)
            png, _ = save_figure(drawn, folder)
            page = write_report(studies, judgement, folder)
        figure = store.local_artifact(store.parent_run_id, png.name)
        report = store.local_artifact(store.parent_run_id, page.name)
    set_aliases(store, outcome.results, judgement)
    return FinishedStudy(
        outcome,
        store.parent_run_id,
        figure,
        ui_command(),
        run_page(store.experiment_id, store.parent_run_id),
        view_page(store.experiment_id),
        report=report,
        judgement=judgement,
    )


def _verdict_tags(judgement: Judgement) -> dict[str, str]:
    """One tag per curve, so that the run's page and the run list show the verdicts."""
    return {
        f"verdict.{key.norm}.{key.variant.replace('+', '-')}": headline(verdict)
        for key, verdict in judgement.verdicts.items()
    }


def use_cpu_threads(plan: StudyPlan) -> None:
    """One thread where the images are tiny: measured on the digits, a second one makes every model slower."""
    if plan.device.type == "cpu" and min(plan.dataset.image_shape[1:]) < 16:
        torch.set_num_threads(1)


def write_results(results: Sequence[CellResult], path: Path) -> None:
    """One row per cell, distortions in units of the [0, 1] pixel range, empty where there is no score."""
    rows = [
        {**asdict(result.cell), **{k: v for k, v in asdict(result).items() if k != "cell"}}
        for result in results
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    with write_atomically(path) as file:
        file.write(text.getvalue().encode())


def _write_dataset(plan: StudyPlan, path: Path) -> None:
    """What a report has to know of the data set without loading it."""
    data = plan.dataset
    facts = {
        "name": data.name,
        "digest": data.digest,
        "image_shape": data.image_shape,
        "class_names": data.class_names,
        "train_images": len(data.train),
        "test_images": len(data.test),
    }
    path.write_text(json.dumps(facts, ensure_ascii=False))


def _grid_params(plan: StudyPlan) -> dict[str, object]:
    """Resolved settings; their names have a dot, so they never meet the parameters that ``mlflow run`` logs itself."""
    params: dict[str, object] = {
        "grid.models": ",".join(map(str, plan.variants)),
        "grid.seeds": ",".join(map(str, plan.seeds)),
        "grid.device": plan.device,
    }
    for variant in plan.variants:
        for key, value in plan.settings(variant).items():
            if key.startswith("recipe."):
                params[f"{key}.{variant.model}"] = value
            elif key == "augmentation":
                params[f"grid.augmentation.{variant.model}{'-aug' if variant.augmented else ''}"] = value
            else:
                params[key if "." in key else f"grid.{key}"] = value
    return params


def _log_constants(store: StudyStore, plan: StudyPlan) -> None:
    """The constants that all cells share, in the file format that other studies can be given."""
    origins = {name: plan.constants_origin.get(name, "given to plan_study") for name in plan.attacks}
    values = {"cw": plan.cw, "ifgsm": plan.ifgsm}
    if origins:
        store.log_new_params(
            store.parent_run_id, {f"constants.{name}": text for name, text in origins.items()}
        )
        with store.artifacts(store.parent_run_id) as folder:
            chosen = {name: ChosenConstants(values[name], text) for name, text in origins.items()}
            write_constants(folder / CONSTANTS_FILE, chosen)


def _log_curves(store: StudyStore, plan: StudyPlan, results: Sequence[CellResult]) -> None:
    logged = store.client.get_run(store.parent_run_id).data.metrics
    for variant in plan.variants:
        for field, name in _CURVES.items():
            points = []
            for size in plan.sizes:
                seeds = [
                    getattr(result, field)
                    for result in results
                    if result.cell.variant == str(variant) and result.cell.train_size == size
                ]
                mean = mean_over_seeds(seeds)
                if mean is not None:
                    points.append((size, mean))
            key = f"{name}/{str(variant).replace('+', '-')}"
            # A study that ended before and is taken up has its points already.
            known = store.client.get_metric_history(store.parent_run_id, key) if key in logged else []
            steps = {point.step: point.value for point in known}
            points = [(size, mean) for size, mean in points if steps.get(size) != mean]
            if points:
                store.log_series(store.parent_run_id, key, *zip(*points, strict=True))


def _description(plan: StudyPlan) -> str:
    attacks = " and ".join(
        {"cw": "Carlini-Wagner (L2)", "ifgsm": "I-FGSM (Linf)"}[name] for name in plan.attacks
    )
    return (
        f"How accuracy and robustness on **{plan.dataset.name}** move with the training size. "
        f"Models {', '.join(map(str, plan.variants))}, each trained on nested balanced subsets of "
        f"{', '.join(f'{size:,}' for size in plan.sizes)} images (seeds {', '.join(map(str, plan.seeds))}) "
        + (
            f"and attacked with minimum-norm {attacks} on the images that all sizes get right. "
            if attacks
            else ". "
        )
        + "The metrics here are curves: the step is the training size. The cells are the child runs."
    )
