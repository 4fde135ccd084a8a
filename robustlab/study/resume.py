"""Find the study that the same command began before, and tidy up after those whose process is gone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mlflow.entities import Run

from robustlab.errors import InputError
from robustlab.study.claims import CELL_TAG, CURVE_TAG
from robustlab.study.owners import Liveness, Owner, become_owner

if TYPE_CHECKING:  # a plan needs torch, which who only asks for a study's status does not have to load
    from robustlab.study.plan import StudyPlan

PLAN_TAG = "robustlab.plan"
OWNER_ID_TAG = "robustlab.owner_id"


def take_up(client: Any, experiment_id: str, plan_digest: str) -> Run | None:
    """The newest study of this plan that nobody works on, now owned by this process; None where there is none.

    Under ``mlflow run`` the study logs to the run that MLflow made, so there is nothing to take up.
    """
    if "MLFLOW_RUN_ID" in os.environ:
        return None
    liveness = Liveness(client)
    for run in _studies(client, experiment_id, f"tags.`{PLAN_TAG}` = '{plan_digest}'"):
        if not works_on(liveness, run) and become_owner(client, run.info.run_id, _owner(run)):
            return run
    return None


def own(client: Any, run: Run) -> Owner:
    """Write down that this process works on the study."""
    owner = _owner(run)
    client.set_tag(run.info.run_id, OWNER_ID_TAG, str(owner))
    return owner


def works_on(liveness: Liveness, study: Run) -> bool:
    """Whether a living process works on the study."""
    text = study.data.tags.get(OWNER_ID_TAG)
    return study.info.status == "RUNNING" and text is not None and liveness.lives(Owner.parse(text))


def close_abandoned(client: Any, experiment_id: str, own_id: str) -> None:
    """End the runs that studies of this machine left RUNNING when their process was killed; they can be taken up."""
    liveness = Liveness(client)
    # Studies of a version that named no owner are left alone: nothing can be known of them.
    running = f"attributes.status = 'RUNNING' and tags.`{OWNER_ID_TAG}` != ''"
    for study in _studies(client, experiment_id, running):
        if study.info.run_id == own_id or works_on(liveness, study):
            continue
        cells = client.search_runs(
            [experiment_id],
            f"tags.`robustlab.study` = '{study.info.run_id}' and attributes.status = 'RUNNING'",
            max_results=1000,
        )
        for run in [cell for cell in cells if liveness.holder(cell) is None] + [study]:
            client.set_tag(run.info.run_id, "robustlab.failure", "its process is gone")
            client.set_terminated(run.info.run_id, "KILLED")


def forget(client: Any, experiment_id: str, plan: StudyPlan, kind: str) -> None:
    """Make earlier runs of this plan's cells no longer count; they stay in the studies that they belong to.

    Raises:
        InputError: a living process works on one of them.
    """
    liveness = Liveness(client)
    cells: list[Run] = []
    for variant, seed in plan.curves():
        digest = plan.curve_digest(variant, seed)
        cells += client.search_runs([experiment_id], f"tags.`{CURVE_TAG}` = '{digest}'", max_results=1000)
    for run in cells:
        holder = liveness.holder(run) if run.info.status == "RUNNING" else None
        if holder is not None:
            raise InputError(
                f"--fresh cannot start anew: {holder.shown} works on {run.info.run_name}; stop it or leave --fresh out"
            )
    for run in cells:
        for tag in (CELL_TAG, CURVE_TAG):
            client.set_tag(run.info.run_id, f"{tag}.before_fresh", run.data.tags.get(tag, ""))
            client.delete_tag(run.info.run_id, tag)
        if run.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "KILLED")
    for study in _studies(client, experiment_id, f"tags.`{PLAN_TAG}` = '{plan.digest(kind)}'"):
        client.delete_tag(study.info.run_id, PLAN_TAG)


def _studies(client: Any, experiment_id: str, condition: str) -> list[Run]:
    """The newest first. Only studies carry the tags that the conditions name, so a search by kind is not needed."""
    return list(
        client.search_runs(
            [experiment_id], condition, max_results=400, order_by=["attributes.start_time DESC"]
        )
    )


def _owner(run: Run) -> Owner:
    return Owner.this_process(run.info.run_id)
