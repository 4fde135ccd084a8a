"""Read the arrays that a study stored, whatever has become of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robustlab.errors import InputError


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file; nothing of it is unpickled.

    Raises:
        InputError: the file is not one, or is damaged.
    """
    try:
        # Opened here, because numpy leaves a file open whose directory it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except Exception as error:  # zipfile, zlib and numpy each have their own for a damaged file
        raise InputError(
            f"{path.name} is damaged ({type(error).__name__}); it was truncated or altered"
        ) from error
