"""What must not be shown, logged or stored."""

from __future__ import annotations

import re

_USER_AND_PASSWORD = re.compile(r"(://[^\s:/@]*):[^\s/]*@")
_PARAMETER = re.compile(r"([?&](?:password|sslpassword)=)[^&\s]*", re.IGNORECASE)


def without_password(text: str) -> str:
    """An address, or a text that holds some, without passwords: ``postgresql://me@host/db``."""
    return _PARAMETER.sub(r"\1...", _USER_AND_PASSWORD.sub(r"\1@", text))
