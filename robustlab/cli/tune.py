"""The verb ``tune``: find attack constants that reach the same distortion for less work."""

from __future__ import annotations

import shutil
from functools import partial
from types import TracebackType
from typing import Annotated

import mlflow
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from robustlab.attacks.constants import Constants
from robustlab.cli import options
from robustlab.cli.study import open_dataset
from robustlab.data.files import user_path
from robustlab.errors import InputError
from robustlab.study.executors.on_ray import connect
from robustlab.study.parent import check_store
from robustlab.study.tuning.conduct import TuningProgress, conduct_tuning
from robustlab.study.tuning.constants_file import FILE_NAME, find_constants
from robustlab.study.tuning.plan import plan_tuning
from robustlab.study.tuning.tables import changed_constants, comparison_table
from robustlab.study.tuning.workers import work_on_ray


def tune(
    dataset: options.Dataset = "digits",
    model: Annotated[
        str, typer.Option(help="Comma-separated models to tune on at once, each also with +aug.")
    ] = "simple_cnn",
    attack: Annotated[str, typer.Option(help="The attack whose constants are tuned: cw or ifgsm.")] = "cw",
    mode: Annotated[
        str,
        typer.Option(
            help="cheapest (fewest propagations within --tolerance of the reference) or pareto (mean distortion "
            "against propagations)."
        ),
    ] = "cheapest",
    sizes: Annotated[
        str,
        typer.Option(
            help="At least three training sizes [images] whose models are tuned on at once; auto: smallest, middle and "
            "largest of the data set's grid."
        ),
    ] = options.AUTO,
    images: Annotated[int, typer.Option(help="At most so many images of the tuning slice; 0: all.")] = 50,
    trials: Annotated[
        int, typer.Option(help="Finished trials to stop after, those of earlier runs counted.")
    ] = 60,
    tolerance: Annotated[
        float,
        typer.Option(
            help="How far the mean distortion may lie above the reference's [share]; that of each model: twice as far."
        ),
    ] = 0.005,
    reference: Annotated[
        str,
        typer.Option(
            help="<searches>x<iterations> of the published attack, default (the attack's own defaults), or auto: "
            "9x1000 for cw, 20x100 for ifgsm."
        ),
    ] = options.AUTO,
    search: Annotated[
        str,
        typer.Option(
            help="Comma-separated constants to search, each name, name=low:high or name=a|b; auto: what is worth "
            "tuning."
        ),
    ] = options.AUTO,
    start_from: Annotated[
        str,
        typer.Option(
            help="Constants to try first, for example those of another data set: comma-separated "
            f"{FILE_NAME} files and runs:/<id>[/path]; auto: none."
        ),
    ] = options.AUTO,
    sampler: Annotated[str, typer.Option(help="Optuna's sampler: tpe or nsga2.")] = "tpe",
    seed: Annotated[int, typer.Option(help="Seed of the search; one worker repeats it exactly.")] = 0,
    train_seed: Annotated[int, typer.Option(help="Seed of the tuned models' subsets and training.")] = 0,
    epochs: options.Epochs = options.AUTO,
    recipe: options.RecipeChanges = options.AUTO,
    study: Annotated[
        str, typer.Option(help="Run id of a study whose models are taken; auto: models are trained here.")
    ] = options.AUTO,
    batch_size: Annotated[
        int, typer.Option(help="Images after which a bad trial may be pruned (cheapest only).")
    ] = 10,
    storage: Annotated[
        str,
        typer.Option(
            help="Where trials are kept: a file (journal), or postgresql://user@host/database for workers on several "
            "machines; auto: tuning.journal beside the MLflow store."
        ),
    ] = options.AUTO,
    name: Annotated[
        str,
        typer.Option(
            help="Name of the search; the same name and settings go on with it; auto: from the settings."
        ),
    ] = options.AUTO,
    workers: Annotated[int, typer.Option(help="Processes that run trials at the same time.")] = 1,
    executor: Annotated[
        str, typer.Option(help="Where the workers run: local (this machine) or ray (tasks of a Ray cluster).")
    ] = "local",
    ray_address: options.RayAddress = "local",
    gpus_per_worker: Annotated[float, typer.Option(help="GPUs that a worker reserves on Ray.")] = 0.0,
    cpus_per_worker: Annotated[float, typer.Option(help="CPU cores that a worker reserves on Ray.")] = 1.0,
    out: Annotated[
        str, typer.Option(help=f"Also write {FILE_NAME} into this folder; auto: only to MLflow.")
    ] = options.AUTO,
    data_dir: options.DataDir = options.AUTO,
    download: options.Download = True,
    device: options.Device = options.AUTO,
) -> int:
    """Tune an attack's constants on held-out images, on models of several sizes at once; the study then takes them."""
    console = Console()
    place = options.parse_device(device)
    if executor not in ("local", "ray"):
        raise InputError(f"--executor is {executor!r}; choose from local, ray")

    def given(text: str) -> str | None:
        return None if options.is_auto(text) else text

    plan = plan_tuning(
        open_dataset(dataset, data_dir, download, console),
        attack=attack,
        models=options.parse_list("model", model, str) or ["simple_cnn"],
        mode=mode,
        sizes=options.parse_list("sizes", sizes, int),
        train_seed=train_seed,
        epochs=options.parse_int("epochs", epochs),
        recipe=options.parse_recipe(recipe),
        models_from=given(study),
        images=images,
        batch_size=batch_size,
        tolerance=tolerance,
        reference=reference,
        space=options.parse_list("search", search, str),
        sampler=sampler,
        seed=seed,
        trials=trials,
        workers=workers,
        storage=given(storage),
        name=given(name),
        device=place,
        starts=_starts(start_from, attack),
    )
    folder = None if options.is_auto(out) else user_path(out)
    check_store()
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write into --out {out!r} ({error.strerror}); give a folder that can be written"
            ) from None
    run_workers = None
    if executor == "ray":
        connect(ray_address, mlflow.get_tracking_uri(), gpus_per_worker, cpus_per_worker, plan.storage)
        run_workers = partial(
            work_on_ray, address=ray_address, gpus_per_worker=gpus_per_worker, cpus_per_worker=cpus_per_worker
        )
    at_sizes = ", ".join(f"{size:,}" for size in plan.sizes)
    console.print(
        f"{plan.dataset.name}: {plan.attack} on {', '.join(map(str, plan.variants))} at {at_sizes} images, "
        f"against {plan.reference.title}, on {plan.device}",
        highlight=False,
    )
    with TuningDisplay(console) as display:
        finished = conduct_tuning(plan, display.show, run_workers)
    console.print(comparison_table(finished))
    if finished.choice.trial is None:
        console.print("No trial beat the attack's own defaults; they are what was kept.")
    else:
        console.print(changed_constants(finished))
    if folder is not None:
        shutil.copy(finished.constants_file, folder / FILE_NAME)
    for label, text in (
        ("trials", f"{finished.trials}, {finished.pruned} of them pruned"),
        ("constants", finished.constants_file),
        ("use them", f"robustlab study --constants runs:/{finished.run_id}"),
        ("MLflow UI", finished.ui_command),
        ("this run", finished.run_page),
    ):
        console.print(f"{label:<10}  {text}", soft_wrap=True, highlight=False)
    return 0 if finished.choice.within else 1


