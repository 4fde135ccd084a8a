"""The report: one HTML page that holds everything it shows and asks the network for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from robustlab import __version__
from robustlab.evidence import FLAT_MARGIN, ONE_SEED, explain, headline, peak_range
from robustlab.evidence.wording import p, percent
from robustlab.files import write_atomically
from robustlab.study.cell import CellResult
from robustlab.study.report.beside_paper import paper_rows
from robustlab.study.report.charts import (
    accuracy_against_robustness,
    figure_rows,
    model_name,
    robust_accuracy,
)
from robustlab.study.report.curves import NORM_NAMES, CurveKey, Judgement
from robustlab.study.report.gallery import galleries
from robustlab.study.report.provenance import facts, parameter_table, settings_tables
from robustlab.study.report.record import StudyRecord

FILE_NAME = "report.html"


@dataclass(frozen=True)
class VerdictRow:
    """A line of the turning-point table, in words."""

    dataset: str
    model: str
    norm: str
    kind: str
    verdict: str
    peak: str
    fall: str
    p: str
    images: str
    seeds: str
    because: str


def verdict_rows(judgement: Judgement) -> list[VerdictRow]:
    """The verdicts in the order of the figure."""
    return [_row(key, judgement) for key in judgement.verdicts]


def render_report(studies: Sequence[StudyRecord], judgement: Judgement) -> str:
    """The page as text; everything that comes from data is escaped by the template engine."""
    environment = Environment(
        loader=PackageLoader("robustlab.study.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    source = environment.loader
    assert source is not None
    style, script = (Markup(source.get_source(environment, name)[0]) for name in ("page.css", "charts.js"))
    parts = [
        {
            "record": study,
            "dataset": study.tags.get("robustlab.dataset", study.name),
            "facts": facts(study),
            "rows": figure_rows(study, number, judgement),
            "scatter": accuracy_against_robustness(study, number, judgement),
            "robust": robust_accuracy(study, number, judgement),
            "galleries": galleries(study, budget=2_500_000 // max(1, len(studies))),
            "settings": settings_tables(study),
            "left_out": _left_out(study, number, judgement),
        }
        for number, study in enumerate(studies)
    ]
    rows = verdict_rows(judgement)
    return environment.get_template("page.html.jinja").render(
        parts=parts,
        verdicts=rows,
        others=_others(rows),
        turning=[row for row in rows if row.kind == "turning point"],
        findings=judgement.findings,
        beside_paper=paper_rows(judgement),
        table1=parameter_table(studies),
        suspicions=[line for study in studies for line in suspicions(study.results)],
        one_seed=ONE_SEED if judgement.seeds == 1 else "",
        margin=f"{FLAT_MARGIN:.0%}",
        version=__version__,
        style=style,
        script=script,
    )


def write_report(studies: Sequence[StudyRecord], judgement: Judgement, folder: Path) -> Path:
    """Write ``report.html`` into a folder and return its path."""
    path = folder / FILE_NAME
    with write_atomically(path) as file:
        file.write(render_report(studies, judgement).encode())
    return path


def suspicions(results: Sequence[CellResult]) -> list[tuple[str, str]]:
    """(cell, what is suspected) of every cell whose score other attacks showed to be an overestimate."""
    return [(one.cell.shown, one.suspicion) for one in results if one.suspicion]


def _row(key: CurveKey, judgement: Judgement) -> VerdictRow:
    verdict, curve = judgement.verdicts[key], judgement.curves[key]
    evidence = verdict.evidence
    falls = evidence is not None and evidence.fall.value > 0
    return VerdictRow(
        dataset=key.dataset,
        model=model_name(key.dataset, key.model) + (", augmented" if key.variant != key.model else ""),
        norm=NORM_NAMES[key.norm],
        kind=verdict.kind,
        verdict=headline(verdict),
        peak=peak_range(evidence) if evidence is not None else "-",
        fall=percent(evidence.relative_fall)
        if evidence is not None and falls
        else "none seen"
        if evidence
        else "-",
        p=p(verdict.p).removeprefix("p = ").removeprefix("p ") if evidence is not None else "-",
        images=f"{curve.fewest_images:,}" if curve is not None else "0",
        seeds=str(curve.seeds) if curve is not None else "-",
        because=explain(verdict),
    )


def _others(rows: Sequence[VerdictRow]) -> str:
    """How many curves got which other verdict: ``2 still rising, 1 undecided``."""
    kinds = [row.kind for row in rows]
    counts = ((kinds.count(kind), kind) for kind in ("still rising", "flat", "undecided"))
    return ", ".join(f"{count} {kind}" for count, kind in counts if count)


def _left_out(study: StudyRecord, number: int, judgement: Judgement) -> list[tuple[str, str]]:
    """(what, why) of everything that is not in the charts or not in the tests."""
    lines = list(study.unfinished)
    for key, curve in judgement.curves.items():
        if key.study != number:
            continue
        what = f"{key.dataset} {key.variant}, {NORM_NAMES[key.norm]}"
        if curve is None:
            lines.append((what, "no size has a score for every seed: no verdict"))
        else:
            lines += [(what, sentence) for sentence in curve.left_out]
    for cell in study.cells:
        if cell.warning:
            lines.append((cell.result.cell.shown, cell.warning))
    if not any(key.study == number for key in judgement.curves):
        lines.append((study.name, "no model was attacked: there is no robustness to show"))
    elif not any(cell.examples for cell in study.cells):
        lines.append((study.name, "it kept no adversarial images, so there is no gallery"))
    return lines
