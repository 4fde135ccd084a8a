"""A cell of the grid: one model to train and attack, and what came out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

AUGMENTED_SUFFIX = "+aug"


@dataclass(frozen=True, order=True)
class Cell:
    """One (dataset, model, augmentation, size, seed); the seed draws both the subset and the training's randomness."""

    dataset: str
    model: str
    augmented: bool
    train_size: int
    seed: int

    @property
    def variant(self) -> str:
        """The model as the user writes it: ``resnet`` or ``resnet+aug``."""
        return self.model + (AUGMENTED_SUFFIX if self.augmented else "")

    @property
    def registered_name(self) -> str:
        """The registered model that this cell's model is a version of: ``cifar10-resnet-aug``, no slash or colon."""
        dataset = "".join(c if c.isalnum() or c in "-_." else "-" for c in self.dataset)
        return f"{dataset}-{self.model}" + ("-aug" if self.augmented else "")

    @property
    def shown(self) -> str:
        """The cell in words."""
        return f"{self.dataset} {self.variant}, {self.train_size:,} images, seed {self.seed}"

    def digest(self, settings: dict[str, object]) -> str:
        """SHA-256 (first 16 hex digits) over the cell and every setting that changes its results."""
        text = json.dumps({"cell": asdict(self), "settings": settings}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class CellResult:
    """What a finished cell measured.

    Accuracies and success rates are fractions; distortions are in units of the [0, 1] pixel range and None where the
    cell has no score (no common-correct image, or the attack was not run). ``images`` counts the images averaged over.
    ``suspicion`` says where a score is an overestimate, ``warning`` what else makes one doubtful; both for people.
    """

    cell: Cell
    train_accuracy: float
    test_accuracy: float
    l2: float | None
    linf: float | None
    images: int
    l2_success_rate: float | None
    linf_success_rate: float | None
    train_s: float
    attack_s: float
    suspicion: str = ""
    warning: str = ""

    def suspected(self, norm: str) -> bool:
        """Whether other attacks showed this norm's score ("l2" or "linf") to be an overestimate."""
        return any(part.lower().startswith(f"{norm}:") for part in self.suspicion.split("; "))
