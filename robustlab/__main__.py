"""``python -m robustlab``: the command line from wherever this code lies."""

import sys

from robustlab.cli import main

sys.exit(main())
