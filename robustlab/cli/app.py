"""Find the verb, run it, and turn what the user can mend into one line and exit status 2."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence

import typer
from rich.console import Console

from robustlab import __version__
from robustlab.errors import InputError
from robustlab.study.secrets import without_password

# Typer's releases differ in where click's exceptions come from (click itself, or a copy); its own name leads there.
UsageProblem: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)

app = typer.Typer(
    help="How does the amount of training data change a classifier's accuracy and its robustness?",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 done, 1 some cells failed, 2 bad input, 130 interrupted."""
    # Imported here: a verb's module registers it with `app`.
    from robustlab.cli import attack, models, report, reproduce, status, study, tune  # noqa: F401

    _quiet_libraries()
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        _check_text(sys.argv[1:] if arguments is None else arguments)
        status = app(args=arguments, standalone_mode=False, prog_name="robustlab")
    except UsageProblem as error:
        errors.print(f"robustlab: {without_password(_one_line(error))}", markup=False)
        return 2
    except InputError as error:
        errors.print(f"robustlab: {without_password(str(error))}", markup=False)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        errors.print("robustlab: interrupted; what was finished is kept in the MLflow store", markup=False)
        return 130
    return status if isinstance(status, int) else 0


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


@app.command()
def version() -> None:
    """Print robustlab's version."""
    print(__version__)
