"""The user's model for the time of an attack: evaluation mode, no parameter gradients, then as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from robustlab_kernels import Margin, margin
from torch import Tensor, nn

from robustlab.attacks.execution import arithmetic
from robustlab.attacks.folding import faster_copy
from robustlab.errors import InputError
from robustlab.shapes import Float, Int


class PreflightWarning(UserWarning):
    """Something about the model or the inputs makes the attack's result doubtful."""


class AttackedModel:
    """What attacks ask a model: logits, and the margin with its gradient with respect to the image.

    ``torch.autograd.grad`` towards the image alone computes no parameter gradient and writes no ``.grad``;
    the gradient enters at the logits in closed form, so nothing is differentiated but the model itself.
    """

    def __init__(
        self, model: nn.Module, fast: nn.Module, targeted: bool, precision: str, images: Tensor
    ) -> None:
        self.model = model
        self.targeted = targeted
        self.ieee = precision == "ieee"
        self._low = precision == "bf16"
        self._own_copy = fast is not model
        self.fast = fast.to(torch.bfloat16) if self._low and self._own_copy else fast
        self.precision = str(images.dtype).removeprefix("torch.") if precision == "ieee" else precision
        # The copy's convolutions are channels last; on CUDA images, gradients and all state follow, so that no
        # operator has to rearrange them.
        follows = images.is_cuda and images.dim() == 4 and self._own_copy
        self.layout = torch.channels_last if follows else torch.contiguous_format

    def in_its_layout(self, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """The images as the network wants them in memory."""
        return images.contiguous(memory_format=self.layout) if images.dim() == 4 else images

    def network(self, images: Tensor) -> Tensor:
        """The logits (B, N), in the images' own type whatever the network computes in; autograd as it is set."""
        if not self._low:
            return _checked_logits(self.fast(images), images)
        if self._own_copy:
            logits = self.fast(images.to(torch.bfloat16))
        else:  # the user's own weights are not to be touched
            with torch.autocast(images.device.type, dtype=torch.bfloat16):
                logits = self.fast(images)
        return _checked_logits(logits.to(images.dtype), images)

    def as_given(self, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """One forward pass of the model as the user gave it, in IEEE arithmetic, for the verdict."""
        with torch.no_grad(), arithmetic("ieee", images.device):
            return _checked_logits(self.model(images), images)

    def logits(self, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """One forward pass, no gradient."""
        with torch.no_grad():
            return self.network(images)

    def margin_gradient(
        self,
        images: Float[Tensor, "batch ..."],
        labels: Int[Tensor, " batch"],
        *,
        soft: bool = False,
        confidence: float = 0.0,
    ) -> tuple[Margin, Float[Tensor, "batch ..."]]:
        """One forward pass and one input gradient: the margin (negative: adversarial) and its gradient.

        ``soft`` (the gradient is the cross-entropy's direction) and ``confidence`` as
        :func:`robustlab_kernels.margin` has them.
        """
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            logits = self.network(images)
        detached = logits.detach()
        margins = margin(detached, labels, targeted=self.targeted, soft=soft, confidence=confidence)
        return margins, self._back(logits, images, margins.gradient)

    def rival_gradients(
        self, images: Float[Tensor, "batch ..."], labels: Int[Tensor, " batch"], count: int
    ) -> tuple[
        Float[Tensor, "batch classes"], Int[Tensor, "batch rivals"], Float[Tensor, "rivals batch ..."]
    ]:
        """One forward pass and ``count`` input gradients: of the margins to the highest other classes.

        Returns the logits, those classes (B, K), highest first, and the gradients (K, B, ...). Targeted, the
        margin counts the other way round. K is smaller where the model has fewer classes.
        """
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            logits = self.network(images)
        detached = logits.detach()
        count = min(count, logits.shape[1] - 1)
        others = detached.scatter(1, labels[:, None], -torch.inf)
        rivals = others.topk(count, dim=1).indices
        gradients = []
        for k in range(count):
            downstream = self.pair_gradient(detached, labels, rivals[:, k])
            gradients.append(self._back(logits, images, downstream, last=k == count - 1))
        return detached, rivals, torch.stack(gradients)

    def rival_gradient(
        self, images: Float[Tensor, "batch ..."], labels: Int[Tensor, " batch"], rivals: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch ..."]]:
        """One forward pass and one input gradient: logits, and the gradient of the margin to a given class."""
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            logits = self.network(images)
        downstream = self.pair_gradient(logits.detach(), labels, rivals)
        return logits.detach(), self._back(logits, images, downstream)

    def pair_gradient(self, logits: Tensor, labels: Tensor, rivals: Tensor) -> Tensor:
        """d (z_label - z_rival) / d z, its negative when targeted."""
        sign = -1.0 if self.targeted else 1.0
        return torch.zeros_like(logits).scatter_(1, rivals[:, None], -sign).scatter_(1, labels[:, None], sign)

    @staticmethod
    def _back(logits: Tensor, images: Tensor, downstream: Tensor, last: bool = True) -> Tensor:
        """From the logits back to the image; zero where the logits do not depend on it."""
        if not logits.requires_grad:
            return torch.zeros_like(images)
        (gradient,) = torch.autograd.grad(
            logits, images, downstream, allow_unused=True, retain_graph=not last
        )
        return torch.zeros_like(images) if gradient is None else gradient


def _checked_logits(logits: Tensor, images: Tensor) -> Tensor:
    if logits.dim() != 2 or len(logits) != len(images) or logits.shape[1] < 2:
        raise InputError(
            f"the model must return logits of shape ({len(images)}, classes >= 2), not {tuple(logits.shape)}"
        )
    return logits


@contextmanager
def attacked(
    model: nn.Module, inputs: Float[Tensor, "batch ..."], *, targeted: bool, precision: str = "ieee"
) -> Iterator[AttackedModel]:
    """Put ``model`` in evaluation mode, restore each module's own flag afterwards, also after an exception.

    ``precision`` is that of :class:`robustlab.attacks.execution.Execution`.

    Warns with PreflightWarning where a module was in training mode. Parameters, their ``requires_grad`` and
    ``.grad``, buffers and hooks are never touched.
    """
    training = [module for module in model.modules() if module.training]
    if training:
        warnings.warn(
            "the model is in training mode; it is attacked in evaluation mode and put back afterwards "
            "(call model.eval() to silence this)",
            PreflightWarning,
            stacklevel=5,
        )
    try:
        for module in training:
            module.training = False
        # Outside inference mode: gradients are needed whatever the caller's context is.
        with torch.inference_mode(False):
            with arithmetic(
                "ieee", inputs.device
            ):  # the copy is checked against the model to float32's rounding
                fast = faster_copy(model, inputs[:4].clone())
            with arithmetic(precision, inputs.device):
                yield AttackedModel(model, fast, targeted, precision, inputs)
    finally:
        for module in training:
            module.training = True
