"""The report in a real browser: it draws, answers the pointer and the keyboard, and asks the network for nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from robustlab.study.report import judge_studies, write_report
from tests.browser.conftest import SmallStudy, Watched
from tests.study.made_up_studies import whole_study

Open = Callable[..., Watched]


def test_opens_from_a_file_without_errors_or_requests(study: SmallStudy, open_page: Open) -> None:
    """One file is all there is: every chart draws its lines, and nothing is fetched."""
    watched = open_page(study.report)
    page = watched.page
    plots = page.locator(".plot")
    assert plots.count() == 3 + 2 + 4
    for index in range(plots.count()):
        means = plots.nth(index).locator("path.mean")
        assert means.count() >= 1
        assert len(means.first.get_attribute("d") or "") > 20
    assert page.locator(".shot img").count() > 20
    broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).length")
    assert broken == 0
    assert watched.errors == []
    assert [url for url in watched.requests if not url.startswith(("file:", "data:"))] == []


def test_toggles_show_and_hide(study: SmallStudy, open_page: Open) -> None:
    """Intervals, single seeds and the shared scale can be switched off and on again."""
    page = open_page(study.report).page
    for name, selector in (("intervals", ".interval"), ("seeds", ".seed")):
        before = page.locator(f"#curves {selector}").count()
        assert before > 0
        page.locator(f"[data-toggle={name}]").uncheck()
        assert page.locator(f"#curves {selector}").count() == 0
        page.locator(f"[data-toggle={name}]").check()
        assert page.locator(f"#curves {selector}").count() == before
    l2 = page.locator("#curves .plot").nth(1)
    labels = l2.locator("svg text").all_text_contents()
    assert any(float(label) == 0 for label in labels[:2])
    page.locator("[data-toggle=shared]").uncheck()
    assert l2.locator("svg text").all_text_contents() != labels
    before_log = l2.locator("path.mean").first.get_attribute("d")
    page.locator("[data-toggle=log]").check()
    assert l2.locator("path.mean").first.get_attribute("d") != before_log


def test_values_can_be_read_with_pointer_and_keyboard(study: SmallStudy, open_page: Open) -> None:
    """The tip holds size, mean, interval and seeds of the point; arrow keys walk through the sizes."""
    page = open_page(study.report).page
    plot = page.locator("#curves .plot").nth(1)
    plot.hover(position={"x": 300, "y": 80})
    tip = page.locator("#tip")
    expect(tip).to_be_visible()
    expect(tip).to_contain_text("400 training images")
    expect(tip).to_contain_text("seeds:")
    result = [
        r
        for r in study.finished.outcome.results
        if r.cell.variant == "perceptron" and r.cell.train_size == 100
    ]
    plot.focus()
    for _ in range(2):
        plot.press("ArrowLeft")
    expect(tip).to_contain_text("100 training images")
    expect(tip).to_contain_text(f"{sum(r.l2 or 0 for r in result) / 2:.4f}".rstrip("0"))
    plot.press("Escape")
    expect(tip).to_be_hidden()


def test_dragging_zooms_and_resets(study: SmallStudy, open_page: Open) -> None:
    """A drag across two sizes shows only them; the button brings all back."""
    page = open_page(study.report).page
    plot = page.locator("#curves .plot").nth(1)
    plot.scroll_into_view_if_needed()
    whole = plot.locator("path.mean").first.get_attribute("d")
    area = plot.bounding_box()
    assert area is not None
    reset = page.get_by_role("button", name="Reset zoom: 2-layer perceptron: Mean L2 distortion")
    expect(reset).to_be_hidden()
    page.mouse.move(area["x"] + 50, area["y"] + 80)
    page.mouse.down()
    page.mouse.move(area["x"] + 170, area["y"] + 80, steps=5)
    page.mouse.up()
    expect(reset).to_be_visible()
    assert plot.locator("path.mean").first.get_attribute("d") != whole
    reset.click()
    assert plot.locator("path.mean").first.get_attribute("d") == whole


def test_charts_can_be_saved(study: SmallStudy, open_page: Open, tmp_path: Path) -> None:
    """SVG and PNG come as files that are what they say."""
    page = open_page(study.report).page
    for kind in ("SVG", "PNG"):
        with page.expect_download() as waiting:
            page.get_by_role(
                "button", name=f"Download as {kind}: 2-layer perceptron: Mean L2 distortion"
            ).click()
        path = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(path)
        assert path.suffix == f".{kind.lower()}"
        if kind == "SVG":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
            assert "2-layer perceptron: Mean L2 distortion" in path.read_text()
        else:
            assert path.read_bytes().startswith(b"\x89PNG")
            assert path.stat().st_size > 5_000


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_fits_the_width(study: SmallStudy, open_page: Open, width: int) -> None:
    """No sideways scrolling of the page, on a phone either; charts keep a readable width."""
    page = open_page(study.report, width=width).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    narrowest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('.plot svg')].map(s => s.clientWidth))"
    )
    assert narrowest >= 200


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_accessible(study: SmallStudy, open_page: Open, width: int, dark: bool) -> None:
    """axe finds no serious or critical fault, light and dark, wide and narrow, with everything unfolded."""
    page = open_page(study.report, width=width, dark=dark).page
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = Axe().run(page).response["violations"]
    serious = [
        (one["id"], [node["target"] for node in one["nodes"]][:3])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_curves_differ_in_more_than_colour(study: SmallStudy, open_page: Open) -> None:
    """In a chart with several lines, no two share both dash and marker."""
    page = open_page(study.report).page
    charts = page.evaluate("[...document.querySelectorAll('.plot')].map(p => JSON.parse(p.dataset.chart))")
    for chart in charts:
        styles = [(one.get("dash"), one.get("marker")) for one in chart["series"]]
        assert len(set(styles)) == len(styles), chart["title"]


def test_drawn_heights_are_the_scores(study: SmallStudy, open_page: Open) -> None:
    """What the eye measures on the axis is what MLflow holds."""
    page = open_page(study.report).page
    plot = page.locator("#curves .plot").nth(1)
    heights = plot.evaluate(
        """host => {
          const ticks = [...host.querySelectorAll('svg text')].filter(t => t.getAttribute('text-anchor') === 'end');
          const at = ticks.map(t => [parseFloat(t.getAttribute('y')) - 4, parseFloat(t.textContent)]);
          const [a, b] = [at[0], at[at.length - 1]];
          const path = host.querySelector('path.mean').getAttribute('d').match(/[\\d.]+ [\\d.]+/g);
          return path.map(p => a[1] + (parseFloat(p.split(' ')[1]) - a[0]) * (b[1] - a[1]) / (b[0] - a[0]));
        }"""
    )
    for size, height in zip((100, 200, 400), heights, strict=True):
        scores = [
            r.l2
            for r in study.finished.outcome.results
            if r.cell.variant == "perceptron" and r.cell.train_size == size
        ]
        assert height == pytest.approx(sum(filter(None, scores)) / 2, rel=0.01)


def test_hostile_names_run_nothing(tmp_path: Path, open_page: Open) -> None:
    """Names of classes, data sets, runs, tags and failures that are markup are shown as text, and none of it runs."""
    evil = '<img src=x onerror="window.pwned=1">\'</script><script>window.pwned=2</script>{{7*7}}javascript:pwned=3'
    study = whole_study(seeds=(0,))
    doubtful = replace(
        study.cells[0], warning=evil, result=replace(study.cells[0].result, suspicion=f"L2: {evil}")
    )
    study = replace(
        study,
        name=evil,
        cells=[doubtful, *study.cells[1:]],
        dataset={**study.dataset, "name": evil, "class_names": [evil] * 10},
        tags={
            **study.tags,
            "robustlab.dataset": evil,
            "robustlab.code": evil,
            "mlflow.source.git.commit": evil,
        },
        params={**study.params, "grid.attacks": evil, "cw.evil": evil},
        unfinished=[(evil, evil)],
        packages=[evil],
    )
    path = write_report([study], judge_studies([study], draws=99), tmp_path)
    watched = open_page(path.as_uri())
    for plot in watched.page.locator(".plot").all()[:3]:
        plot.hover(position={"x": 200, "y": 80})
    assert watched.page.evaluate("window.pwned") is None
    assert watched.errors == []
    assert [url for url in watched.requests if not url.startswith(("file:", "data:"))] == []
    assert watched.page.locator("script").count() == 1
    assert "<img src=x onerror=" in watched.page.locator("body").inner_text()
