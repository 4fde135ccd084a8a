"""Tune an attack, then hold the tuned constants against the reference and the defaults on images and models never seen.

    python -m benchmarks.tuning --dataset mnist --data-dir DIR --models simple_cnn --attack cw --out FOLDER

Tunes (or takes ``--constants``), trains models of other sizes with another seed, and attacks test images, of which
none is in the tuning slice, with all three in one run. Prints a table; writes comparison.json and
attack_constants.json into ``--out``. The MLflow store is the one of the working directory, so an interrupted tuning
goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.machine import cpu_model
from robustlab.attacks.constants import Constants
from robustlab.cli.options import parse_recipe
from robustlab.data import DataSet, load_dataset
from robustlab.recipes import default_recipe
from robustlab.robustness import common_correct
from robustlab.study.attacking import ATTACKS, chosen_images
from robustlab.study.parent import check_store
from robustlab.study.plan import Variant
from robustlab.study.tuning.conduct import TuningProgress, conduct_tuning
from robustlab.study.tuning.constants_file import (
    CONSTANTS,
    FILE_NAME,
    ChosenConstants,
    find_constants,
    read_constants,
    write_constants,
)
from robustlab.study.tuning.judgement import judge
from robustlab.study.tuning.plan import TuningPlan, plan_tuning
from robustlab.study.tuning.reference import Reference
from robustlab.study.tuning.subjects import Outcome, train_models
from robustlab.training import correctly_classified, to_inputs


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    check_store()
    dataset = load_dataset(options.dataset, options.data_dir, download=False)
    options.out.mkdir(parents=True, exist_ok=True)
    plan = plan_tuning(
        dataset,
        attack=options.attack,
        models=options.models.split(","),
        sizes=_integers(options.sizes),
        epochs=options.epochs,
        recipe=parse_recipe(options.recipe),
        models_from=options.study,
        images=options.images,
        batch_size=options.batch_size,
        trials=options.trials,
        tolerance=options.tolerance,
        reference=options.tuning_reference,
        device=torch.device("cpu"),
        starts=[_constants(path, options.attack) for path in options.start_from],
    )
    chosen = _chosen(plan, options)
    write_constants(options.out / FILE_NAME, {options.attack: chosen})
    held_out = replace(
        plan, variants=tuple(map(Variant.parse, (options.held_out_models or options.models).split(",")))
    )
    sizes = _integers(options.held_out_sizes)
    compared = {"tuned": chosen.constants}
    for text in options.also:
        name, _, path = text.partition("=")
        compared[name] = _constants(path, options.attack)
    report = compare(held_out, compared, sizes, options.held_out, options.reference)
    report = {
        "benchmark": "tuning",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": cpu_model(),
        "threads": 1,
        "torch": torch.__version__,
        "dataset": dataset.name,
        "attack": options.attack,
        "constants": {name: asdict(constants) for name, constants in compared.items()},
        "tuning": dict(chosen.evidence),
        **report,
    }
    (options.out / "comparison.json").write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))


def compare(
    plan: TuningPlan,
    compared: Mapping[str, Constants],
    sizes: Sequence[int],
    most_images: int,
    reference_text: str,
) -> dict[str, object]:
    """The reference, the defaults and other constants by name on models and test images that tuning never saw."""
    models: dict[str, nn.Module] = {}
    for variant in plan.variants:
        recipe = default_recipe(variant.model, min(plan.dataset.image_shape[1:]))
        if variant.model in plan.recipes:
            recipe = plan.recipes[variant.model]
        models |= train_models(plan.dataset, variant, sizes, recipe, plan.train_seed + 1, _say)
    inputs, labels, common = _held_out(plan.dataset, plan.variants, models, most_images)
    reference = Reference.parse(plan.attack, reference_text)
    runs = {
        str(reference): reference.run,
        "untuned": Reference(plan.attack, 0, 0).run,
    }
    for name, constants in compared.items():
        runs[name] = partial(ATTACKS[plan.attack], constants=constants)
    outcomes: dict[str, Outcome] = {}
    seconds: dict[str, float] = {}
    for name, run in runs.items():
        started = time.process_time()
        results = []
        for title, model in models.items():
            variant = title.partition(" ")[0]
            results.append(run(model, inputs[variant], labels[variant]))
            _say(f"{name} {title}", 1, 1)
        seconds[name] = time.process_time() - started
        outcomes[name] = Outcome.of(results)
    measured = outcomes[str(reference)]
    found = (measured.distance < torch.inf).all(dim=0)
    if not found.any():
        rates = {
            title: f"{(row < torch.inf).float().mean():.0%}"
            for title, row in zip(models, measured.distance, strict=True)
        }
        raise SystemExit(
            f"the reference finds no image on every held-out model ({rates}); is one of them dead?"
        )
    rows = {}
    for name, outcome in outcomes.items():
        part, wanted = outcome.images(found), measured.images(found)
        rows[name] = {
            **asdict(judge(part, wanted)),
            "worst_ratio_to_untuned": judge(part, outcomes["untuned"].images(found)).worst_ratio,
            "mean_ratio_to_untuned": judge(part, outcomes["untuned"].images(found)).mean_ratio,
            "success_rate_of_all_images": (outcome.distance < torch.inf).double().mean().item(),
            "mean_by_model": dict(zip(models, part.distance.double().mean(dim=1).tolist(), strict=True)),
            "cpu_s": seconds[name],
        }
    return {
        "held_out_models": list(models),
        "held_out_images_a_model": int(found.sum()),
        "common_correct_test_images": common,
        "images_the_reference_missed": int((~found).sum()),
        "reference": reference.title,
        "rows": rows,
    }


def table(report: dict[str, object]) -> str:
    """The rows as Markdown."""
    rows: dict[str, dict[str, float]] = report["rows"]  # type: ignore[assignment]
    reference, untuned = next(iter(rows.values())), rows["untuned"]
    lines = [
        f"{report['attack']} on {report['dataset']}: {', '.join(report['held_out_models'])}; "  # type: ignore[arg-type]
        f"{report['held_out_images_a_model']} images each",
        "",
        "| | mean distance | over the reference, all / worst model | over the untuned | success | propagations "
        "an image | of the reference's | of the untuned's |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['distance']:.5f} | {row['mean_ratio']:.4f} / {row['worst_ratio']:.4f} | "
            f"{row['mean_ratio_to_untuned']:.4f} / {row['worst_ratio_to_untuned']:.4f} | "
            f"{row['success_rate_of_all_images']:.1%} | {row['propagations']:,.1f} | "
            f"1/{reference['propagations'] / row['propagations']:.1f} | "
            f"{row['propagations'] / untuned['propagations']:.2f} |"
        )
    return "\n".join(lines)


def _chosen(plan: TuningPlan, options: argparse.Namespace) -> ChosenConstants:
    if options.constants:
        return find_constants(options.constants, plan.dataset.name, [plan.attack])[plan.attack]
    reported = [-1]

    def show(progress: TuningProgress) -> None:
        if progress.trials != reported[0]:
            reported[0] = progress.trials
            best = progress.best
            _say(f"trials, best {best.judgement if best else None}", progress.trials, progress.trials_wanted)

    finished = conduct_tuning(plan, show)
    return read_constants(Path(finished.constants_file), f"tuned here ({plan.name})")[plan.attack]


def _held_out(
    dataset: DataSet, variants: Sequence[Variant], models: dict[str, nn.Module], most: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, int]]:
    """Per variant the same number of images of its own common-correct set, as a study has."""
    inputs, labels, counts = {}, {}, {}
    for variant in map(str, variants):
        of_variant = [model for title, model in models.items() if title.partition(" ")[0] == variant]
        common = common_correct(torch.stack([correctly_classified(m, dataset.test) for m in of_variant]))
        counts[variant] = int(common.sum())
        chosen = chosen_images(common, dataset.test.labels, most)
        inputs[variant], labels[variant] = to_inputs(dataset.test.images[chosen]), dataset.test.labels[chosen]
    fewest = min(len(of_variant) for of_variant in labels.values())
    return (
        {name: images[:fewest] for name, images in inputs.items()},
        {name: classes[:fewest] for name, classes in labels.items()},
        counts,
    )


def _constants(path: str, attack: str) -> Constants:
    return find_constants(path, "", [attack])[attack].constants


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")] if text else []


def _say(what: str, done: int, total: int) -> None:
    if done == total or what.startswith("trials"):
        print(f"[{datetime.now(UTC):%H:%M:%S}] {what} {done}/{total}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning", description=__doc__)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--models", default="simple_cnn", help="tuned on at once, comma-separated")
    parser.add_argument("--attack", default="cw", choices=list(CONSTANTS))
    parser.add_argument(
        "--sizes", default="", help="training sizes of the tuned models (data set's own three)"
    )
    parser.add_argument(
        "--held-out-sizes", required=True, help="training sizes of the models that are compared on"
    )
    parser.add_argument(
        "--held-out-models", default="", help="other architectures to compare on (those of --models)"
    )
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--recipe", default="auto", help="as robustlab tune takes it")
    parser.add_argument("--study", default=None, help="run id of a study whose models are tuned on")
    parser.add_argument("--images", type=int, default=40, help="tuning images")
    parser.add_argument("--held-out", type=int, default=40, help="test images a model that are compared on")
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--tolerance", type=float, default=0.005)
    parser.add_argument("--tuning-reference", default="default", help="what the tuning is held to")
    parser.add_argument("--reference", default="auto", help="what the comparison is held to (9x1000, 20x100)")
    parser.add_argument("--constants", default="", help="compare these instead of tuning")
    parser.add_argument(
        "--start-from", action="append", default=[], help="constants that tuning tries first (file or run)"
    )
    parser.add_argument(
        "--also", action="append", default=[], metavar="NAME=FILE", help="compare these constants too"
    )
    parser.add_argument("--out", type=Path, required=True)
    return parser


if __name__ == "__main__":
    main()
