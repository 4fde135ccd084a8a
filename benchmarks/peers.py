"""The other libraries' attacks, called as their own documentation does: one batch, their defaults otherwise.

What is not installed is left out and named by :func:`missing_peers`. README.md says how to install them.
"""

from __future__ import annotations

import sys
import warnings
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor, nn

from benchmarks.contenders import Contender, Effort

_IMPORT_NAMES = {
    "adv-lib": "adv_lib.attacks",
    "foolbox": "foolbox",
    "adversarial-robustness-toolbox": "art.attacks.evasion",
    "torchattacks": "torchattacks",
}
PEERS = tuple(_IMPORT_NAMES)


def peer_contenders(effort: Effort) -> list[Contender]:
    """The contenders of all peers that can be imported here."""
    missing = missing_peers()
    return [contender for contender in _all_contenders(effort) if contender.library not in missing]


def missing_peers() -> dict[str, str]:
    """Peers that cannot be imported, each with the reason."""
    if "visdom" not in sys.modules and find_spec("adv_lib") and not find_spec("visdom"):
        # adversarial-library imports visdom for live plots that nobody asked for; it does not build any more.
        sys.modules["visdom"] = ModuleType("visdom")
    missing = {}
    for library, module in _IMPORT_NAMES.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecations inside the peers are theirs
                import_module(module)
        except ImportError as error:
            missing[library] = str(error)
    return missing


def _all_contenders(effort: Effort) -> list[Contender]:
    search_steps, iterations = effort.search_steps, effort.iterations
    cw = {"search_steps": search_steps(9), "iterations": iterations(100)}
    long_cw = {"search_steps": search_steps(9), "iterations": iterations(1000)}
    contenders = [
        Contender("adv-lib", "cw 9x100", "l2", partial(_adv_lib_cw, **cw)),
        Contender(
            "adv-lib", "cw 9x1000", "l2", partial(_adv_lib_cw, **long_cw), 2,
            "half of the images: nine thousand passes each",
        ),
        Contender(
            "foolbox", "cw 9x100", "l2", partial(foolbox_cw, **cw),
            note="an image that it failed on comes back all black",
        ),
        Contender(
            "adversarial-robustness-toolbox", "cw 9x100", "l2", partial(_art_cw, **cw), 8,
            "an eighth of the images: its line search costs about 15,000 passes' worth each",
        ),
    ]  # fmt: skip
    for steps in (100, 300, 1000):
        attack = partial(_adv_lib, "ddn", steps=iterations(steps))
        contenders.append(Contender("adv-lib", f"ddn {steps}", "l2", attack))
    for steps, α in ((100, 0.5), (1000, 0.9)):  # α of its paper's section 5
        attack = partial(
            _adv_lib, "alma", num_steps=iterations(steps), distance="l2", init_lr_distance=0.5, α=α
        )
        contenders.append(Contender("adv-lib", f"alma {steps}", "l2", attack))
    for steps in (100, 400):
        attack = partial(_adv_lib, "fmn", steps=iterations(steps), norm=float("inf"), α_init=10.0)
        contenders.append(Contender("adv-lib", f"fmn linf {steps}", "linf", attack))
    for steps in (10, 40):
        attack = partial(_torchattacks_bim, search_steps=search_steps(10), steps=steps)
        contenders.append(
            Contender("torchattacks", f"bim 10x{steps}", "linf", attack, 1, "in a bisection of ours over eps")
        )
    return contenders


def _adv_lib_cw(
    model: nn.Module, inputs: Tensor, labels: Tensor, search_steps: int, iterations: int
) -> Tensor:
    from adv_lib.attacks import carlini_wagner_l2

    return carlini_wagner_l2(
        model,
        inputs,
        labels,
        learning_rate=0.01,
        initial_const=0.01,
        binary_search_steps=search_steps,
        max_iterations=iterations,
    )


def _adv_lib(name: str, model: nn.Module, inputs: Tensor, labels: Tensor, **constants: object) -> Tensor:
    return getattr(import_module("adv_lib.attacks"), name)(model, inputs, labels, **constants)


def foolbox_cw(
    model: nn.Module, inputs: Tensor, labels: Tensor, search_steps: int, iterations: int
) -> Tensor:
    import foolbox

    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=search_steps, steps=iterations, stepsize=0.01, initial_const=0.01
    )
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=inputs.device)
    adv_inputs, _, _ = attack(wrapped, inputs, labels, epsilons=None)
    return adv_inputs


def _art_cw(model: nn.Module, inputs: Tensor, labels: Tensor, search_steps: int, iterations: int) -> Tensor:
    from art.attacks.evasion import CarliniL2Method
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        classes = model(inputs[:1]).shape[1]
    classifier = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(inputs.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="cpu" if inputs.device.type == "cpu" else "gpu",
    )
    attack = CarliniL2Method(
        classifier,
        learning_rate=0.01,
        initial_const=0.01,
        binary_search_steps=search_steps,
        max_iter=iterations,
        batch_size=len(inputs),
        verbose=False,
    )
    return torch.from_numpy(attack.generate(inputs.cpu().numpy(), labels.cpu().numpy())).to(inputs.device)


def _torchattacks_bim(
    model: nn.Module, inputs: Tensor, labels: Tensor, search_steps: int, steps: int
) -> Tensor:
    """BIM inside a bisection over eps.

    torchattacks takes one eps; its arithmetic takes one per image as well, which saves it from going image by
    image. The bracket is [0, 0.5] for grey and [0, 0.0625] for colour images, where every image has been
    attackable; ten values then resolve 1 to 2 % of a usual distance. The best image counts at its measured Linf.
    """
    import torchattacks

    per_image = (-1,) + (1,) * (inputs.dim() - 1)
    low = inputs.new_zeros(len(inputs))
    high = torch.full_like(low, 0.5 if inputs.shape[1] == 1 else 0.0625)
    best, best_distance = inputs.clone(), torch.full_like(low, torch.inf)
    for search_step in range(search_steps):
        epsilon = high if search_step == 0 else (low + high) / 2
        bounds = epsilon.view(per_image)
        attack = torchattacks.BIM(model, eps=bounds, alpha=bounds / steps, steps=steps)
        adv_inputs = attack(inputs, labels)
        with torch.no_grad():
            adversarial = model(adv_inputs).argmax(dim=1) != labels
        distance = (adv_inputs - inputs).flatten(1).abs().amax(dim=1)
        closer = adversarial & (distance < best_distance)
        best = torch.where(closer.view(per_image), adv_inputs, best)
        best_distance = torch.where(closer, distance, best_distance)
        low = torch.where(adversarial, low, epsilon)
        high = torch.where(adversarial, epsilon, high)
    return best
