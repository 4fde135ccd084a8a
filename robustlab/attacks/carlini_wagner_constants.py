"""The constants of Carlini and Wagner's attack, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, replace

from robustlab.attacks.constants import Constants, constant


@dataclass(frozen=True)
class CarliniWagnerL2(Constants):
    """Constants of :func:`robustlab.attacks.carlini_wagner_l2`; ``classic()`` gives the published ones."""

    warm_starts: int = constant(
        3,
        "runs of the turning-ray attack, from whose nearest image each try starts (0: the clean image): "
        "1 the thorough one, 2 and 3 also the wide and the far one, which end in other local minima",
        low=0,
        high=3,
        search=(0, 3),
    )
    warm_steps: int = constant(
        36, "steps of each warm start", unit="passes", low=1, high=10_000, log=True, search=(6, 120)
    )
    binary_search_steps: int = constant(
        2, "values of c tried per image at most", low=1, high=100, search=(1, 4)
    )
    max_iterations: int = constant(
        80, "Adam steps at each c", unit="passes", low=1, high=1_000_000, log=True, search=(1, 300)
    )
    learning_rate: float = constant(
        4.0,
        "Adam's first step size; with relative_learning_rate as a multiple of the warm start's perturbation",
        unit="w",
        low=1e-5,
        high=100.0,
        log=True,
        search=(0.2, 20.0),
    )
    relative_learning_rate: bool = constant(
        True,
        "measure the step size by the root mean square of the warm start's perturbation: an image that needs a "
        "sixteenth of the change needs a sixteenth of the step",
    )
    final_learning_rate: float = constant(
        0.02,
        "the last step size as a share of the first (cosine decay; 1: constant)",
        low=1e-4,
        high=1.0,
        log=True,
        search=(0.001, 1.0),
    )
    initial_const: float = constant(
        3.0,
        "first c; with first_order_const a factor on the estimate",
        low=1e-9,
        high=1e9,
        log=True,
        search=(0.3, 30.0),
    )
    first_order_const: bool = constant(
        True, "estimate the first c per image from its margin and gradient, exact for a linear model"
    )
    const_growth: float = constant(4.0, "factor on c until one succeeds", low=1.01, high=1e3, log=True)
    search_tolerance: float = constant(
        0.0005,
        "an image is done when a try improved its distance by less than this share (0: never)",
        low=0.0,
        high=0.5,
        search=(0.0, 0.02),
    )
    stall_tolerance: float = constant(
        0.0,
        "a try ends when a tenth of its iterations lowers the loss by less than this share (0: never)",
        low=0.0,
        high=0.5,
    )
    inside: float = constant(
        0.999,
        "scale on 2 x - 1 before arctanh: a try starts so far inside the box, where tanh has a slope",
        low=0.5,
        high=0.9999999,
        search=(0.9, 0.9999),
    )
    confidence: float = constant(0.0, "kappa, the margin aimed at", unit="logits", low=0.0, high=1e6)  # fmt: skip

    @classmethod
    def classic(cls) -> CarliniWagnerL2:
        """The published constants (Carlini and Wagner 2017; their code nn_robust_attacks/l2_attack.py)."""
        return cls(
            warm_starts=0,
            binary_search_steps=9,
            max_iterations=1_000,
            learning_rate=0.01,
            relative_learning_rate=False,
            final_learning_rate=1.0,
            initial_const=1e-3,
            first_order_const=False,
            const_growth=10.0,
            search_tolerance=0.0,
            stall_tolerance=1e-4,
            inside=0.999999,
        )

    def widened(self) -> CarliniWagnerL2:
        """Twice the values of c, four times the steps, a first c ten times as large."""
        return replace(
            self,
            warm_steps=min(4 * self.warm_steps, 10_000),
            binary_search_steps=min(2 * self.binary_search_steps, 100),
            max_iterations=min(4 * self.max_iterations, 1_000_000),
            initial_const=min(10 * self.initial_const, 1e9),
        )
