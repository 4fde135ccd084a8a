"""Names for tensor shapes in annotations, checked at run time by the tests (jaxtyping and beartype).

jaxtyping is a development dependency: where it is missing (the attack library needs torch alone), the names
exist and mean nothing, because annotations are never evaluated then.
"""

from __future__ import annotations

try:
    from jaxtyping import Bool, Float, Int, Shaped, UInt8
except ImportError:  # pragma: no cover - the machine has torch alone
    from typing import Any

    Bool = Float = Int = Shaped = UInt8 = Any  # type: ignore[assignment]

__all__ = ["Bool", "Float", "Int", "Shaped", "UInt8"]
