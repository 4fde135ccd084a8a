"""The audit of installed packages, against an advisory service of the test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from tests.audit import audit

FLAW = {
    "id": "GHSA-made-up",
    "summary": "a flaw",
    "details": "a flaw",
    "modified": "2026-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "numpy", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9999"}]}],
        }
    ],
}


class Advisories(BaseHTTPRequestHandler):
    """Knows the flaws in ``flaws`` and no other."""

    flaws: ClassVar[dict[str, object]] = {}
    asked: ClassVar[set[str]] = set()

    def do_POST(self) -> None:
        """OSV's query: a package and a version."""
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = query["package"]["name"]
        self.asked.add(name)
        answer = json.dumps({"vulns": [self.flaws[name]]} if name in self.flaws else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def service() -> Iterator[str]:
    """The address of the advisory service."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Advisories)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    server.server_close()


def test_a_known_flaw_of_an_installed_package_is_an_error(
    service: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert audit(service) == 0
    assert {"torch", "mlflow", "optuna", "numpy"} <= Advisories.asked
    monkeypatch.setattr(Advisories, "flaws", {"numpy": FLAW})
    assert audit(service) == 1
    assert "GHSA-made-up" in capfd.readouterr().out


def test_where_no_source_can_be_reached_that_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    assert audit("http://127.0.0.1:9/v1/query") == 0
    assert "not audited: 127.0.0.1:9 cannot be reached" in capfd.readouterr().out
