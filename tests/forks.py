"""Run something in a fork of this process: loading the libraries takes longer than what is tested."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

TRACEBACK = 99


def fork(action: Callable[[], int], log: Path) -> int:
    """Start it in a fork whose output is appended to ``log``; returns the process's number.

    The fork ends with what ``action`` returns, or with 99 and a traceback in the log.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = TRACEBACK
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(output, stream)
        status = action()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait_for(process: int) -> int:
    """The exit status of a fork, -9 if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
