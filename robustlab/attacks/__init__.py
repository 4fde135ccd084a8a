"""Minimum-norm attacks on image classifiers: a plain torch library.

    from robustlab.attacks import carlini_wagner_l2
    result = carlini_wagner_l2(model, inputs, labels)   # AttackResult: adv_inputs, success, distance, ...

Every attack has the same contract: ``attack(model, inputs, labels, constants, *, targeted, on_progress)``
with inputs in [0, 1], a model that returns logits and is left as it was found, and results that do not depend
on the other images of the batch.
"""

from robustlab.attacks.attacked_model import PreflightWarning
from robustlab.attacks.carlini_wagner import carlini_wagner_l2
from robustlab.attacks.carlini_wagner_constants import CarliniWagnerL2
from robustlab.attacks.constants import Constants
from robustlab.attacks.ddn import DDN, ddn
from robustlab.attacks.diagnosis import Diagnosis, diagnose, surviving
from robustlab.attacks.execution import Engine, Execution
from robustlab.attacks.fmn import FMN, fmn
from robustlab.attacks.hard_label import hard_label
from robustlab.attacks.ifgsm import IFGSM, ifgsm
from robustlab.attacks.result import AttackResult
from robustlab.attacks.turning_ray import TurningRayL2, turning_ray_l2
from robustlab.attacks.until_found import attack_until_found

__all__ = [
    "DDN",
    "FMN",
    "IFGSM",
    "AttackResult",
    "CarliniWagnerL2",
    "Constants",
    "Diagnosis",
    "Engine",
    "Execution",
    "PreflightWarning",
    "TurningRayL2",
    "attack_until_found",
    "carlini_wagner_l2",
    "ddn",
    "diagnose",
    "fmn",
    "hard_label",
    "ifgsm",
    "surviving",
    "turning_ray_l2",
]
