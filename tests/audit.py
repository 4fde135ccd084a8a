"""Are there known vulnerabilities in what is installed? Part of `make check`, where the advisory source answers.

    python -m tests.audit [address of an OSV service]

Exit status 1 and a table if there are; a line and 0 if nothing could be asked: a laptop on a train is no fault.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from urllib.parse import urlsplit

OSV = "https://api.osv.dev/v1/query"
# Advisories that cannot reach us, each with the reason: "GHSA-...",  # only its server part, which we do not run
IGNORED: tuple[str, ...] = ()


def audit(url: str = OSV) -> int:
    """Ask the service for every installed package; returns the exit status."""
    address = urlsplit(url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=5).close()
    except OSError as error:
        print(f"dependencies not audited: {address.netloc} cannot be reached ({error})", flush=True)
        return 0
    ignored = [part for advisory in IGNORED for part in ("--ignore-vuln", advisory)]
    command = ["pip_audit", "--vulnerability-service", "osv", "--osv-url", url, "--progress-spinner", "off"]
    return subprocess.run(
        [sys.executable, "-m", *command, "--skip-editable", "--local", *ignored], check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(audit(*sys.argv[1:2]))
