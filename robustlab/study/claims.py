"""Who works on which cell: claims kept in the tracking store itself, so that any number of studies share one grid.

A cell's run is its claim. Its parameters ``owner.1``, ``owner.2`` ... name those who held it one after the other;
MLflow refuses to change a parameter, in every store by the database's primary key, so of several who want to take over
an abandoned run exactly one becomes ``owner.n``. Two that each open a *new* run for one cell both look again after
writing, and at least one of them sees the other: the run with the smaller id stays, the other is deleted.

An owner on this machine is alive while its process is. Of one elsewhere we watch the parent run's heartbeat: it is
dead if that does not change for ``LEASE_S``. What this cannot rule out: an owner that stood still for longer than the
lease (a suspended machine) and wakes between its own last check and its last write
(docs/decisions/0009-exactly-once.md).
"""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

BEAT_S = 10.0
LEASE_S = 60.0
BEAT_TAG = "robustlab.beat"
OWNER_TAG = "robustlab.owner"
MAKER_TAG = "robustlab.made_by"
RELEASED_TAG = "robustlab.released"
STAGE_TAG = "robustlab.stage"
CELL_TAG = "robustlab.cell"
CURVE_TAG = "robustlab.curve"
TRAINED = "trained"
_OWNER_PARAM = "owner."
_YIELD_S = 0.3
# Tokens of the owners that work in this process.
_WORKING: set[str] = set()


class ClaimLost(RuntimeError):
    """Another study took this cell over because its owner seemed dead."""


@dataclass(frozen=True)
class Owner:
    """A study's process: where it runs, and the parent run that carries its heartbeat."""

    host: str
    process: int
    started: str
    study: str
    token: str

    @classmethod
    def this_process(cls, study: str) -> Owner:
        """The owner that stands for this process working on ``study``."""
        owner = cls(_host(), os.getpid(), _started(os.getpid()), study, uuid.uuid4().hex[:12])
        _WORKING.add(owner.token)
        return owner

    def stop(self) -> None:
        """It works no more, though its process lives on and may begin the same study again."""
        _WORKING.discard(self.token)

    @classmethod
    def parse(cls, text: str) -> Owner:
        """Read what ``str`` wrote."""
        host, process, started, study, token = text.split(" ")
        return cls(host, int(process), started, study, token)

    def __str__(self) -> str:
        return f"{self.host} {self.process} {self.started} {self.study} {self.token}"

    @property
    def shown(self) -> str:
        """For people: machine and process."""
        return f"process {self.process} on {self.host.partition('/')[0]}"


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
    if _last_owner(run)[1] != owner:
        raise ClaimLost(f"another study took over the run {run.info.run_id}")


class Liveness:
    """Tells living owners from dead ones."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._seen: dict[str, tuple[str, float]] = {}

    def lives(self, owner: Owner) -> bool:
        """Whether the owner still works, as far as can be known from here."""
        if owner.host == _host():
            ours = owner.process == os.getpid()
            return _started(owner.process) == owner.started and (not ours or owner.token in _WORKING)
        try:
            parent = self._client.get_run(owner.study)
        except MlflowException:
            return False  # deleted
        if parent.info.status != "RUNNING":
            return False
        beat = parent.data.tags.get(BEAT_TAG, "")
        last, since = self._seen.get(owner.token, (None, 0.0))
        if beat != last:
            since = time.monotonic()
            self._seen[owner.token] = (beat, since)
        return time.monotonic() - since < LEASE_S

    def holder(self, run: Run) -> Owner | None:
        """The living owner of a cell's run, if it has one."""
        number, text = _last_owner(run)
        if not number or run.data.tags.get(RELEASED_TAG) == str(number):
            return None
        owner = Owner.parse(text)
        return owner if self.lives(owner) else None


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
        if not self._become_owner(run_id, _last_owner(run)[0] + 1):
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
        number, text = _last_owner(run)
        if number:
            return text == str(self.owner)
        return run.data.tags.get(MAKER_TAG) == self.owner.token

    def _tags(self) -> dict[str, str]:
        return {OWNER_TAG: self.owner.shown}


def become_owner(client: Any, run_id: str, owner: Owner, number: int | None = None) -> bool:
    """Try to be a run's next owner; of several who try at once exactly one becomes it."""
    if number is None:
        number = _last_owner(client.get_run(run_id))[0] + 1
    try:
        client.log_param(run_id, f"{_OWNER_PARAM}{number}", str(owner))
    except MlflowException as error:
        if "changing param" not in str(error).lower():
            raise
        return False
    return True


class Heartbeat:
    """While open, the parent run's tag changes every ``BEAT_S``: the sign of life that other machines watch."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="robustlab-heartbeat")

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=BEAT_S)

    def _beat(self) -> None:
        while True:
            # Where the store is away, whoever works notices it and says so; others see the silence.
            with suppress(Exception):
                self._client.set_tag(self._run_id, BEAT_TAG, f"{time.time():.1f}")
            if self._stop.wait(BEAT_S):
                return


def _last_owner(run: Run) -> tuple[int, str]:
    """(number, text) of the newest owner; (0, "") where there is none."""
    numbers = [int(key.removeprefix(_OWNER_PARAM)) for key in run.data.params if key.startswith(_OWNER_PARAM)]
    return (max(numbers), run.data.params[f"{_OWNER_PARAM}{max(numbers)}"]) if numbers else (0, "")


def _host() -> str:
    """This machine since its last start, and the process numbers' name space: two containers share the name alone."""
    parts = [platform.node().replace(" ", "-") or "unknown"]
    for path in ("/proc/sys/kernel/random/boot_id",):
        parts.append(Path(path).read_text().strip()[:8] if Path(path).exists() else "")
    try:
        parts.append(os.readlink("/proc/self/ns/pid").strip("pid:[]"))
    except OSError:
        parts.append("")
    return "/".join(parts)


def _started(process: int) -> str:
    """When a process of this machine started, in the kernel's ticks; "gone" if it is not there or only unburied."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "gone" if fields[0] in "ZX" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return "gone"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        pass
    return "unknown"  # no /proc here: the number alone has to do