def _starts(text: str, attack: str) -> list[Constants]:
    """The constants of one attack in each of the comma-separated places."""
    places = [] if options.is_auto(text) else options.parse_list("start-from", text, str)
    return [find_constants(place, "", [attack])[attack].constants for place in places]


class TuningDisplay:
    """A live line with the best so far; off a terminal one line per finished trial."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.fields[trials]}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=1.0, trials="")
        self._reported = ("", -1)

    def __enter__(self) -> TuningDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, progress: TuningProgress) -> None:
        """Take in where the tuning stands."""
        searching = progress.stage in ("trial", "trials")
        trials = f"trials {progress.trials}/{progress.trials_wanted}" if searching else progress.stage
        share = progress.done / progress.total if progress.total else 0.0
        if searching:
            share = min(1.0, (progress.trials + share * (progress.stage == "trial")) / progress.trials_wanted)
        best = _best(progress)
        self._progress.update(self._task, completed=share, description=best, trials=trials)
        state = ("trials", progress.trials) if searching else (progress.stage, 0)
        if not self._console.is_terminal and state != self._reported:
            self._reported = state
            self._console.print(f"{trials}  {best}".rstrip(), highlight=False, soft_wrap=True)


def _best(progress: TuningProgress) -> str:
    choice = progress.best
    if choice is None:
        return ""
    whose = "defaults" if choice.trial is None else f"trial {choice.trial}"
    return (
        f"pruned {progress.pruned}, best {choice.judgement.propagations:,.1f} propagations at "
        f"{choice.judgement.mean_ratio:.4f} of the reference ({whose}; defaults {choice.untuned.propagations:,.1f})"
    )
