"""The report's content: what it shows, what it says where there is nothing to show, and how long it takes."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from robustlab.models import TABLE_1
from robustlab.study.cell import Cell
from robustlab.study.report import StudyRecord, judge_studies, render_report, verdict_rows
from robustlab.study.report.beside_paper import paper_rows
from robustlab.study.tables import verdicts_table
from tests.study.made_up_studies import CIFAR_SIZES, cell_record, study_record, whole_study


class _Reader(HTMLParser):
    """The page's visible text, its chart data and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.charts: list[dict] = []
        self.tags: list[tuple[str, dict]] = []
        self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        self._hidden = tag in ("script", "style")
        if "data-chart" in given:
            self.charts.append(json.loads(given["data-chart"] or ""))

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All visible text, spaces collapsed."""
        return " ".join(" ".join(self.texts).split())


def page_of(*studies: StudyRecord, draws: int = 999) -> _Reader:
    """The rendered report, read."""
    return _Reader(render_report(studies, judge_studies(studies, draws=draws)))


def test_says_what_was_done_and_found() -> None:
    """Verdict with its numbers, data, sizes, attacks, digest, recipe, versions, findings: all in the text."""
    study = whole_study(seeds=(0,))
    page = page_of(study)
    (l2, _) = verdict_rows(judge_studies([study], draws=999))
    assert l2.kind == "turning point"
    assert l2.because in page.text
    for needed in (
        "2 of 2 curves have a turning point",
        "digits: perceptron, trained on 3 nested balanced subsets (100 to 400 images), 1 seed: 3 models",
        "Carlini-Wagner (L2) and I-FGSM (Linf)",
        "One training run per size",
        "d1ge57",
        "Training recipe: perceptron",
        "2.15.0",
        "On MNIST robustness stays flat",
        "Nothing: every cell of the grid finished",
    ):
        assert needed in page.text, needed
    assert all(f"{row.parameters:,}" in page.text for row in TABLE_1)


def test_distances_stand_beside_the_papers_axes() -> None:
    """Each curve of a data set that the paper has: its axis, our lowest and highest mean, how they lie."""
    cells = [
        cell_record(Cell("cifar10", model, False, size, 0), level=level)
        for model, level in (("perceptron", 0.4), ("resnet", 0.4), ("simple_cnn", 0.1))
        for size in (1000, 5000)
    ]
    study = study_record(cells, "cifar10")
    judgement = judge_studies([study], draws=199)
    rows = {(row.model, row.norm): row for row in paper_rows(judgement)}
    means = [cell.result.l2 for cell in cells[:2]]
    perceptron = rows["2-layer perceptron", "L2"]
    assert (perceptron.paper, perceptron.place) == ("0.3 to 0.55", "within it")
    assert perceptron.ours == f"{min(means):.4g} to {max(means):.4g}"  # type: ignore[type-var]
    assert rows["ResNet-32", "L2"].place == "above it"
    assert rows["Simple CNN, 7 layers", "L2"].place == "below it"
    assert rows["2-layer perceptron", "Linf"].paper == "0 to 0.025"
    text = page_of(study).text
    assert "Beside the paper's figures" in text
    assert perceptron.ours in text
    assert not paper_rows(judge_studies([whole_study(seeds=(0,))], draws=199)), "the paper has no digits"


def test_charts_hold_the_measured_numbers() -> None:
    """Means over seeds, each seed, the interval around the mean; the star where the verdict puts the peak."""
    study = whole_study(seeds=(0, 1, 2), sizes=(100, 200, 400))
    page = page_of(study)
    l2 = page.charts[1]
    (series,) = l2["series"]
    for point in series["points"]:
        scores = [c.result.l2 for c in study.cells if c.result.cell.train_size == point["x"]]
        assert point["y"] == pytest.approx(np.mean(scores))  # type: ignore[arg-type]
        assert point["seeds"] == pytest.approx(scores)
        assert point["lo"] < point["y"] < point["hi"]
    assert series["peak"]["x"] == 200
    assert "at 200" in l2["alt"]
    eps = page.charts[-2]
    assert eps["series"][0]["points"][0]["y"] == 100
    distances = np.concatenate(
        [c.arrays["l2_distance"] for c in study.cells if c.result.cell.train_size == 100]
    )
    for point in eps["series"][0]["points"][::20]:
        assert point["y"] == pytest.approx(100 * (distances > point["x"]).mean(), abs=1.0)


def test_data_cannot_inject_markup() -> None:
    """Names of classes, data sets and runs are text wherever they appear."""
    evil = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>"
    study = whole_study(seeds=(0,))
    facts = {**study.dataset, "class_names": [evil] * 10}
    study = replace(
        study,
        name=evil,
        dataset=facts,
        tags={"robustlab.dataset": evil},
        unfinished=[(evil, evil)],
        packages=[evil],
    )
    page = page_of(study)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert not any(attributes.get("src") == "x" for _, attributes in page.tags)
    assert unescape(evil) in page.text


def test_nothing_is_loaded_from_elsewhere() -> None:
    """No address but data: and the page's own sections."""
    page = page_of(whole_study())
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:", "#")), (tag, address)


def test_every_picture_has_a_text() -> None:
    """Images carry alternative text; charts a sentence with their numbers."""
    page = page_of(whole_study())
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) > 10
    assert all(attributes.get("alt") for attributes in pictures)
    assert all(len(chart["alt"]) > 40 for chart in page.charts)


