"""What takes part: a contender is one attack of one library with one set of constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from robustlab import attacks
from robustlab.attacks import IFGSM, AttackResult, CarliniWagnerL2, carlini_wagner_l2, ifgsm

# Returns the adversarial images (B, ...), or an AttackResult that holds them.
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor | AttackResult]


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Attributes:
        library: the distribution's name on the package index.
        name: the attack with its constants, unique within the library.
        norm: "l2" or "linf", the distance that the attack minimises.
        attack: called as ``attack(model, inputs, labels)``.
        share: the first ``1 / share`` of the images are attacked; above 1 for what is slow.
        note: what a reader has to know of this row.
    """

    library: str
    name: str
    norm: str
    attack: Attack
    share: int = 1
    note: str = ""

    @property
    def key(self) -> str:
        """Unique name, such as ``robustlab: cw``."""
        return f"{self.library}: {self.name}"

    def images_for(self, images: int) -> int:
        """How many of the images, from the first on, this contender attacks."""
        return max(1, images // self.share)


@dataclass(frozen=True)
class Effort:
    """How long the attacks run: in full, or about a tenth of it (a smoke run, whose numbers mean nothing)."""

    quick: bool = False

    def iterations(self, full: int) -> int:
        """Iterations in place of ``full``; at least ten, which adversarial-library needs."""
        return max(10, full // 10) if self.quick else full

    def search_steps(self, full: int) -> int:
        """Search steps in place of ``full``."""
        return min(2, full) if self.quick else full


def robustlab_contenders(effort: Effort) -> list[Contender]:
    """Ours: the classic constants of the 9 x 100 comparison, then every attack at its defaults."""
    classic = replace(
        CarliniWagnerL2.classic(),
        binary_search_steps=effort.search_steps(9),
        max_iterations=effort.iterations(100),
        initial_const=0.01,
    )
    cw = CarliniWagnerL2()
    if effort.quick:
        cw = replace(cw, binary_search_steps=2, max_iterations=20)
    ours = [
        ("cw classic 9x100", "l2", partial(carlini_wagner_l2, constants=classic)),
        ("cw", "l2", partial(carlini_wagner_l2, constants=cw)),
        ("ifgsm", "linf", ifgsm),
        ("ifgsm widened", "linf", partial(ifgsm, constants=IFGSM().widened())),
    ]
    return [Contender("robustlab", name, norm, attack) for name, norm, attack in (*ours, *_newer())]


FAST = "turning ray"  # the fast attack's name in the table

# Attacks that an older robustlab under comparison does not have: name, norm, function, constants, their fields.
_NEWER: tuple[tuple[str, str, str, str, dict[str, Any]], ...] = (
    (FAST, "l2", "turning_ray_l2", "TurningRayL2", {}),
    ("ddn", "l2", "ddn", "DDN", {}),
    ("fmn l2", "l2", "fmn", "FMN", {"norm": "l2"}),
    ("fmn linf", "linf", "fmn", "FMN", {"norm": "linf"}),
)


def _newer() -> list[tuple[str, str, Attack]]:
    return [
        (name, norm, partial(getattr(attacks, function), constants=getattr(attacks, constants)(**fields)))
        for name, norm, function, constants, fields in _NEWER
        if hasattr(attacks, function)
    ]
