"""The model registry: one version per finished cell, and names for the versions that people ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from robustlab.study.cell import Cell, CellResult
from robustlab.study.plan import StudyPlan, Variant
from robustlab.study.read_back import cell_of, cell_runs
from robustlab.study.report import Judgement
from robustlab.study.store import StudyStore

VERSION_TAG = "robustlab.model_version"
MODEL_TAG = "robustlab.model_id"
_TURNING_POINT = "turning-point"


def register_model(store: StudyStore, plan: StudyPlan, run: Run, result: CellResult) -> str:
    """Register the cell's model with what was measured of it; returns the version, the old one where there is one."""
    client, run_id, name = store.client, run.info.run_id, result.cell.registered_name
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise

    # The patient client would repeat the creation alone, and an answer that got lost would leave a second version.
    once = MlflowClient()

    def register() -> str:
        # Asked before every attempt: an interrupted one may have registered it already.
        versions = once.search_model_versions(f"run_id = '{run_id}'")
        if versions:
            return str(versions[0].version)
        made = once.create_model_version(
            name,
            source=f"models:/{run.data.tags[MODEL_TAG]}",
            run_id=run_id,
            tags=_version_tags(plan, run, result),
            description=_description(result),
            model_id=run.data.tags[MODEL_TAG],
        )
        return str(made.version)

    version = store.patience.call(register)
    client.set_tag(run_id, VERSION_TAG, version)
    return version


def set_aliases(store: StudyStore, results: Sequence[CellResult], judgement: Judgement | None) -> None:
    """Point each registered model's aliases at this study's versions; of equally good ones at the smallest seed's.

    Only a study with attacks does so. Where it found no turning point, an older study's alias for one is removed.
    """
    if judgement is None:
        return
    parent = store.client.get_run(store.parent_run_id)
    versions: dict[Cell, str] = {
        cell_of(run): run.data.tags[VERSION_TAG]
        for run in cell_runs(store.client, parent)
        if run.info.status == "FINISHED" and VERSION_TAG in run.data.tags
    }
    for name in dict.fromkeys(result.cell.registered_name for result in results):
        ours = sorted(
            (one for one in results if one.cell.registered_name == name and one.cell in versions),
            key=lambda result: result.cell.seed,
        )
        if ours:
            wanted = {alias: versions[cell] for alias, cell in _aliases(ours, judgement).items()}
            _move(store.client, name, wanted)


def _aliases(results: Sequence[CellResult], judgement: Judgement) -> dict[str, Cell]:
    """Which cell of one registered model each alias means."""
    aliases = {f"size-{one.cell.train_size}": one.cell for one in reversed(results)}  # the smallest seed last
    aliases["most-accurate"] = max(results, key=lambda result: result.test_accuracy).cell
    for norm in ("l2", "linf"):
        scored = [one for one in results if getattr(one, norm) is not None]
        if scored:
            aliases[f"most-robust-{norm}"] = max(scored, key=lambda result: getattr(result, norm)).cell
    for key, verdict in judgement.verdicts.items():
        if key.variant == results[0].cell.variant and verdict.kind == "turning point" and verdict.evidence:
            at_peak = [one.cell for one in results if one.cell.train_size == verdict.evidence.peak]
            if at_peak:
                aliases[f"{_TURNING_POINT}-{key.norm}"] = at_peak[0]
    return aliases


def _move(client: Any, name: str, wanted: Mapping[str, str]) -> None:
    known = {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
    for alias, version in wanted.items():
        if known.get(alias) != version:
            client.set_registered_model_alias(name, alias, version)
    for alias in known:
        if alias.startswith(_TURNING_POINT) and alias not in wanted:
            client.delete_registered_model_alias(name, alias)


def _version_tags(plan: StudyPlan, run: Run, result: CellResult) -> dict[str, str]:
    cell, recipe = result.cell, plan.recipes[result.cell.model]
    subsets = run.inputs.dataset_inputs if run.inputs is not None else []
    settings = plan.settings(Variant(cell.model, cell.augmented))
    steps = recipe.steps_for(cell.train_size)
    tags = {
        "dataset": cell.dataset,
        "model": cell.variant,
        "train_size": str(cell.train_size),
        "seed": str(cell.seed),
        "train_accuracy": f"{result.train_accuracy:.6f}",
        "test_accuracy": f"{result.test_accuracy:.6f}",
        "common_correct_images": f"{run.data.metrics.get('common_correct_images', 0):.0f}",
        "attacked_images": str(result.images),
        "subset_digest": subsets[0].dataset.digest if subsets else "",
        "recipe": f"SGD, {steps} steps, batch {recipe.batch_size}, learning rate {recipe.learning_rate:g}, "
        f"momentum {recipe.momentum:g}, weight decay {recipe.weight_decay:g}, augmentation {settings['augmentation']}",
        "weights_sha256": run.data.tags.get("robustlab.weights_sha256", ""),
        "study": run.data.tags.get("robustlab.study", ""),
    }
    for norm in ("l2", "linf"):
        score = getattr(result, norm)
        if score is not None:
            tags[norm] = f"{score:.6f}"
    return tags


def _description(result: CellResult) -> str:
    cell = result.cell
    scores = "".join(
        f", mean {label} distance to the decision {score:.4f}"
        for label, score in (("L2", result.l2), ("Linf", result.linf))
        if score is not None
    )
    over = f" over {result.images} images" if scores else ""
    return (
        f"{cell.variant} trained on {cell.train_size:,} images of {cell.dataset}, seed {cell.seed}; "
        f"test accuracy {result.test_accuracy:.2%}{scores}{over}. Takes images in [0, 1], returns logits."
    )
