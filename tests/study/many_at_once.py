"""Several processes of the command line at once, forked from one that has loaded what they need.

    python -m tests.study.many_at_once 8 linear

runs ``robustlab linear`` eight times at once; what each shows goes to 1.txt, 2.txt ... Exit status: the worst.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from importlib import import_module

from robustlab.cli import main
from robustlab.cli.app import VERBS


def run_many(count: int, arguments: list[str]) -> list[int]:
    """Fork ``count`` processes that start together; returns their exit statuses."""
    import_module(f"robustlab.cli.{VERBS[arguments[0]][0]}")
    starts_at = time.time() + 0.5
    processes = []
    for number in range(1, count + 1):
        process = os.fork()
        if process == 0:
            log = os.open(f"{number}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            time.sleep(max(0.0, starts_at - time.time()))
            status = 70
            try:
                status = main(arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        processes.append(process)
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


if __name__ == "__main__":
    found = run_many(int(sys.argv[1]), sys.argv[2:])
    print("exit statuses", *found)
    sys.exit(max(map(abs, found)))
