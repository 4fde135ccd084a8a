"""An epoch of each architecture beside the arithmetic alone and beside a plain DataLoader loop.

    PYTHONPATH=.:kernels python -m benchmarks.training

On made-up images of CIFAR-10's shape (times do not depend on what they show). The floor is the bare forward, backward
and optimiser step on one fixed batch that lies ready: no order, no augmentation, no conversion. The plain loop is
torch's DataLoader with torchvision's transforms on PIL images, as tutorials have it. All take turns in one process.
Writes benchmarks/results/training-<machine>.json anew and prints a table. A target that is missed is printed as such.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.machine import circumstances, cpu_model, file_name
from benchmarks.summary import spread
from robustlab.data import Augmentation, LabelledImages
from robustlab.models import build_model
from robustlab.recipes import PRECISIONS, Recipe
from robustlab.training import train

RESULTS = Path(__file__).parent / "results"
SHAPE, CLASSES, BATCH_SIZE = (3, 32, 32), 10, 128
# Times do not depend on it, but noise cannot be learned: at a common rate a loss of NaN would end the epoch.
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Case:
    """One architecture: its augmentation, how many images an epoch has here, and its target over the floor."""

    name: str
    model: str
    augmentation: Augmentation | None
    images: int
    target: float | None


MOVED = Augmentation(shift=True, flip=True, rotation=False)
TURNED = Augmentation(shift=True, flip=True, rotation=True)
CASES = (
    Case("perceptron", "perceptron", None, 12_800, 1.3),
    Case("perceptron+aug", "perceptron", MOVED, 12_800, 1.3),
    Case("simple_cnn", "simple_cnn", None, 1_280, None),
    Case("resnet+aug", "resnet", MOVED, 640, 1.1),
    Case("densenet+aug", "densenet", TURNED, 384, 1.1),
)


class Pictures(Dataset):  # type: ignore[type-arg]
    """The images as PIL pictures through torchvision's transforms, one by one."""

    def __init__(self, data: LabelledImages, augmentation: Augmentation | None) -> None:
        to_picture = transforms.ToPILImage()
        self.pictures = [to_picture(image) for image in data.images]
        self.labels = data.labels.tolist()
        steps: list[Any] = []
        if augmentation is not None:
            steps += [
                transforms.RandomCrop(SHAPE[1], padding=SHAPE[1] // 8),
                transforms.RandomHorizontalFlip(),
            ]
            steps += [transforms.RandomRotation(15)] if augmentation.rotation else []
        self.transform = transforms.Compose([*steps, transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def network(case: Case) -> nn.Module:
    """The architecture with weights from a fixed seed."""
    torch.manual_seed(0)
    return build_model(case.model, SHAPE, CLASSES, [0.5] * 3, [0.25] * 3)


def ours(case: Case, data: LabelledImages, device: str, precision: str) -> Callable[[], object]:
    """An epoch by :func:`robustlab.training.train`, set-up included."""
    model = network(case).to(device)
    recipe = _recipe(precision)
    return lambda: train(model, data, recipe, seed=0, augmentation=case.augmentation)


def plain(case: Case, data: LabelledImages, device: str, precision: str) -> Callable[[], object]:
    """An epoch of the loop that tutorials show; in the other two's precision, which favours it."""
    low_precision = _recipe(precision).low_precision(torch.device(device))
    model = network(case).to(device).train()
    optimizer = _optimizer(model)
    loader = DataLoader(Pictures(data.to("cpu"), case.augmentation), batch_size=BATCH_SIZE, shuffle=True)

    def epoch() -> None:
        for inputs, labels in loader:
            with torch.autocast(device, dtype=torch.bfloat16, enabled=low_precision):
                logits = model(inputs.to(device))
            loss = functional.cross_entropy(logits.float(), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def floor(case: Case, data: LabelledImages, device: str, precision: str) -> Callable[[], object]:
    """As many steps on one batch that lies ready, channels last and in the precision that :func:`train` has."""
    low_precision = _recipe(precision).low_precision(torch.device(device))
    model = network(case).to(device, memory_format=torch.channels_last).train()
    optimizer = _optimizer(model, fused=device == "cuda")
    inputs = (data.images[:BATCH_SIZE].float() / 255).contiguous(memory_format=torch.channels_last)
    labels = data.labels[:BATCH_SIZE]

    def epoch() -> None:
        for _ in range(math.ceil(case.images / BATCH_SIZE)):
            with torch.autocast(device, dtype=torch.bfloat16, enabled=low_precision):
                logits = model(inputs)
            loss = functional.cross_entropy(logits.float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return epoch


def _recipe(precision: str) -> Recipe:
    return Recipe(epochs=1, learning_rate=LEARNING_RATE, precision=precision)


def _optimizer(model: nn.Module, fused: bool = False) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=fused
    )


def measure(case: Case, rounds: int, device: str, precision: str) -> dict[str, Any]:
    """Seconds of an epoch of all three, in turns, and the ratios of each round."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (case.images, *SHAPE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (case.images,), generator=generator)
    data = LabelledImages(images, labels).to(device)
    contenders = {"ours": ours, "plain": plain, "floor": floor}
    epochs = {name: make(case, data, device, precision) for name, make in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(rounds + 1):  # the first round warms up
        for name in list(epochs) if number % 2 else reversed(epochs):
            started = _clock(device)
            epochs[name]()
            if number:
                seconds[name].append(_clock(device) - started)
    ratios = {
        "over_floor": [mine / bare for mine, bare in zip(seconds["ours"], seconds["floor"], strict=True)],
        "plain_over_ours": [its / mine for its, mine in zip(seconds["plain"], seconds["ours"], strict=True)],
    }
    return {
        "model": case.name,
        "precision": precision,
        "images": case.images,
        "n": rounds,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        **{name: spread(values) for name, values in ratios.items()},
        "target": case.target,
    }


def _clock(device: str) -> float:
    """CPU time of all threads, which other programs disturb least; on CUDA the wall clock once the device is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown: medians (20 to 80 % quantile)."""
    lines = [
        "| model | precision | images | ours, s | floor, s | plain loop, s | ours over floor | target "
        "| plain over ours |",
        "|---" * 9 + "|",
    ]
    for row in rows:
        ratio, target = row["over_floor"]["median"], row["target"]
        verdict = "-" if target is None else f"{target}: {'reached' if ratio <= target else '**missed**'}"
        seconds = [f"{row['seconds'][name]['median']:.2f}" for name in ("ours", "floor", "plain")]
        lines.append(
            f"| {row['model']} | {row['precision']} | {row['images']:,} | {' | '.join(seconds)} "
            f"| {_spread(row['over_floor'])} | {verdict} | {_spread(row['plain_over_ours'])} |"
        )
    return "\n".join(lines)


def _spread(values: dict[str, float]) -> str:
    return f"{values['median']:.3f} ({values['p20']:.3f} to {values['p80']:.3f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each, after one that warms up")
    parser.add_argument("--models", nargs="+", choices=[case.name for case in CASES], help="only these")
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=["auto"], help="of the recipe (decision 10)"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="write the results here instead")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    machine = torch.cuda.get_device_name() if options.device == "cuda" else cpu_model()
    report = {"benchmark": "training", **circumstances(options.threads), "device": machine, "models": []}
    for case in CASES:
        if not options.models or case.name in options.models:
            for precision in options.precisions:
                report["models"].append(measure(case, options.rounds, options.device, precision))
                print(table(report["models"][-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    out = options.out or RESULTS / f"training-{file_name(machine)}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    print(f"written: {out}", file=sys.stderr)
    print(table(report["models"]))


if __name__ == "__main__":
    main()
