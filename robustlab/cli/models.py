"""The verbs that need no data: ``models`` and ``linear``."""

from __future__ import annotations

from rich.console import Console

from robustlab.linear_example import linear_example
from robustlab.study.parent import check_store, parent_run
from robustlab.study.store import StudyStore
from robustlab.study.tables import linear_table, table1_table


def models() -> None:
    """Print Table 1: every architecture's trainable parameters, the paper's count beside ours."""
    Console().print(table1_table())


def linear() -> None:
    """Section 2 of the paper: the linear example where more data is more accurate and less robust."""
    check_store()
    example = linear_example()
    Console().print(linear_table(example))
    with parent_run(
        "linear example", {"robustlab.kind": "linear"}, "Section 2 of the paper: the linear example"
    ) as run:
        store = StudyStore(run)
        for model in example.models:
            store.log_params(run.info.run_id, {f"{model.name}.train_size": model.train_size})
            store.log_metrics(
                run.info.run_id,
                {f"{model.name}.mse": model.mse, f"{model.name}.robustness": model.robustness},
            )
