"""What was trained, on what, how it was attacked, with which versions: a study's settings as tables."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from robustlab.models import TABLE_1, build_model, parameter_count
from robustlab.study.report.record import StudyRecord

Rows = list[tuple[str, str]]
_SHOWN_PACKAGES = ("torch", "torchvision", "triton", "mlflow", "numpy", "scipy", "optuna", "safetensors")


def facts(study: StudyRecord) -> str:
    """One sentence: what was trained, on what, how it was attacked."""
    results = study.results
    if not results:
        return "No cell of this study has finished."
    sizes = sorted({result.cell.train_size for result in results})
    seeds = sorted({result.cell.seed for result in results})
    variants = list(dict.fromkeys(result.cell.variant for result in results))
    attacks = {"cw": "Carlini-Wagner (L2)", "ifgsm": "I-FGSM (Linf)"}
    used = [attacks.get(name, name) for name in study.params.get("grid.attacks", "").split(",") if name]
    return (
        f"{results[0].cell.dataset}: {', '.join(variants)}, trained on {len(sizes)} nested balanced subsets "
        f"({sizes[0]:,} to {sizes[-1]:,} images), {len(seeds)} seed{'s' if len(seeds) > 1 else ''}: {len(results)} "
        f"models. " + (f"Attacked with minimum-norm {' and '.join(used)}." if used else "Not attacked.")
    )


def settings_tables(study: StudyRecord) -> list[tuple[str, Rows]]:
    """(title, rows) of the data, the grid, the recipes, the attacks' constants, the machine and the versions."""
    params = study.params
    shared = {k: v for k, v in params.items() if "." in k}
    tables = [("Data", _data(study))]
    tables.append(
        ("Grid", [(k.removeprefix("grid."), v) for k, v in sorted(shared.items()) if k.startswith("grid.")])
    )
    tables += [(title, rows) for title, rows in _recipes(shared)]
    for prefix, title in (("cw.", "Carlini-Wagner (L2)"), ("ifgsm.", "I-FGSM (Linf)")):
        rows = [(k.removeprefix(prefix), v) for k, v in sorted(shared.items()) if k.startswith(prefix)]
        tables.append((title, rows))
    tables.append(("Code and machine", _machine(study)))
    return [(title, rows) for title, rows in tables if rows]


def _data(study: StudyRecord) -> Rows:
    facts = study.dataset
    digest = study.params.get("grid.dataset_digest") or str(facts.get("digest", "not stored"))
    rows = [("data set", study.tags.get("robustlab.dataset", str(facts.get("name", "not stored"))))]
    if facts:
        shape = facts["image_shape"]
        names = facts["class_names"]
        rows += [
            ("images", f"{facts['train_images']:,} to train on, {facts['test_images']:,} to test on"),
            ("shape", " x ".join(map(str, shape))),
            (
                "classes",
                f"{len(names)}: {', '.join(map(str, names[:10]))}{' ...' if len(names) > 10 else ''}",
            ),
        ]
    return [*rows, ("SHA-256 of all images and labels", digest)]


def _recipes(params: dict[str, str]) -> list[tuple[str, Rows]]:
    """One table per architecture: parameters are called ``recipe.<setting>.<model>``."""
    tables: dict[str, Rows] = {}
    for key, value in sorted(params.items()):
        parts = key.split(".")
        if parts[0] == "recipe" and len(parts) == 3:
            tables.setdefault(parts[2], []).append((parts[1], value))
    return [(f"Training recipe: {model}", rows) for model, rows in tables.items()]


def _machine(study: StudyRecord) -> Rows:
    tags = study.tags
    rows = [("MLflow run", study.run_id), ("started", study.started)]
    for key, label in (
        ("robustlab.version", "robustlab"),
        ("mlflow.source.git.commit", "commit"),
        ("robustlab.device", "device"),
        ("robustlab.threads", "CPU threads"),
    ):
        if key in tags:
            rows.append((label, tags[key]))
    versions = dict(package.split("==", 1) for package in study.packages if "==" in package)
    return rows + [(name, versions[name]) for name in _SHOWN_PACKAGES if name in versions]


def parameter_table(studies: Sequence[StudyRecord]) -> list[tuple[str, str, str, str, str, str]]:
    """The paper's Table 1 beside our counts, the data sets of these studies first marked as used."""
    used = {(c.result.cell.dataset, c.result.cell.model) for study in studies for c in study.cells}
    rows = []
    for row in TABLE_1:
        with torch.device("meta"):  # shapes without memory: counting needs no weights
            built = parameter_count(build_model(row.model, row.image_shape, row.num_classes))
        equal = "yes" if built == row.parameters else "no"
        mark = "used here" if (row.dataset, row.model) in used else ""
        rows.append((row.dataset, row.paper_name, f"{row.parameters:,}", f"{built:,}", equal, mark))
    return rows
