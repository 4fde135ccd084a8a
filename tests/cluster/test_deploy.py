"""The page on deployment is followed word for word; many writers at once on a server with authentication."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

PROJECT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def commands() -> list[str]:
    """The page's blocks of commands."""
    return re.findall(r"^```bash\n(.*?)^```$", (PROJECT / "docs" / "deploy.md").read_text(), re.M | re.S)


def run_script(script: str, folder: Path, timeout_s: float) -> str:
    """Run it with bash, programs of this environment first; ends what it left in the background; its output."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PG"))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment["PYTHONPATH"] = os.pathsep.join([str(PROJECT), str(PROJECT / "kernels")])
    environment["OMP_NUM_THREADS"] = "1"
    log = folder / "log.txt"
    with log.open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-e", "-o", "pipefail", "-x", "-c", script],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            status = shell.wait(timeout_s)
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
    server = folder / "server.log"
    shown = log.read_text() + (server.read_text()[-3000:] if server.exists() else "")
    assert status == 0, shown[-6000:]
    return shown


@pytest.fixture
def page(postgres: str, tmp_path: Path) -> list[str]:
    """The blocks, with this test's ports and account in the first one."""
    for program in ("psql", "curl", "ray"):
        beside = Path(sys.executable).parent / program
        if shutil.which(program) is None and not beside.exists():
            pytest.fail(
                f"docs/deploy.md needs {program}; install it (Debian: postgresql-client, curl; pip: ray)"
            )
    server = urlsplit(postgres)
    first, *rest = commands()
    for name, value in (("PGPORT", server.port), ("PGUSER", server.username), ("PORT", free_port())):
        first = re.sub(rf"\b{name}=\S+", f"{name}={value}", first)
    drop = "".join(
        f"psql -d postgres -c 'DROP DATABASE IF EXISTS {name} WITH (FORCE)'\n"
        for name in ("robustlab", "robustlab_users", "robustlab_tuning")
    )
    # This checkout's program, whatever is installed.
    ours = 'robustlab() { python -m robustlab "$@"; }\n'
    return [ours + first + drop, *rest]


def test_the_page_is_followed_word_for_word(page: list[str], tmp_path: Path) -> None:
    """Every command succeeds in order; the study's cells are done, on the Ray cluster too."""
    shown = run_script("\n".join(page), tmp_path, 560)
    assert "2 of 2 cells done" in shown
    assert shown.count("Where does robustness turn down?") == 2
    assert (tmp_path / "artifacts").is_dir()


EIGHT = """
python -m tests.study.many_at_once 8 study --models perceptron --sizes 50,100 --seeds 0,1 --epochs 1 \\
  --attack-images 4 --cw max_iterations=10,binary_search_steps=1 --ifgsm steps=3,tolerance=0.3 --device cpu || {
  tail -n 3 ?.txt; exit 1; }
MLFLOW_TRACKING_PASSWORD=wrong robustlab status --once && exit 1
python - <<'END'
import mlflow

runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
cells = [run for run in runs if run.data.tags["robustlab.kind"] == "cell"]
assert sorted(run.info.status for run in cells) == 4 * ["FINISHED"], [run.info.status for run in cells]
assert len({run.data.tags["robustlab.cell"] for run in cells}) == 4
studies = [run for run in runs if run.data.tags["robustlab.kind"] == "study"]
assert [run.info.status for run in studies] == 8 * ["FINISHED"]
versions = mlflow.MlflowClient().search_model_versions("name = 'digits-perceptron'")
assert sorted(version.run_id for version in versions) == sorted(run.info.run_id for run in cells)
print("nothing lost, nothing doubled")
END
"""


def test_eight_writers_at_once(page: list[str], tmp_path: Path) -> None:
    """Eight identical studies started together on an empty server end well and leave one finished run per cell."""
    settings = "\n".join(line for line in page[4].splitlines() if line.startswith("export"))
    shown = run_script("\n".join([*page[:4], settings, EIGHT]), tmp_path, 580)
    assert "nothing lost, nothing doubled" in shown
    assert "Traceback" not in (tmp_path / "server.log").read_text()
