"""Make the pictures of docs/mlflow-ui.md from a running MLflow server: screenshots.py <address> <experiment id>."""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from robustlab.study.read_back import find_study
from robustlab.study.ui_view import VIEW_KEY

HERE = Path(__file__).parent
WAIT_MS = 60_000


def save(page: Page, name: str) -> None:
    """A screenshot with 64 colours: a tenth of the bytes, and text stays sharp."""
    page.wait_for_timeout(2_500)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(64).save(HERE / name, optimize=True)


def main(server: str, experiment: str) -> None:
    """Table of cells, charts, report in the artifact viewer."""
    mlflow.set_tracking_uri(server)
    study = find_study(MlflowClient(), None).info.run_id
    chromium = os.environ.get("ROBUSTLAB_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 800})
        page.goto(f"{server}/#/experiments/{experiment}/runs?viewStateShareKey={VIEW_KEY}")
        page.get_by_text("test_accuracy").first.wait_for(timeout=WAIT_MS)
        assistant = page.get_by_role("button", name="Close")
        if assistant.count():
            assistant.first.click()
        save(page, "cells.png")
        page.locator("input[type=radio][value=CHART]").evaluate("button => button.click()")
        page.locator(".scatterlayer .point").first.wait_for(state="attached", timeout=WAIT_MS)
        save(page, "charts.png")
        page.goto(f"{server}/#/experiments/{experiment}/runs/{study}/artifacts/report.html")
        page.frame_locator("iframe.mlflow-html-iframe").locator("path.mean").first.wait_for(
            state="attached", timeout=WAIT_MS
        )
        page.get_by_text("Path:").evaluate("line => line.style.visibility = 'hidden'")  # of this machine
        save(page, "report.png")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
