"""A small real study, its report, MLflow's own server on it, and a browser that remembers what went wrong."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import pytest
import torch
from playwright.sync_api import Browser, Page, sync_playwright

from robustlab.attacks import IFGSM, CarliniWagnerL2
from robustlab.data import load_dataset
from robustlab.study.conduct import FinishedStudy, conduct_study
from robustlab.study.plan import plan_study


@dataclass
class Watched:
    """A page with its console errors, script errors and requests that left the machine's files."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium; a missing one fails the tests, because skipped ones would pass unseen."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("ROBUSTLAB_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.fail(
            "no Chromium for the browser tests: apt-get install chromium, or name one in ROBUSTLAB_CHROMIUM"
        )
    with sync_playwright() as playwright:
        # Chromium's own sandbox needs rights that containers do not give; the pages are ours.
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Open an address at a width, light or dark."""
    opened = []

    def open_(address: str, width: int = 1280, dark: bool = False) -> Watched:
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        watched = Watched(page)
        page.on("pageerror", lambda error: watched.errors.append(str(error)))
        page.on(
            "console",
            lambda message: (
                watched.errors.append(f"{message.location.get('url')}: {message.text}")
                if message.type == "error"
                else None
            ),
        )
        page.on("request", lambda request: watched.requests.append(request.url))
        opened.append(page)
        page.goto(address)
        return watched

    yield open_
    for page in opened:
        page.close()


@dataclass(frozen=True)
class SmallStudy:
    """A finished study, where its store lies, and its report."""

    finished: FinishedStudy
    folder: Path
    experiment_id: str

    @property
    def report(self) -> str:
        """The report's address as a file."""
        return Path(self.finished.report).as_uri()


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> SmallStudy:
    """A model with and without augmentation, three sizes, two seeds of the digits, lightly attacked."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copy(empty_store, folder / "mlflow.db")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    here = Path.cwd()
    os.chdir(folder)
    try:
        plan = plan_study(
            load_dataset("digits"),
            models=["perceptron", "perceptron+aug"],
            sizes=[100, 200, 400],
            seeds=[0, 1],
            attack_images=40,
            epochs=3,
            cw=CarliniWagnerL2(binary_search_steps=3, max_iterations=30),
            ifgsm=IFGSM(steps=5, tolerance=0.1),
            device=torch.device("cpu"),
        )
        finished = conduct_study(plan)
        experiment = mlflow.get_run(finished.run_id).info.experiment_id
    finally:
        os.chdir(here)
        mlflow.set_tracking_uri(before)
    return SmallStudy(finished, folder, experiment)


@pytest.fixture(scope="session")
def server(study: SmallStudy) -> Iterator[str]:
    """MLflow's own server on the study's store."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{study.folder}/mlflow.db",
    ]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        cwd=study.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=2):
                    break
            except OSError:
                time.sleep(0.25)
        else:
            pytest.fail("mlflow server did not answer within a minute")
        yield address
    finally:
        process.terminate()
        process.wait()
