"""What makes verdicts about a model worthless or doubtful, found before it is attacked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustlab.attacks.execution import arithmetic
from robustlab.shapes import Bool, Float, Int

# The same images are looked at in batches of these two sizes, of fewer images in one and in halves: a verdict that
# depends on its batch is none.
_LARGE, _SMALL = 64, 8
# Two passes over the same image may differ by so many roundings of the largest logit (another order of summation).
_ROUNDINGS = 1_000
# From this margin on, float32's softmax is exactly one-hot and the cross-entropy's gradient exactly zero.
_SATURATED = 104.0
_WORTHLESS = "no verdict about it means anything"


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What is wrong with a model at some images.

    Attributes:
        findings: by name, a sentence for people; empty where nothing was found.
        verdicts: (B,), whether the model's answer for the image means anything. None does where the model changes
            itself, answers at random or by the image's neighbours; an image whose logits are not finite has none.
        flat: the input gradient is zero at every image, so that no gradient attack leaves them.
    """

    findings: Mapping[str, str]
    verdicts: Bool[Tensor, " batch"] = field(repr=False)
    flat: bool = False


def diagnose(
    model: nn.Module, inputs: Float[Tensor, "batch ..."], labels: Int[Tensor, " batch"]
) -> Diagnosis:
    """Look for what no attack can judge: four forward passes and one input gradient an image.

    Args:
        model: in evaluation mode.
        inputs: pixels in [0, 1].
        labels: the true classes.
    """
    findings: dict[str, str] = {}
    rows = inputs.shape[0]
    verdicts = torch.ones(rows, dtype=torch.bool, device=inputs.device)
    if rows == 0:
        return Diagnosis(findings, verdicts)
    before = ModelState(model)
    with torch.inference_mode(False), arithmetic("ieee", inputs.device):
        large, again = _logits(model, inputs, _LARGE), _logits(model, inputs, _LARGE)
        small = _logits(model, inputs, _small(rows))
        changed = before.differs(model)
        if changed:
            findings["changes_itself"] = f"{changed}; {_WORTHLESS}"
        elif not _close(large, again):
            findings["random"] = (
                "the model answers differently each time it is asked (dropout or noise in evaluation mode?); "
                + _WORTHLESS
            )
        elif not _close(large, small):
            findings["depends_on_batch"] = (
                "the model's answer for an image depends on the other images of its batch (normalisation by the "
                f"batch's own statistics?); {_WORTHLESS}"
            )
        if findings:
            return Diagnosis(findings, torch.zeros_like(verdicts))
        try:
            gradient = _margin_gradient(model, inputs, labels)
        except RuntimeError as error:  # whatever torch says of a model that cannot be differentiated
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            findings["no_gradient"] = f"the model cannot be differentiated ({reason}), so it is not attacked"
            return Diagnosis(findings, torch.zeros_like(verdicts))
    finite = large.isfinite().all(dim=1)
    if not finite.all():
        findings["not_finite_logits"] = (
            f"the logits of {_of(~finite)} images are NaN or infinite; these images have no verdict"
        )
    findings |= _about_logits(large[finite])
    findings |= _about_gradient(gradient[finite], "constant" in findings)
    return Diagnosis(findings, finite, flat=not gradient.any())


def surviving(
    model: nn.Module, adv_inputs: Float[Tensor, "batch ..."], labels: Int[Tensor, " batch"]
) -> Bool[Tensor, " batch"]:
    """Which images the model misclassifies in fresh forward passes at two batch sizes, in IEEE arithmetic."""
    survives = torch.ones(adv_inputs.shape[0], dtype=torch.bool, device=adv_inputs.device)
    with torch.inference_mode(False), arithmetic("ieee", adv_inputs.device):
        for size in (_LARGE, _small(adv_inputs.shape[0])):
            logits = _logits(model, adv_inputs, size)
            survives &= (logits.argmax(dim=1) != labels) & logits.isfinite().all(dim=1)
    return survives


