"""Do a finished cell again from what its run says, and compare."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from mlflow.entities import Run

from robustlab.attacks import IFGSM, CarliniWagnerL2
from robustlab.data import DataSet, LabelledImages, nested_subsets
from robustlab.errors import InputError
from robustlab.recipes import Recipe
from robustlab.study.artifacts import read_arrays
from robustlab.study.attacking import NORMS, attack_images
from robustlab.study.cell import Cell
from robustlab.study.checkpoint import CHECKPOINT, load_checkpoint
from robustlab.study.lineage import FILE_NAME as LINEAGE_FILE
from robustlab.study.lineage import lineage
from robustlab.study.plan import Variant
from robustlab.study.read_back import cell_of
from robustlab.study.store import StudyStore
from robustlab.training import initial_model, to_inputs, train

T = TypeVar("T")


@dataclass(frozen=True)
class Comparison:
    """A value of the run beside the same value of its repetition, as shown to people."""

    what: str
    then: str
    now: str
    equal: bool


@dataclass(frozen=True)
class Reproduction:
    """What differs between a cell and its repetition: in how it was made, and in what came out."""

    cell: Cell
    made_with: list[Comparison]
    results: list[Comparison]

    @property
    def equal(self) -> bool:
        """Weights and distances are equal to the bit."""
        return all(one.equal for one in self.results)


def finished_cell(store: StudyStore, run_id: str) -> Run:
    """The run, if it is a finished cell.

    Raises:
        InputError: it is none.
    """
    run: Run = store.client.get_run(run_id)
    if run.data.tags.get("robustlab.kind") != "cell" or run.info.status != "FINISHED":
        raise InputError(f"the run {run_id} is no finished cell of a study; give a cell's run id")
    return run


def reproduce_cell(
    store: StudyStore,
    run: Run,
    dataset: DataSet,
    device: torch.device,
    show: Callable[[str, int, int], None] | None = None,
) -> Reproduction:
    """Train the cell's model again and attack the same images again; nothing is written to the store.

    Raises:
        InputError: the data set is another version, or an artifact of the run is missing or damaged.
    """
    params, cell, run_id = run.data.params, cell_of(run), run.info.run_id
    if params["dataset_digest"] != dataset.digest:
        raise InputError(
            f"{cell.dataset} here is another version (SHA-256 {dataset.digest[:12]}...) than the run's "
            f"({params['dataset_digest'][:12]}...); put the files in place that it was run on"
        )
    torch.set_num_threads(int(_then(store, run_id).get("threads", torch.get_num_threads())))
    then_lineage, now_lineage = _then(store, run_id), lineage(device)
    sizes = [int(size) for size in params["grid.sizes"].split(",")]
    indices = nested_subsets(dataset.train.labels, dataset.num_classes, sizes, cell.seed)[cell.train_size]
    with store.fetched(run_id, "train_indices.npz") as path:
        stored_indices = read_arrays(path)["train_indices"]
    there = dataset.to(device)
    subset = LabelledImages(there.train.images[indices.to(device)], there.train.labels[indices.to(device)])
    model = initial_model(cell.model, there, subset, cell.seed).to(device)
    train(
        model,
        subset,
        _from_params(Recipe, params, "recipe."),
        seed=cell.seed,
        augmentation=Variant(cell.model, cell.augmented).augmentation(dataset),
        on_epoch=None if show is None else lambda done, total, _: show("training", done, total),
    )
    with store.fetched(run_id, CHECKPOINT) as folder:
        stored_model = load_checkpoint(folder)
    results = [
        _compare("training images", stored_indices, indices.numpy()),
        _compare("weights", _flat(stored_model), _flat(model)),
    ]
    results += _attack_again(store, run, there, model, device, show)
    made_with = [
        Comparison(key, then_lineage.get(key, ""), now_lineage.get(key, ""), then_lineage.get(key) == value)
        for key, value in now_lineage.items()
    ]
    return Reproduction(cell, made_with, results)


def _attack_again(
    store: StudyStore,
    run: Run,
    dataset: DataSet,
    model: torch.nn.Module,
    device: torch.device,
    show: Callable[[str, int, int], None] | None,
) -> list[Comparison]:
    params = run.data.params
    names = [name for name in params["attacks"].split(",") if name]
    if not names:
        return []
    with store.fetched(run.info.run_id, "distances.npz") as path:
        stored = read_arrays(path)
    chosen = torch.from_numpy(stored["test_indices"]).to(device)
    constants = {
        "cw": _from_params(CarliniWagnerL2, params, "cw."),
        "ifgsm": _from_params(IFGSM, params, "ifgsm."),
    }
    attacked = attack_images(
        names,
        model,
        to_inputs(dataset.test.images[chosen]),
        dataset.test.labels[chosen],
        constants,
        show,
    )
    keys = [f"{NORMS[name]}_distance" for name in names]
    return [_compare(f"{key[:-9]} distances", stored[key], attacked.arrays[key]) for key in keys]


def _compare(what: str, then: np.ndarray, now: np.ndarray) -> Comparison:
    """Equal to the bit, or by how much the values differ."""
    equal = then.dtype == now.dtype and then.shape == now.shape and then.tobytes() == now.tobytes()
    if equal or then.shape != now.shape or then.dtype.kind != "f":
        return Comparison(what, str(then.shape), "equal to the bit" if equal else "different", equal)
    found = np.isfinite(then) & np.isfinite(now)
    largest = float(np.abs(then[found] - now[found]).max()) if found.any() else float("inf")
    share = float((then != now).mean())
    difference = f"mean {now.mean():.8g}, largest difference {largest:.3g}, {share:.1%} differ"
    return Comparison(what, f"mean {then.mean():.8g}", difference, False)


def _flat(model: torch.nn.Module) -> np.ndarray:
    return torch.cat(
        [value.detach().cpu().double().flatten() for value in model.state_dict().values()]
    ).numpy()


def _then(store: StudyStore, run_id: str) -> dict[str, str]:
    with store.fetched(run_id, LINEAGE_FILE) as path:
        found: dict[str, str] = json.loads(path.read_text())
        return found


def _from_params(kind: type[T], params: Mapping[str, str], prefix: str) -> T:
    """A dataclass from the parameters that its fields were logged as."""
    values: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        text = params.get(prefix + field.name)
        if text is not None:
            try:
                values[field.name] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                values[field.name] = text
    return kind(**values)
