"""Find the verb, run it, and turn what the user can mend into one line and exit status 2."""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

import typer
from rich.console import Console

from robustlab import __version__
from robustlab.errors import InputError
from robustlab.files import disk_failure
from robustlab.study.secrets import without_password

# Typer's releases differ in where click's exceptions come from (click itself, or a copy); its own name leads there.
UsageProblem: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)

# In which module of this package a verb's function of the same name is, and the first line of its help.
VERBS = {
    "study": (
        "study",
        "Train every model on nested subsets of growing size, attack them all, chart accuracy and robustness.",
    ),
    "status": (
        "status",
        "Show which cells of a study are done, running or failed and why, until the study ends or Ctrl-C.",
    ),
    "report": (
        "report",
        "Judge studies and write their report: one HTML page, the figure and results.csv, into a folder and to MLflow.",
    ),
    "train": (
        "study",
        "Train and register models without attacking them (the largest default size where no size is given).",
    ),
    "attack": (
        "attack",
        "Attack one model on the test images that it gets right, and log the distances as a run.",
    ),
    "tune": (
        "tune",
        "Tune an attack's constants on held-out images, on models of several sizes at once; the study then takes them.",
    ),
    "reproduce": (
        "reproduce",
        "Train and attack a finished cell again and compare weights and distances; writes nothing.",
    ),
    "linear": (
        "models",
        "Section 2 of the paper: the linear example where more data is more accurate and less robust.",
    ),
    "models": (
        "models",
        "Print Table 1: every architecture's trainable parameters, the paper's count beside ours.",
    ),
    "version": ("app", "Print robustlab's version."),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 done, 1 some cells failed, 2 bad input
    or a store or disk that failed, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    verb = next((word for word in given if not word.startswith("-")), "")
    app = typer.Typer(
        help="How does the amount of training data change a classifier's accuracy and its robustness?",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    # Torch and MLflow take seconds to import: only the verb that is asked for does so.
    for name, (module, summary) in VERBS.items():
        if name == verb:
            app.command(name)(_load(module, name))
        else:
            app.command(name, help=summary)(_not_asked_for)
    _quiet_libraries()
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        _check_text(given)
        status = app(args=arguments, standalone_mode=False, prog_name="robustlab")
    except UsageProblem as error:
        errors.print(f"robustlab: {without_password(_one_line(error))}", markup=False)
        return 2
    except InputError as error:
        errors.print(f"robustlab: {without_password(str(error))}", markup=False)
        return 2
    except Exception as error:
        what = _failed(error)
        if what is None:
            raise
        errors.print(
            f"robustlab: {what} and give the same command again: what was finished is kept", markup=False
        )
        return 2
    except (KeyboardInterrupt, typer.Abort):
        errors.print("robustlab: interrupted; what was finished is kept in the MLflow store", markup=False)
        return 130
    return status if isinstance(status, int) else 0


def _failed(error: Exception) -> str | None:
    """Which of disk and store failed, and what to do; None where it is neither."""
    reason = disk_failure(error) if isinstance(error, OSError | RuntimeError) or _of_mlflow(error) else None
    if reason is not None:
        return f"the disk takes no more ({reason}); make room"
    if not _of_mlflow(error):
        return None
    import mlflow  # is loaded: it failed

    return f"the MLflow store {mlflow.get_tracking_uri()} failed ({_first_line(error)}); mend it"


def _of_mlflow(error: Exception) -> bool:
    return any(kind.__name__ == "MlflowException" for kind in type(error).__mro__)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _check_text(arguments: Sequence[str]) -> None:
    """Refuse bytes that are no UTF-8: no store and no page could hold them."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InputError(f"the argument {argument!r} is no valid UTF-8 text; write it in UTF-8") from None


def _one_line(error: Exception) -> str:
    """What typer found wrong, with the way to the help; no arguments at all ask for the help itself."""
    message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    return f"{message.rstrip('.')}; see `robustlab --help` and `robustlab <verb> --help`"


def _quiet_libraries() -> None:
    """MLflow's and alembic's notes on their own work would tear the progress display apart."""
    for name in ("mlflow", "alembic", "torch.export"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # one bar per file of every cell
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"(mlflow|torch\.export|pydantic).*")


def _load(module: str, name: str) -> Callable[..., object]:
    """The verb's function. Nothing that an import makes is garbage, and looking for it takes a tenth of the time."""
    gc.disable()
    try:
        function: Callable[..., object] = getattr(import_module(f"robustlab.cli.{module}"), name)
    finally:
        gc.enable()
    return function


def _not_asked_for() -> None:
    """Stands in the list of verbs for one that is not run."""


def version() -> None:
    """Print robustlab's version."""
    print(__version__)
