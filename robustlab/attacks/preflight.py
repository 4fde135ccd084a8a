"""Checks as an attack starts: refuse what cannot work, warn of what makes the result doubtful."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from robustlab.attacks.attacked_model import PreflightWarning
from robustlab.attacks.diagnosis import looks_like_softmax
from robustlab.errors import InputError


def check_inputs(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """Refuse inputs and labels that no attack can work on; warn of inputs outside [0, 1].

    Raises:
        InputError: inputs not floating, not finite or not (B, ...); labels not integers of shape (B,);
            dtype or device unlike the model's.
    """
    if inputs.dim() < 2 or not inputs.is_floating_point():
        raise InputError(
            f"inputs must be floating-point (batch, ...), not {inputs.dtype} of shape {tuple(inputs.shape)}"
        )
    if labels.shape != inputs.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(
            f"labels must be {len(inputs)} integers, not {labels.dtype} of shape {tuple(labels.shape)}"
        )
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is not None and parameter.dtype != inputs.dtype:
        raise InputError(f"inputs are {inputs.dtype} and the model is {parameter.dtype}; convert one of them")
    devices = {str(tensor.device) for tensor in (inputs, labels, *([] if parameter is None else [parameter]))}
    if len(devices) > 1:
        raise InputError(f"model, inputs and labels lie on different devices ({', '.join(sorted(devices))})")
    if len(inputs) == 0:
        return
    if not inputs.isfinite().all():
        raise InputError("inputs hold NaN or infinite pixels")
    lowest, highest = inputs.min().item(), inputs.max().item()
    if lowest < 0 or highest > 1:
        _warn(
            f"inputs reach from {lowest:g} to {highest:g}, attacks work in [0, 1]: "
            "the adversarial images will be clipped to it (divide pixels by 255, normalise inside the model)",
            levels=3,
        )


def check_precision(inputs: Tensor, precision: str) -> None:
    """Refuse a precision that would be ignored.

    Raises:
        InputError: bf16 or TF32 for inputs that are not float32, TF32 elsewhere than on CUDA.
    """
    if precision != "ieee" and inputs.dtype != torch.float32:
        raise InputError(
            f"precision {precision} is for float32 inputs and models, not {inputs.dtype}; use ieee"
        )
    if precision == "tf32" and inputs.device.type != "cuda":
        raise InputError(
            f"precision tf32 exists on CUDA devices alone, not on {inputs.device}; use ieee or bf16"
        )


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels that are no class of the model."""
    if len(labels) and (labels.min() < 0 or labels.max() >= classes):
        lowest, highest = labels.min().item(), labels.max().item()
        raise InputError(f"labels reach from {lowest} to {highest}, but the model has {classes} classes")


def check_model(logits: Tensor, gradient: Tensor) -> None:
    """Warn of outputs that look like probabilities and of gradients that are zero, at the clean images."""
    if looks_like_softmax(logits):
        _warn(
            "the model's outputs look like softmax probabilities; attacks need logits (remove the softmax)",
            levels=6,
        )
    vanished = (gradient.flatten(1) == 0).all(dim=1).sum().item()
    if vanished:
        _warn(
            f"the gradient is zero at {vanished} of {len(gradient)} clean images; "
            "a gradient attack says nothing about their robustness",
            levels=6,
        )


def _warn(message: str, levels: int) -> None:
    """Warn at the line that called the attack, ``levels`` calls above the check."""
    warnings.warn(message, PreflightWarning, stacklevel=levels + 2)