class ModelState:
    """Weights, buffers and modes of a model, to see whether forward passes change them."""

    def __init__(self, model: nn.Module) -> None:
        self._values = [value.detach().clone() for value in (*model.parameters(), *model.buffers())]
        self._modes = [module.training for module in model.modules()]

    def differs(self, model: nn.Module) -> str:
        """What changed since, as half a sentence; empty where nothing did."""
        now = [value.detach() for value in (*model.parameters(), *model.buffers())]
        same = len(now) == len(self._values) and all(map(_equal, now, self._values))
        if not same:
            return "the model changes its weights or buffers when it is asked"
        if [module.training for module in model.modules()] != self._modes:
            return "the model changes its mode (training or evaluation) when it is asked"
        return ""


def _small(rows: int) -> int:
    return max(1, min(_SMALL, rows // 2))


@torch.no_grad()
def _logits(model: nn.Module, inputs: Tensor, batch_size: int) -> Tensor:
    if len(inputs) == 1 < batch_size:  # one image alone: beside itself
        return model(inputs.expand(2, *inputs.shape[1:]))[:1]
    parts = [model(part) for part in inputs.split(batch_size)]
    return torch.cat(parts) if parts else inputs.new_zeros((0, 2))


def _margin_gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the margin to the highest other class."""
    gradients = []
    for part, own in zip(inputs.split(_LARGE), labels.split(_LARGE), strict=True):
        with torch.enable_grad():
            images = part.detach().clone().requires_grad_()
            logits = model(images)
            others = logits.detach().scatter(1, own[:, None], -torch.inf).argmax(dim=1, keepdim=True)
            margins = logits.gather(1, own[:, None]) - logits.gather(1, others)
            found = (
                torch.autograd.grad(margins.sum(), images, allow_unused=True)[0]
                if logits.requires_grad
                else None
            )
        gradients.append(torch.zeros_like(part) if found is None else found)
    return torch.cat(gradients)


def _about_logits(logits: Tensor) -> dict[str, str]:
    """Findings about finite logits."""
    findings = {}
    if len(logits) > 1 and (logits == logits[0]).all():
        findings["constant"] = f"the model's outputs are the same for all {len(logits):,} images"
    if looks_like_softmax(logits):
        saturated = (logits.amax(dim=1) == 1) & (logits.sum(dim=1) == 1)
        findings["softmax"] = (
            "the model's outputs look like softmax probabilities; attacks need logits (remove the softmax)"
            + (f"; {_of(saturated)} images have probability exactly 1" if saturated.any() else "")
        )
    elif len(logits):
        highest = logits.topk(2, dim=1).values
        saturated = highest[:, 0] - highest[:, 1] > _SATURATED
        if saturated.any():
            findings["saturated"] = (
                f"the softmax of {_of(saturated)} images is saturated (margins above {_SATURATED:g}): attacks by the "
                "cross-entropy see no gradient there; these take it from the logits"
            )
    return findings


def _about_gradient(gradient: Tensor, constant: bool) -> dict[str, str]:
    findings = {}
    flat = gradient.flatten(1)
    bad = ~flat.isfinite().all(dim=1)
    if bad.any():
        findings["not_finite_gradient"] = (
            f"the input gradient at {_of(bad)} images is NaN or infinite; attacks find nothing there"
        )
    zero = (flat == 0).all(dim=1)
    if zero.any() and not constant:
        findings["zero_gradient"] = (
            f"the input gradient at {_of(zero)} images is zero; a gradient attack says nothing about them"
        )
    return findings


def looks_like_softmax(logits: Float[Tensor, "batch classes"]) -> bool:
    """Whether the outputs are probabilities: none negative, rows that sum to 1."""
    sums = logits.sum(dim=1)
    return (
        len(logits) > 0
        and bool((logits >= 0).all())
        and torch.allclose(sums, torch.ones_like(sums), atol=1e-4)
    )


def _close(one: Tensor, other: Tensor) -> bool:
    """Equal to the rounding of the largest finite logit; NaN and infinities at the same places."""
    finite = one.isfinite()
    if one.shape != other.shape or not torch.equal(finite, other.isfinite()):
        return False
    scale = one[finite].abs().max() if finite.any() else one.new_zeros(())
    tolerance = _ROUNDINGS * torch.finfo(one.dtype).eps * scale
    return bool(((one - other)[finite].abs() <= tolerance).all())


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _of(mask: Tensor) -> str:
    return f"{int(mask.sum()):,} of {len(mask):,}"