def test_a_missing_cell_is_a_gap_and_named() -> None:
    """A size that one seed lacks has no mean, no part in the verdict, and a line that says why."""
    whole = whole_study(sizes=(100, 200, 400, 800))
    cells = [c for c in whole.cells if (c.result.cell.train_size, c.result.cell.seed) != (200, 1)]
    gone = ("digits perceptron, 200 images, seed 1", "the training loss was nan")
    page = page_of(replace(whole, cells=cells, unfinished=[gone]))
    by_size = {point["x"]: point["y"] for point in page.charts[1]["series"][0]["points"]}
    assert by_size[200] is None
    assert by_size[100] is not None
    assert "size 200 left out (seed 1: never finished)" in page.text
    assert "the training loss was nan" in page.text


def test_a_missed_image_is_said_not_drawn() -> None:
    """Where the attack failed there is no mean; the verdict leaves the size out, the gallery says nothing was found."""
    cells = [
        cell_record(Cell("digits", "perceptron", False, size, 0), missed=size == 400)
        for size in (100, 200, 400)
    ]
    page = page_of(study_record(cells))
    assert [point["y"] is None for point in page.charts[1]["series"][0]["points"]] == [False, False, True]
    assert "size 400 left out (seed 0: the attack missed images)" in page.text
    assert "nothing found" in page.text
    assert "missed 1 of 60" in page.text


def test_no_common_correct_image() -> None:
    """No image to attack: no curve, no division by zero, a sentence instead."""
    cells = [cell_record(Cell("digits", "perceptron", False, size, 0), images=0) for size in (100, 200)]
    page = page_of(study_record(cells))
    assert "no size has a score for every seed" in page.text
    assert "NaN" not in json.dumps(page.charts)
    assert "undecided" in page.text


def test_a_single_size() -> None:
    """One size has no turning point; its point is drawn all the same."""
    page = page_of(whole_study(sizes=(100,), seeds=(0,)))
    assert "A single training size has no turning point." in page.text
    assert len(page.charts[1]["series"][0]["points"]) == 1


def test_a_study_without_attacks_or_cells() -> None:
    """Models that were only trained show accuracy; a study without a finished cell says so."""
    trained = [
        replace(c, arrays={}, examples={}, result=replace(c.result, l2=None, linf=None, images=0))
        for c in whole_study().cells
    ]
    page = page_of(study_record(trained))
    assert "No model was attacked" in page.text
    assert len(page.charts) == 1
    assert (
        "no cell has finished" in page_of(study_record([], unfinished=[("digits perceptron", "failed")])).text
    )


def test_a_study_of_an_older_version_has_no_gallery() -> None:
    """Without kept images or facts of the data set the rest is there, and what is missing is named."""
    cells = [replace(c, examples={}) for c in whole_study().cells]
    page = page_of(study_record(cells, dataset="digits"), draws=199)
    assert "it kept no adversarial images" in page.text
    older = replace(study_record(cells), dataset={}, packages=[])
    assert "Peak may be at" in page_of(older, draws=199).text


def test_several_studies_share_one_correction() -> None:
    """Two data sets in one page: both are named, and every p value pays for all curves."""
    one, other = whole_study("mnist", seeds=(0,)), whole_study("cifar10", seeds=(0,))
    page = page_of(one, other)
    assert page.text.count("for the 4 curves shown") == 1
    assert {"mnist", "cifar10"} <= set(page.text.split())
    alone = judge_studies([one], draws=999)
    together = judge_studies([one, other], draws=999)
    p_alone = [verdict.p for verdict in alone.verdicts.values()]
    p_together = [verdict.p for verdict in together.verdicts.values()][:2]
    assert all(later >= earlier for later, earlier in zip(p_together, p_alone, strict=True))


def test_the_terminal_table_fits_80_columns() -> None:
    """Verdict, peak, fall and p of every curve, nothing cut, the one-seed caution below."""
    judgement = judge_studies(
        [whole_study("tinyimagenet", ("simple_cnn+aug", "densenet+aug"), seeds=(0,))], draws=999
    )
    console = Console(width=80, file=StringIO(), color_system=None)
    console.print(verdicts_table(verdict_rows(judgement), one_seed=True))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert text.count("turning point") == 4
    assert "One seed" in text


@pytest.mark.slow
def test_a_large_report_is_quick_and_small() -> None:
    """66 cells x 1,000 images x 10,000 draws with CIFAR-10's pictures: at most 20 s and 8 MB."""
    variants = ("perceptron", "simple_cnn", "resnet", "resnet+aug", "densenet", "densenet+aug")
    study = whole_study("cifar10", variants, CIFAR_SIZES, (0,), images=1_000, shape=(3, 32, 32))
    assert len(study.cells) == 66
    started = time.perf_counter()
    page = render_report([study], judge_studies([study]))
    assert time.perf_counter() - started <= 20
    assert len(page.encode()) <= 8_000_000


def test_overestimates_stand_beside_the_verdicts() -> None:
    """A score that other attacks showed to be too high is named in the first section, with its cell; others are not."""
    study = whole_study(seeds=(0,))
    said = "L2: the score is an overestimate: other attacks come nearer on 4 of 8 images"
    doubtful = replace(study.cells[1], result=replace(study.cells[1].result, suspicion=said))
    page = page_of(replace(study, cells=[study.cells[0], doubtful, *study.cells[2:]])).text
    assert f"digits perceptron, 200 images, seed 0: {said}" in page
    assert page.index("Suspected overestimates") < page.index("Accuracy and distortion against training size")
    assert "Suspected overestimates" not in page_of(study).text
