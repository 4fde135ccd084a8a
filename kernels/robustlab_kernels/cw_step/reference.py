"""One step of Carlini and Wagner's attack: Adam on w, where x = (tanh w + 1) / 2."""

from __future__ import annotations

import torch
from torch import Tensor

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8  # Kingma and Ba 2015, algorithm 1


def cw_step(
    w: Tensor,
    adv_inputs: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    inputs: Tensor,
    gradient: Tensor,
    step: Tensor,
    learning_rate: Tensor,
    active: Tensor,
) -> None:
    """Change ``w``, ``adv_inputs`` and the two moments in place, for the images that are ``active``.

    The loss is c f(x) + ||x - x0||^2 (Carlini and Wagner 2017, section V-D): ``gradient`` is c times the
    gradient of f with respect to x, the second term's is 2 (x - x0), and dx/dw = 2 x (1 - x).
    (tanh w + 1) / 2 = sigmoid(2w).

    Args:
        w, adv_inputs, first_moment, second_moment, inputs, gradient: (B, ...).
        step: (B,), the number of this step within the image's own run of Adam, from 1.
        learning_rate: (B,), in units of w.
        active: (B,) bool; the other images are left untouched.
    """
    per_image = (-1,) + (1,) * (w.dim() - 1)
    alive = active.view(per_image)
    grad_x = gradient + 2 * (adv_inputs - inputs)
    grad_w = grad_x * (2 * adv_inputs * (1 - adv_inputs))
    first = torch.lerp(grad_w, first_moment, _BETA_1)
    second = torch.lerp(grad_w.square(), second_moment, _BETA_2)
    count = step.to(w.dtype)
    first_scale = (learning_rate / (1 - _BETA_1**count)).view(per_image)
    second_scale = (1 - _BETA_2**count).rsqrt().view(per_image)
    moved = w - first_scale * first / (second.sqrt() * second_scale + _EPSILON)
    first_moment.copy_(torch.where(alive, first, first_moment))
    second_moment.copy_(torch.where(alive, second, second_moment))
    w.copy_(torch.where(alive, moved, w))
    adv_inputs.copy_(torch.where(alive, torch.sigmoid(2 * w), adv_inputs))
