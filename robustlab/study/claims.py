"""Who works on which cell: claims kept in the tracking store itself, so that any number of studies share one grid.

A cell's run is its claim. Its parameters ``owner.1``, ``owner.2`` ... name those who held it one after the other;
MLflow refuses to change a parameter, in every store by the database's primary key, so of several who want to take over
an abandoned run exactly one becomes ``owner.n``. Two that each open a *new* run for one cell both look again after
writing, and at least one of them sees the other: the run with the smaller id stays, the other is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mlflow.entities import Run

from robustlab.study.owners import RELEASED_TAG, Liveness, Owner, become_owner, last_owner

OWNER_TAG = "robustlab.owner"
MAKER_TAG = "robustlab.made_by"
STAGE_TAG = "robustlab.stage"
CELL_TAG = "robustlab.cell"
CURVE_TAG = "robustlab.curve"
TRAINED = "trained"
_YIELD_S = 0.3


class ClaimLost(RuntimeError):
    """Another study took this cell over because its owner seemed dead."""


@dataclass(frozen=True)
class Claim:
    """What came of asking for a cell: ours to work on, or in which state it is with somebody else."""

    state: Literal["mine", "theirs", "finished", "failed"]
    run: Run

    @property
    def trained(self) -> bool:
        """Whether only the attack is missing."""
        return is_trained(self.run)


def is_trained(run: Run) -> bool:
    """Whether the cell's model, metrics and artifacts are complete in the store."""
    return run.data.tags.get(STAGE_TAG) == TRAINED


def check_owner(run: Run, owner: str) -> None:
    """Before the last write: nobody has taken the cell over.

    Raises:
        ClaimLost: somebody has.
    """
    if last_owner(run)[1] != owner:
        raise ClaimLost(f"another study took over the run {run.info.run_id}")


class Claims:
    """Takes and gives back cells for one owner.

    Args:
        client: an MlflowClient.
    """

    def __init__(self, client: Any, experiment_id: str, owner: Owner) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self.owner = owner
        self.liveness = Liveness(client)
        self.held: dict[str, int] = {}

    def runs_of(self, tag: str, digest: str) -> list[Run]:
        """The runs that carry the digest under ``tag``, oldest first."""
        found = self._client.search_runs(
            [self._experiment_id], f"tags.`{tag}` = '{digest}'", max_results=1000, order_by=["start_time ASC"]
        )
        return list(found)

    def claim(self, digest: str, create: Callable[[dict[str, str]], str], *, retry_failed: bool) -> Claim:
        """Ask for a cell.

        Args:
            create: opens a run that carries the digest and the given further tags, and returns its id.
            retry_failed: start a cell again that failed before.
        """
        runs = self.runs_of(CELL_TAG, digest)
        known = self._settled(runs, retry_failed)
        if known is not None:
            return known
        left = [run for run in runs if run.info.status in ("RUNNING", "KILLED")]
        left.sort(key=lambda run: (not is_trained(run), run.info.run_id))
        if left:
            return self._take_over(left[0])
        run_id = create({**self._tags(), MAKER_TAG: self.owner.token})
        if not self._become_owner(run_id, 1):
            return Claim("theirs", self._client.get_run(run_id))  # whoever saw it ownerless took it
        return self._alone(digest, run_id)

    def let_go(self, run_id: str) -> None:
        """Forget a cell that has ended."""
        self.held.pop(run_id, None)

    def release(self, run_id: str, reason: str) -> None:
        """Give an unfinished cell back: its run ends as KILLED with the reason, and anybody may take it up."""
        number = self.held.pop(run_id, None)
        if number is not None:
            self._client.set_tag(run_id, "robustlab.failure", reason)
            self._client.set_tag(run_id, RELEASED_TAG, str(number))
            self._client.set_terminated(run_id, "KILLED")

    def _settled(self, runs: Sequence[Run], retry_failed: bool) -> Claim | None:
        for run in runs:
            if run.info.status == "FINISHED":
                return Claim("finished", run)
        for run in runs:
            if run.info.status in ("RUNNING", "KILLED") and self.liveness.holder(run) is not None:
                return Claim("mine" if run.info.run_id in self.held else "theirs", run)
        if not retry_failed:
            for run in runs:
                if run.info.status == "FAILED":
                    return Claim("failed", run)
        return None

    def _take_over(self, run: Run) -> Claim:
        run_id = run.info.run_id
        if not self._become_owner(run_id, last_owner(run)[0] + 1):
            return Claim("theirs", run)
        for key, value in self._tags().items():
            self._client.set_tag(run_id, key, value)
        if "robustlab.failure" in run.data.tags:
            self._client.delete_tag(run_id, "robustlab.failure")
        self._client.update_run(run_id, status="RUNNING")
        return Claim("mine", self._client.get_run(run_id))

    def _become_owner(self, run_id: str, number: int) -> bool:
        if become_owner(self._client, run_id, self.owner, number):
            self.held[run_id] = number
            return True
        return False

    def _alone(self, digest: str, run_id: str) -> Claim:
        """Settle it with others who opened a run for the same cell at the same moment."""
        while True:
            runs = self.runs_of(CELL_TAG, digest)
            others = [run for run in runs if run.info.run_id != run_id]
            # A create call that was repeated because its answer got lost leaves a twin of our own.
            for twin in [run for run in others if self._is_twin(run)]:
                self._client.delete_run(twin.info.run_id)
                others.remove(twin)
            rival = self._settled(others, retry_failed=True)
            if rival is None:
                return Claim("mine", next(run for run in runs if run.info.run_id == run_id))
            if rival.state == "finished" or rival.run.info.run_id < run_id:
                self.held.pop(run_id)
                self._client.delete_run(run_id)
                return rival
            time.sleep(_YIELD_S)  # the other one steps back, or has seen nobody and finishes

    def _is_twin(self, run: Run) -> bool:
        """Whether we made the run, and nobody else has taken it since."""
        number, text = last_owner(run)
        if number:
            return text == str(self.owner)
        return run.data.tags.get(MAKER_TAG) == self.owner.token

    def _tags(self) -> dict[str, str]:
        return {OWNER_TAG: self.owner.shown}
