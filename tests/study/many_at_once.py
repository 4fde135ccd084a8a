"""Several processes of the command line at once, forked from one that has loaded what they need.

    python -m tests.study.many_at_once 8 linear

runs ``robustlab linear`` eight times at once; what each shows goes to 1.txt, 2.txt ... Exit status: the worst.
"""

from __future__ import annotations

import sys
import time
from importlib import import_module
from pathlib import Path

from robustlab.cli import main
from robustlab.cli.app import VERBS
from tests.forks import fork, wait_for


def run_many(count: int, arguments: list[str]) -> list[int]:
    """Fork ``count`` processes that start together; returns their exit statuses."""
    import_module(f"robustlab.cli.{VERBS[arguments[0]][0]}")
    starts_at = time.time() + 0.5

    def start() -> int:
        time.sleep(max(0.0, starts_at - time.time()))
        return main(arguments)

    return [
        wait_for(process)
        for process in [fork(start, Path(f"{number}.txt")) for number in range(1, count + 1)]
    ]


if __name__ == "__main__":
    found = run_many(int(sys.argv[1]), sys.argv[2:])
    print("exit statuses", *found)
    sys.exit(max(map(abs, found)))
