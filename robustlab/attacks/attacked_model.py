"""The user's model for the time of an attack: evaluation mode, no parameter gradients, then as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from robustlab_kernels import Margin, margin
from torch import Tensor, nn

from robustlab.errors import InputError
from robustlab.shapes import Float, Int


class PreflightWarning(UserWarning):
    """Something about the model or the inputs makes the attack's result doubtful."""


class AttackedModel:
    """What attacks ask a model: logits, and the margin with its gradient with respect to the image.

    ``torch.autograd.grad`` towards the image alone computes no parameter gradient and writes no ``.grad``;
    the gradient enters at the logits in closed form, so nothing is differentiated but the model itself.
    """

    def __init__(self, model: nn.Module, targeted: bool) -> None:
        self.model = model
        self.targeted = targeted

    def logits(self, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """One forward pass, no gradient."""
        with torch.no_grad():
            return _checked_logits(self.model(images), images)

    def margin_gradient(
        self, images: Float[Tensor, "batch ..."], labels: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch classes"], Margin, Float[Tensor, "batch ..."]]:
        """One forward pass and one input gradient: logits, margin (negative: adversarial), its gradient."""
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            logits = _checked_logits(self.model(images), images)
        detached = logits.detach()
        margins = margin(detached, labels, targeted=self.targeted)
        if not logits.requires_grad:  # the logits do not depend on the image at all
            return detached, margins, torch.zeros_like(images)
        (gradient,) = torch.autograd.grad(logits, images, margins.gradient, allow_unused=True)
        if gradient is None:
            gradient = torch.zeros_like(images)
        return detached, margins, gradient


def _checked_logits(logits: Tensor, images: Tensor) -> Tensor:
    if logits.dim() != 2 or len(logits) != len(images) or logits.shape[1] < 2:
        raise InputError(
            f"the model must return logits of shape ({len(images)}, classes >= 2), not {tuple(logits.shape)}"
        )
    return logits


@contextmanager
def attacked(model: nn.Module, *, targeted: bool) -> Iterator[AttackedModel]:
    """Put ``model`` in evaluation mode, restore each module's own flag afterwards, also after an exception.

    Warns with PreflightWarning where a module was in training mode. Parameters, their ``requires_grad`` and
    ``.grad``, buffers and hooks are never touched.
    """
    training = [module for module in model.modules() if module.training]
    if training:
        warnings.warn(
            "the model is in training mode; it is attacked in evaluation mode and put back afterwards "
            "(call model.eval() to silence this)",
            PreflightWarning,
            stacklevel=4,
        )
    try:
        for module in training:
            module.training = False
        # Outside inference mode: gradients are needed whatever the caller's context is.
        with torch.inference_mode(False):
            yield AttackedModel(model, targeted)
    finally:
        for module in training:
            module.training = True
