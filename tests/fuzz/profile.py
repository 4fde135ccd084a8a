"""How much is fuzzed: a few inputs that are the same each time in `make test`, many new ones on request.

ROBUSTLAB_FUZZ_EXAMPLES=2000 tries so many per test, at random; the tests' summary says how many inputs were tried.
"""

from __future__ import annotations

import os
from collections import Counter

from hypothesis import HealthCheck, settings

_EXAMPLES = int(os.environ.get("ROBUSTLAB_FUZZ_EXAMPLES", "0"))

fuzzed = settings(
    max_examples=_EXAMPLES or 25,
    derandomize=not _EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
        HealthCheck.data_too_large,
    ],
)
tried: Counter[str] = Counter()
