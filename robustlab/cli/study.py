"""The verbs that train: ``study`` and ``train``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import mlflow
import torch
from rich.console import Console

from robustlab.attacks import IFGSM, CarliniWagnerL2
from robustlab.cli import options
from robustlab.cli.progress import StudyDisplay, data_progress
from robustlab.data import DataSet, data_directory, load_dataset
from robustlab.errors import InputError
from robustlab.study.cell import CellResult
from robustlab.study.conduct import FinishedStudy, conduct_study
from robustlab.study.cross_check import DEFAULT_IMAGES
from robustlab.study.executors import LocalExecutor
from robustlab.study.parent import check_store
from robustlab.study.plan import ATTACK_NAMES, StudyPlan, plan_study
from robustlab.study.report import verdict_rows
from robustlab.study.runner import MakeExecutor
from robustlab.study.tables import results_table, verdicts_table


def study(
    dataset: options.Dataset = "digits",
    models: options.Models = options.AUTO,
    sizes: options.Sizes = options.AUTO,
    seeds: options.Seeds = "0",
    attacks: options.Attacks = "cw,ifgsm",
    attack_images: options.AttackImages = 100,
    cross_check: options.CrossCheck = DEFAULT_IMAGES,
    train_budget: options.TrainBudget = "epochs",
    epochs: options.Epochs = options.AUTO,
    recipe: options.RecipeChanges = options.AUTO,
    constants: options.AttackConstants = "default",
    cw: options.CW = options.AUTO,
    ifgsm: options.Ifgsm = options.AUTO,
    data_dir: options.DataDir = options.AUTO,
    download: options.Download = True,
    device: options.Devices = options.AUTO,
    fresh: options.Fresh = False,
    start_fresh: options.StartFresh = "no",
    executor: options.Executor = "local",
    ray_address: options.RayAddress = "local",
    gpus_per_cell: options.GpusPerCell = 0.0,
    cpus_per_cell: options.CpusPerCell = 1.0,
) -> int:
    """Train every model on nested subsets of growing size, attack them all, chart accuracy and robustness."""
    console = Console()
    fresh = options.parse_yes_no("start-fresh", start_fresh) or fresh
    devices = options.parse_devices(device)
    make_executor = _executor(executor, devices, ray_address, gpus_per_cell, cpus_per_cell)
    names = options.parse_list("attacks", attacks, str) or list(ATTACK_NAMES)
    known = [name for name in names if name in ATTACK_NAMES]  # plan_study says what is wrong with the others
    chosen = options.resolve_constants(constants, dataset, known, {"cw": cw, "ifgsm": ifgsm})
    plan = plan_study(
        open_dataset(dataset, data_dir, download, console),
        models=options.parse_list("models", models, str),
        sizes=options.parse_list("sizes", sizes, int),
        seeds=options.parse_list("seeds", seeds, int),
        attacks=names,
        attack_images=attack_images,
        train_budget=train_budget,
        epochs=options.parse_int("epochs", epochs),
        recipe=options.parse_recipe(recipe),
        cw=cast(CarliniWagnerL2, chosen["cw"].constants),
        ifgsm=cast(IFGSM, chosen["ifgsm"].constants),
        constants_origin={name: one.origin for name, one in chosen.items()},
        device=devices[0] if devices else None,
        cross_check=cross_check,
    )
    return _conduct(plan, "study", console, fresh, devices, make_executor)


def train(
    dataset: options.Dataset = "digits",
    models: options.Models = "simple_cnn",
    sizes: options.Sizes = options.AUTO,
    seeds: options.Seeds = "0",
    train_budget: options.TrainBudget = "epochs",
    epochs: options.Epochs = options.AUTO,
    recipe: options.RecipeChanges = options.AUTO,
    data_dir: options.DataDir = options.AUTO,
    download: options.Download = True,
    device: options.Devices = options.AUTO,
    fresh: options.Fresh = False,
    start_fresh: options.StartFresh = "no",
) -> int:
    """Train and register models without attacking them (the largest default size where no size is given)."""
    console = Console()
    fresh = options.parse_yes_no("start-fresh", start_fresh) or fresh
    devices = options.parse_devices(device)
    data = open_dataset(dataset, data_dir, download, console)
    plan = plan_study(
        data,
        models=options.parse_list("models", models, str),
        sizes=options.parse_list("sizes", sizes, int) or data.default_sizes[-1:],
        seeds=options.parse_list("seeds", seeds, int),
        attacks=(),
        train_budget=train_budget,
        epochs=options.parse_int("epochs", epochs),
        recipe=options.parse_recipe(recipe),
        device=devices[0] if devices else None,
    )
    return _conduct(plan, "train", console, fresh, devices, _local(devices))


def _local(devices: Sequence[torch.device]) -> MakeExecutor:
    """This process for one device, one process each for several."""
    if len(devices) < 2:
        return LocalExecutor
    from robustlab.study.executors.on_devices import DeviceExecutor

    return partial(DeviceExecutor, devices=list(map(str, devices)))


def _executor(
    name: str, devices: Sequence[torch.device], address: str, gpus_per_cell: float, cpus_per_cell: float
) -> MakeExecutor:
    """What ``--executor`` names; a cluster that cannot run the study is known before anything starts."""
    if name == "local":
        return _local(devices)
    if name != "ray":
        raise InputError(f"--executor is {name!r}; choose from local, ray")
    from robustlab.study.executors.on_ray import RayExecutor, connect

    connect(address, mlflow.get_tracking_uri(), gpus_per_cell, cpus_per_cell)
    return partial(RayExecutor, address=address, gpus_per_cell=gpus_per_cell, cpus_per_cell=cpus_per_cell)


def open_dataset(name: str, data_dir: str, download: bool, console: Console) -> DataSet:
    """Load the named data set, showing what it waits for."""
    with data_progress(console) as show:
        return load_dataset(
            name, data_directory(options.parse_data_dir(data_dir)), download=download, on_progress=show
        )


def _conduct(
    plan: StudyPlan,
    kind: str,
    console: Console,
    fresh: bool,
    devices: Sequence[torch.device],
    make_executor: MakeExecutor,
) -> int:
    check_store()
    count = plan.cell_count
    console.print(
        f"{plan.dataset.name}: {len(plan.variants)} models x {len(plan.sizes)} sizes x {len(plan.seeds)} seeds = "
        f"{count} cells on {', '.join(map(str, devices or [plan.device]))}"
    )
    with StudyDisplay(console) as display:
        finished = conduct_study(
            plan, kind, display.show, fresh=fresh, tell=display.say, make_executor=make_executor
        )
    _show_finished(finished, console)
    return 1 if finished.outcome.failures else 0


def _show_finished(finished: FinishedStudy, console: Console) -> None:
    if finished.outcome.results:
        console.print(results_table(finished.outcome.results))
    for cell, reason in finished.outcome.failures.items():
        console.print(f"failed: {cell.variant} {cell.train_size:,} seed {cell.seed}: {reason}", style="red")
    _show_doubts(finished.outcome.results, console)
    if finished.judgement is not None:
        console.print(verdicts_table(verdict_rows(finished.judgement), finished.judgement.seeds == 1))
    for label, place in (
        ("report", finished.report),
        ("figure", finished.figure),
        ("MLflow UI", finished.ui_command),
        ("this study", finished.run_page),
        ("all cells", finished.view_page),
    ):
        if place:
            console.print(f"{label:<10}  {place}", soft_wrap=True, highlight=False)


def _show_doubts(results: Sequence[CellResult], console: Console) -> None:
    """A line for everything that makes scores doubtful, once, with the cells that it is true of."""
    for kind, style in (("suspicion", "red"), ("warning", "yellow")):
        cells: dict[str, list[str]] = {}
        for one in results:
            if text := getattr(one, kind):
                cells.setdefault(text, []).append(one.cell.shown)
        for text, shown in cells.items():
            more = f" and {len(shown) - 1} more" if len(shown) > 1 else ""
            console.print(f"{kind}: {shown[0]}{more}: {text}", style=style, markup=False, soft_wrap=True)
