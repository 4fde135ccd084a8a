"""Attack libraries side by side: the same models and images, one process, in turns. ``make bench`` runs it.

    python -m benchmarks.attacks --data-dir DIR          the whole comparison (hours)
    python -m benchmarks.attacks --quick                 minutes; only shows that everything runs

Writes benchmarks/results/<machine>.json anew and prints the same as tables; README.md says what is measured.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.contenders import Contender, Effort, robustlab_contenders
from benchmarks.figures import Figure, figures, figures_table
from benchmarks.machine import circumstances, cpu_model, file_name
from benchmarks.measure import BarePasses, run
from benchmarks.peers import PEERS, missing_peers, peer_contenders
from benchmarks.subjects import PLANS, Subject, open_dataset, prepare
from benchmarks.summary import Row, rows_table, spread

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # what the peers warn of is theirs
    logging.getLogger("art").setLevel(logging.ERROR)
    if options.quick:
        options.images, options.repeats = min(options.images, 4), 1
        options.epochs, options.train_images = options.epochs or 1, options.train_images or 2_000
    contenders = _chosen(options)
    out = options.out or RESULTS / f"{file_name(options.machine or cpu_model())}.json"
    report = {
        "benchmark": "attacks",
        "complete": False,
        **_circumstances(options),
        "models": [],
        "figures": [],
    }
    all_figures: list[Figure] = []
    for plan in PLANS:
        if options.models and plan.name not in options.models:
            continue
        subject = prepare(
            plan, open_dataset(plan.dataset, options.data_dir, _say), options.cache.expanduser(),
            images=options.images, skip=options.skip, epochs=options.epochs,
            train_images=options.train_images, say=_say,
        )  # fmt: skip
        if subject.name in [model["name"] for model in report["models"]]:
            continue  # both data sets are missing: the digits' model was attacked already
        _say(
            f"\n## {subject.name}: test accuracy {subject.clean_accuracy:.1%}, {len(subject.labels)} images\n"
        )
        rows, bare = compare(subject, contenders, options.repeats, options.budget_s, options.limit_s)
        new_figures = figures(subject.name, rows, folds=has_batch_norm(subject.model))
        all_figures += new_figures
        report["models"].append(_model_json(subject, rows, bare))
        report["figures"] += [figure.as_json() for figure in new_figures]
        print(rows_table(rows), flush=True)
        _write(out, report)  # after each model: a long run that is cut short has something to show
    report["complete"] = not options.quick and not options.only and not options.models
    _write(out, report)
    print(_closing_tables(all_figures, options.quick), flush=True)
    _say(f"\nwritten: {out}")


def compare(
    subject: Subject, contenders: Sequence[Contender], repeats: int, budget_s: float, limit_s: float
) -> tuple[list[Row], BarePasses]:
    """Let the contenders run in turns, every other round backwards, until each ran ``repeats`` times.

    A contender whose runs took more than ``budget_s`` of CPU together is not repeated.
    """
    bare = BarePasses.at_best_batch_size(subject.model, subject.inputs)
    rows = [Row(contender, contender.images_for(len(subject.labels))) for contender in contenders]
    spent = dict.fromkeys((row.contender.key for row in rows), 0.0)
    for repeat in range(repeats):
        for row in rows if repeat % 2 == 0 else reversed(rows):
            key = row.contender.key
            if row.status or (repeat > 0 and spent[key] > budget_s):
                continue
            inputs, labels = subject.inputs[: row.images], subject.labels[: row.images]
            try:
                outcome = run(row.contender, subject.model, inputs, labels, bare, limit_s=limit_s)
            except Exception as error:  # one library's failure is a row, not the end of the comparison
                row.status = f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
                _say(f"  {key}: {row.status}")
                continue
            spent[key] += outcome.cpu_s * row.images
            row.runs.append(outcome)
            _say(f"  round {repeat + 1}, {key}: {outcome.cpu_s * row.images:.1f} s")
    return rows, bare


def has_batch_norm(model: nn.Module) -> bool:
    """Whether there is batch normalisation to fold into convolutions."""
    return any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attacks", description="Attack libraries side by side."
    )
    add = parser.add_argument
    add("--data-dir", help="where MNIST and CIFAR-10 lie (default: as robustlab looks for them)")
    add(
        "--cache",
        type=Path,
        default=Path("~/.cache/robustlab/benchmarks"),
        help="where trained models are kept",
    )
    add("--images", type=int, default=64, help="correctly classified test images to attack")
    add("--skip", type=int, default=0, help="leave so many test images out from the start")
    add("--repeats", type=int, default=3, help="runs of each contender")
    add("--budget-s", type=float, default=600, help="a contender past this CPU time is not repeated")
    add("--limit-s", type=float, default=7200, help="a run past this CPU time is given up")
    add("--threads", type=int, default=1, help="torch's threads")
    add("--epochs", type=int, help="train the models for so many epochs (default: each model's own)")
    add("--train-images", type=int, help="train on the first so many images only")
    add("--models", nargs="+", choices=[plan.name for plan in PLANS], help="only these models")
    add("--only", nargs="+", metavar="TEXT", help="only contenders whose name holds one of these texts")
    add("--quick", action="store_true", help="smoke run: 4 images, a tenth of the iterations, hasty models")
    add("--machine", help="name of the results file (default: the CPU's model)")
    add("--out", type=Path, help="write the results here instead")
    add("--remark", default="", help="a sentence that goes into the results file")
    return parser


def _chosen(options: argparse.Namespace) -> list[Contender]:
    effort = Effort(options.quick)
    for library, reason in missing_peers().items():
        _say(f"{library} is left out: {reason}")
    contenders = robustlab_contenders(effort) + peer_contenders(effort)
    if options.only:
        contenders = [c for c in contenders if any(text in c.key for text in options.only)]
        if not contenders:
            raise SystemExit(f"no contender's name holds any of {options.only}")
    return contenders


def _model_json(subject: Subject, rows: Sequence[Row], bare: BarePasses) -> dict[str, Any]:
    bare_pass_s = [outcome.bare_pass_s for row in rows for outcome in row.runs]
    return {
        "name": subject.name,
        "clean_accuracy": subject.clean_accuracy,
        **subject.description,
        "bare_batch_size": len(bare.inputs),
        "bare_pass_s": spread(bare_pass_s) if bare_pass_s else None,
        "attacks": [row.as_json() for row in rows],
    }


def _closing_tables(all_figures: Sequence[Figure], quick: bool) -> str:
    lines = ["", "## Figures", ""]
    if quick:
        lines += ["A smoke run: hasty models, a tenth of the iterations. These are no measurements.", ""]
    missing = missing_peers()
    if missing:
        lines += [f"Not installed, so not compared: {', '.join(sorted(missing))}.", ""]
    return "\n".join([*lines, figures_table(all_figures)])


def _circumstances(options: argparse.Namespace) -> dict[str, Any]:
    return {
        **circumstances(options.threads, ("torch", "numpy", *PEERS)),
        "machine": options.machine or cpu_model(),
        "missing": missing_peers(),
        "quick": options.quick,
        "images": options.images,
        "skip": options.skip,
        "repeats": options.repeats,
        "budget_s": options.budget_s,
        "limit_s": options.limit_s,
        "remark": options.remark,
    }


def _write(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
