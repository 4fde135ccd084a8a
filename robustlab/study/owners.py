"""Who works on a study or a cell, and whether that process is still alive.

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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

BEAT_S = 10.0
LEASE_S = 60.0
BEAT_TAG = "robustlab.beat"
RELEASED_TAG = "robustlab.released"
_OWNER_PARAM = "owner."
# Tokens of the owners that work in this process.
_WORKING: set[str] = set()


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
        number, text = last_owner(run)
        if not number or run.data.tags.get(RELEASED_TAG) == str(number):
            return None
        owner = Owner.parse(text)
        return owner if self.lives(owner) else None


def become_owner(client: Any, run_id: str, owner: Owner, number: int | None = None) -> bool:
    """Try to be a run's next owner; of several who try at once exactly one becomes it."""
    if number is None:
        number = last_owner(client.get_run(run_id))[0] + 1
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


def last_owner(run: Run) -> tuple[int, str]:
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
