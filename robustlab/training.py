"""Train a classifier on one subset: a stated recipe, deterministic under a seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustlab.attacks.execution import arithmetic
from robustlab.data import Augmentation, DataSet, LabelledImages
from robustlab.models import build_model
from robustlab.recipes import Recipe, learning_rate_factor
from robustlab.shapes import Bool, Float, UInt8


class TrainingDiverged(RuntimeError):
    """The loss stopped being finite; this cell has no model."""


@dataclass(frozen=True)
class TrainingResult:
    """Mean training loss per epoch, optimiser steps taken, wall-clock seconds."""

    losses: tuple[float, ...]
    steps: int
    train_s: float


@dataclass(frozen=True, eq=False)
class TrainingState:
    """A training after ``len(losses)`` epochs: what has to be kept to go on as if it had never stopped.

    ``tensors`` holds the weights and buffers (``model.*``), the momentum (``momentum.*``) and the states of the two
    random generators (``generator.*``), all on the CPU.
    """

    tensors: dict[str, Tensor]
    losses: tuple[float, ...]
    steps: int
    train_s: float


def initial_model(name: str, dataset: DataSet, subset: LabelledImages, seed: int) -> nn.Sequential:
    """Build the named model with weights drawn from the seed, normalising by the subset's own mean and deviation.

    A model trained on S_i may know nothing but S_i, so its normalisation comes from there too.
    """
    mean, std = channel_statistics(subset.images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(name, dataset.image_shape, dataset.num_classes, mean, std)


def channel_statistics(
    images: UInt8[Tensor, "n channels height width"],
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel in units of the [0, 1] pixel range; the deviation is at least 0.001.

    Counted by pixel value: exact, and without a floating-point copy of the images.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(dim=1):
        counts = torch.bincount(channel.flatten(), minlength=256).double().cpu()
        mean.append(float(counts @ values / counts.sum()))
        std.append(max(1e-3, float(counts @ (values - mean[-1]).square() / counts.sum()) ** 0.5))
    return mean, std


def train(
    model: nn.Module,
    subset: LabelledImages,
    recipe: Recipe,
    *,
    seed: int,
    augmentation: Augmentation | None = None,
    on_epoch: Callable[[int, int, float], None] | None = None,
    on_state: Callable[[Callable[[], TrainingState]], None] | None = None,
    resume: TrainingState | None = None,
) -> TrainingResult:
    """Train ``model`` in place and leave it in evaluation mode.

    The same seed, machine and versions give bit-identical weights on the CPU, in either precision. In bf16 the
    network's convolutions and matrix products are rounded (autocast), weights, optimiser and loss stay in float32.

    Args:
        model: on the subset's device; takes (B, C, H, W) in [0, 1], returns logits (B, N).
        subset: the training images, resident on the device that trains, as uint8.
        seed: draws the order of the images and the augmentation.
        on_epoch: called with (epochs done, epochs in all, mean loss).
        on_state: called after every epoch but the last with a function that copies the training's state.
        resume: a state of the same training; it goes on from there, to the same weights (bit-equal on the CPU).

    Raises:
        TrainingDiverged: the mean loss of an epoch is not finite, or a weight or buffer is not at the end.
    """
    count, device = len(subset.labels), subset.images.device
    low_precision = recipe.low_precision(device)
    batches_per_epoch = math.ceil(count / recipe.batch_size)
    total_steps = recipe.steps_for(count)
    epochs = math.ceil(total_steps / batches_per_epoch)
    order_generator = torch.Generator().manual_seed(seed)
    augmentation_generator = torch.Generator(device).manual_seed(seed)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        fused=device.type == "cuda",  # one launch for all parameters; on the CPU it would round differently
    )
    generators = {"order": order_generator, "augmentation": augmentation_generator}
    losses: list[float] = []
    steps, before_s = 0, 0.0
    if resume is not None:
        _restore(resume, model, optimizer, generators)
        losses, steps, before_s = list(resume.losses), resume.steps, resume.train_s
    started = time.perf_counter() - before_s
    model.train()
    for epoch in range(len(losses), epochs):
        # Equal parts instead of full batches and a rest: batch normalisation never meets a batch of one image.
        batches = torch.randperm(count, generator=order_generator).to(device).tensor_split(batches_per_epoch)
        batches = batches[: total_steps - steps]
        loss_sum = torch.zeros((), device=device)
        for step, batch in enumerate(batches, start=steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * learning_rate_factor(step, total_steps, recipe)
            images = subset.images[batch]
            if augmentation is None:
                inputs = to_inputs(images)
            else:
                inputs = to_inputs(augmentation.move(images, augmentation_generator))
                inputs = augmentation.turn(inputs, augmentation_generator)
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=low_precision):
                logits = model(inputs)
            loss = functional.cross_entropy(
                logits.float(), subset.labels[batch], label_smoothing=recipe.label_smoothing
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach()
        steps += len(batches)
        losses.append(loss_sum.item() / len(batches))
        if not math.isfinite(losses[-1]):
            raise TrainingDiverged(f"the training loss was {losses[-1]} in epoch {epoch + 1} of {epochs}")
        if on_epoch is not None:
            on_epoch(epoch + 1, epochs, losses[-1])
        if on_state is not None and epoch + 1 < epochs:
            on_state(partial(_state, model, optimizer, generators, tuple(losses), steps, started))
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise TrainingDiverged(
            f"the model holds weights that are not finite after epoch {epochs} of {epochs}"
        )
    model.zero_grad(set_to_none=True)
    # As every loaded copy will be: another layout rounds differently, and accuracies are to be equal to the bit.
    model.to(memory_format=torch.contiguous_format)
    model.eval()
    return TrainingResult(tuple(losses), steps, time.perf_counter() - started)


def _state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generators: dict[str, torch.Generator],
    losses: tuple[float, ...],
    steps: int,
    started: float,
) -> TrainingState:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        if optimizer.state[parameter].get("momentum_buffer") is not None:
            tensors[f"momentum.{name}"] = optimizer.state[parameter]["momentum_buffer"]
    tensors |= {f"generator.{name}": generator.get_state() for name, generator in generators.items()}
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return TrainingState(copies, losses, steps, time.perf_counter() - started)


def _restore(
    state: TrainingState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generators: dict[str, torch.Generator],
) -> None:
    model.load_state_dict(
        {name[6:]: value for name, value in state.tensors.items() if name.startswith("model.")}
    )
    for name, parameter in model.named_parameters():
        momentum = state.tensors.get(f"momentum.{name}")
        if momentum is not None:
            # In the parameter's own layout, as the optimiser would have made it.
            buffer = torch.empty_like(parameter).copy_(momentum).detach()
            optimizer.state[parameter]["momentum_buffer"] = buffer
    for name, generator in generators.items():
        generator.set_state(state.tensors[f"generator.{name}"])


def to_inputs(
    images: UInt8[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Turn stored pixels (0 to 255) into inputs in [0, 1], float32."""
    return images.float().div_(255)


@torch.no_grad()
def correctly_classified(
    model: nn.Module, data: LabelledImages, batch_size: int = 1024
) -> Bool[Tensor, " images"]:
    """Which images the model gets right in IEEE float32; the model has to be in evaluation mode already."""
    with arithmetic("ieee", data.images.device):  # as the attacks' verdict
        verdicts = [
            _right(model(to_inputs(images)), labels)
            for images, labels in zip(
                data.images.split(batch_size), data.labels.split(batch_size), strict=True
            )
        ]
    return torch.cat(verdicts)


def _right(logits: Tensor, labels: Tensor) -> Bool[Tensor, " images"]:
    """The highest logit is the label's; logits that are not finite are never right."""
    return (logits.argmax(dim=1) == labels) & logits.isfinite().all(dim=1)
