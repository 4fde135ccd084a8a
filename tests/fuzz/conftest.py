"""The number of inputs tried stands at the end."""

from __future__ import annotations

import pytest

from tests.fuzz.profile import tried


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, number in sorted(tried.items()):
        terminalreporter.write_line(f"fuzz: {number:7,} inputs, {name}")
    if tried:
        terminalreporter.write_line(f"fuzz: {sum(tried.values()):7,} inputs in all")
