"""MLflow's own UI on a finished study: the report in its viewer, columns and charts without any set-up."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import expect

from robustlab.study.ui_view import VIEW_KEY
from tests.browser.conftest import SmallStudy, Watched

Open = Callable[..., Watched]
_WAIT_MS = 30_000


def test_the_artifact_viewer_shows_the_report(study: SmallStudy, server: str, open_page: Open) -> None:
    """In the viewer's sandbox the page draws as from a file, and a toggle still works."""
    run = study.finished.run_id
    watched = open_page(
        f"{server}/#/experiments/{study.experiment_id}/runs/{run}/artifacts/report.html", width=1500
    )
    frame = watched.page.frame_locator("iframe.mlflow-html-iframe")
    expect(frame.locator("#curves path.mean").first).to_be_attached(timeout=_WAIT_MS)
    assert frame.locator(".plot svg").count() == 9
    frame.locator("[data-toggle=seeds]").uncheck()
    expect(frame.locator("#curves .seed")).to_have_count(0)
    assert [error for error in watched.errors if error.startswith("blob:") or "robustlab" in error] == []
    foreign = [url for url in watched.requests if not url.startswith((server, "data:", "blob:"))]
    assert foreign == []


def test_the_view_has_the_columns(study: SmallStudy, server: str, open_page: Open) -> None:
    """The address that the study prints shows a row per cell with what identifies and what it measured."""
    page = open_page(
        f"{server}/#/experiments/{study.experiment_id}/runs?viewStateShareKey={VIEW_KEY}", 1700
    ).page
    header = page.locator(".ag-header")
    for column in ("dataset", "model", "train_size", "seed", "test_accuracy", "l2", "linf"):
        expect(header.get_by_text(column, exact=True)).to_be_visible(timeout=_WAIT_MS)
    expect(page.get_by_text("12 matching runs")).to_be_visible()
    expect(page.get_by_role("link", name="digits perceptron+aug 100 seed 1")).to_be_visible()


def test_the_view_draws_the_cells_against_the_size(study: SmallStudy, server: str, open_page: Open) -> None:
    """One click on the chart symbol: accuracy, L2 and Linf of every cell against the training size."""
    page = open_page(
        f"{server}/#/experiments/{study.experiment_id}/runs?viewStateShareKey={VIEW_KEY}", 1700
    ).page
    switch = page.locator("input[type=radio][value=CHART]")
    expect(switch).to_be_attached(timeout=_WAIT_MS)
    switch.evaluate("button => button.click()")
    for metric in ("test_accuracy", "l2", "linf"):
        expect(page.get_by_text(f"train_size vs. {metric}")).to_be_visible(timeout=_WAIT_MS)
    expect(page.locator(".scatterlayer .point").first).to_be_attached(timeout=_WAIT_MS)
    assert page.locator(".scatterlayer .point").count() >= 3 * 12


def test_the_studys_page_shows_its_verdicts(study: SmallStudy, server: str, open_page: Open) -> None:
    """The parent run's tags name the verdict of each curve."""
    page = open_page(f"{server}/#/experiments/{study.experiment_id}/runs/{study.finished.run_id}").page
    expect(page.get_by_text("verdict.l2.perceptron").first).to_be_visible(timeout=_WAIT_MS)
