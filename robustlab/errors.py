"""The one exception that means "the user can mend this"."""

from __future__ import annotations


class InputError(ValueError):
    """What the user gave cannot work; the message is one line: what is wrong, what was given, what to do.

    The command line prints the message without a traceback and exits with status 2.
    """
