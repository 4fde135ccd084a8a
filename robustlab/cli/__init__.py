"""The command line: verbs that read options, call the layers below and show what came out."""

import os

# Before torch is loaded: idle OpenMP threads sleep instead of spinning. On a machine that runs anything else too,
# spinning made small models ten times slower and more.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from robustlab.cli.app import main

__all__ = ["main"]
