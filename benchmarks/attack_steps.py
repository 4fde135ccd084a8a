"""What a whole attack step costs over the network alone, and Carlini-Wagner beside the peers', on a CUDA device.

Measured by :mod:`benchmarks.on_gpu`. A step's time is the slope between two runs of different length, so that what an
attack does once (the graph's capture, the clean images, the verdict) is not in it, but everything that a step needs is:
replays, the host's question of who is done, bookkeeping. The floor is the bare forward and input gradient of the same
network (folded, channels last, at the same precision) in a CUDA graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.contenders import Effort
from benchmarks.gpu import graph_timer
from benchmarks.peers import foolbox_cw, missing_peers, peer_contenders
from benchmarks.summary import spread
from robustlab.attacks import IFGSM, AttackResult, CarliniWagnerL2, Execution, carlini_wagner_l2, ifgsm
from robustlab.attacks.attacked_model import attacked
from robustlab.models import build_model

SHAPE, CLASSES, IMAGES = (3, 32, 32), 10, 1024
PRECISIONS = ("ieee", "tf32", "bf16")
TARGETS = {"resnet": 1.05, "perceptron": 1.3}  # a step's time over the floor, at most
SPEED_TARGET = 10  # times as fast as the fastest peer's CW 9 x 1000
_SHORT, _LONG = 200, 600  # steps of the two runs


@dataclass
class Subject:
    """A trained network and images that it classifies correctly, on the device."""

    name: str
    model: nn.Module
    inputs: Tensor
    labels: Tensor


def subject(name: str, images: int = IMAGES, device: str = "cuda", steps: int = 300) -> Subject:
    """An architecture for CIFAR-10's shapes, trained on made-up classes: one pattern each, and noise.

    Times do not depend on what the pixels show; a trained network is wanted because an attack on one with random
    weights is over at once.
    """
    generator = torch.Generator(device).manual_seed(0)
    patterns = torch.rand(CLASSES, *SHAPE, device=device, generator=generator)

    def batch(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(CLASSES, (count,), device=device, generator=generator)
        noise = torch.randn(count, *SHAPE, device=device, generator=generator)
        return (0.5 + 0.3 * (patterns[labels] - 0.5) + 0.15 * noise).clamp(0, 1), labels

    torch.manual_seed(0)
    model = build_model(name, SHAPE, CLASSES, [0.5] * 3, [0.25] * 3).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(steps):
        inputs, labels = batch(256)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    model.eval()
    inputs, labels = batch(4 * images)
    with torch.no_grad():
        correct = torch.cat([model(part).argmax(1) for part in inputs.split(512)]) == labels
    return Subject(name, model, inputs[correct][:images], labels[correct][:images])


def step_seconds(run: Callable[[int], object], short: int, long: int) -> float:
    """Seconds of a step: the slope between runs of ``short`` and of ``long`` steps."""
    times = []
    for steps in (short, long):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run(steps)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return (times[1] - times[0]) / (long - short)


def cw_constants(steps: int) -> CarliniWagnerL2:
    """One try of exactly so many steps for every image."""
    return replace(
        CarliniWagnerL2.classic(), binary_search_steps=1, max_iterations=steps, stall_tolerance=0.0
    )


def ifgsm_constants(steps: int) -> IFGSM:
    """Exactly so many passes for every image that finds anything, four times as many for the others."""
    return IFGSM(passes=steps, tolerance=1e-9, narrowing=0.99)


def floor_timer(subject: Subject, precision: str) -> Callable[[], float]:
    """Seconds of a bare forward and input gradient, from a graph that repeats it."""
    with attacked(subject.model, subject.inputs, targeted=False, precision=precision) as model:
        images = model.in_its_layout(subject.inputs).clone().requires_grad_()
        downstream = torch.ones(len(images), CLASSES, device=images.device)

        def bare() -> None:
            for _ in range(10):
                with torch.enable_grad():
                    torch.autograd.grad(model.network(images), images, downstream)

        return graph_timer(bare, lambda: None, 10)


def step_rows(subjects: list[Subject], rounds: int) -> list[dict[str, Any]]:
    """Steps of both attacks over the floor, graph and eager, in turns."""
    rows = []
    for one in subjects:
        for precision in PRECISIONS:
            floor = floor_timer(one, precision)
            for attack in ("cw", "ifgsm"):
                times: dict[str, list[float]] = {"floor": [], "graph": [], "eager": []}
                engines: dict[str, str] = {}
                for _ in range(rounds):
                    times["floor"].append(floor())
                    for loop in ("graph", "eager"):
                        run = partial(_attack, attack, one, Execution(loop=loop, precision=precision))
                        engines[loop] = str(run(steps=1).engine)
                        times[loop].append(step_seconds(run, _SHORT, _LONG))
                time_s = {name: spread(values) for name, values in times.items()}
                over = {
                    name: time_s[name]["median"] / time_s["floor"]["median"] for name in ("graph", "eager")
                }
                rows.append(
                    {
                        "model": one.name, "attack": attack, "precision": precision, "images": len(one.labels),
                        "n": rounds, "time_s": time_s, "over_floor": over, "engines": engines,
                        "target": TARGETS[one.name],
                    }
                )  # fmt: skip
    return rows


def _attack(name: str, subject: Subject, execution: Execution, steps: int) -> AttackResult:
    arguments = subject.model, subject.inputs, subject.labels
    if name == "cw":
        return carlini_wagner_l2(*arguments, cw_constants(steps), execution=execution)
    return ifgsm(*arguments, ifgsm_constants(steps), execution=execution)


def cw_rows(subject: Subject) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Carlini-Wagner 9 x 1,000 of every library on all images at once, and our defaults; missing peers by reason."""
    contenders: list[tuple[str, Callable[[nn.Module, Tensor, Tensor], Any]]] = []
    for precision in PRECISIONS:
        execution = Execution(precision=precision)
        contenders += [
            (f"robustlab: cw classic 9x1000, {precision}", _ours(CarliniWagnerL2.classic(), execution)),
            (f"robustlab: cw, {precision}", _ours(CarliniWagnerL2(), execution)),
        ]
    contenders += [(peer.key, peer.attack) for peer in peer_contenders(Effort()) if "cw 9x1000" in peer.name]
    if "foolbox" not in missing_peers():
        contenders.append(("foolbox: cw 9x1000", partial(foolbox_cw, search_steps=9, iterations=1000)))
    rows = []
    for key, attack in contenders:
        torch.cuda.synchronize()
        started = time.perf_counter()
        try:
            returned = attack(subject.model, subject.inputs, subject.labels)
        except Exception as error:  # one library's failure is a row, not the end of the comparison
            rows.append({"attack": key, "failed": f"{type(error).__name__}: {error}"[:200]})
            continue
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        images = returned.adv_inputs if isinstance(returned, AttackResult) else returned
        rows.append({"attack": key, "time_s": seconds, "n": 1, **judged(subject, images.detach())})
        if isinstance(returned, AttackResult):
            rows[-1]["engine"] = str(returned.engine)
    return rows, {name: why for name, why in missing_peers().items() if name in ("adv-lib", "foolbox")}


def _ours(constants: CarliniWagnerL2, execution: Execution) -> Callable[[nn.Module, Tensor, Tensor], Any]:
    return lambda model, inputs, labels: carlini_wagner_l2(
        model, inputs, labels, constants, execution=execution
    )


@torch.no_grad()
def judged(subject: Subject, images: Tensor) -> dict[str, float | None]:
    """Success in a fresh forward pass (an all-black image is foolbox's way to say that it failed), mean L2 of it."""
    wrong = torch.cat([subject.model(part).argmax(1) for part in images.split(500)]) != subject.labels
    success = wrong & (images.flatten(1) != 0).any(dim=1)
    distance = (images - subject.inputs).flatten(1).norm(dim=1)[success]
    mean = distance.double().mean().item() if success.any() else None
    return {"success_rate": success.double().mean().item(), "mean_l2": mean}


def measure(rounds: int = 3) -> dict[str, Any]:
    """Both parts of this benchmark, for the results file."""
    resnet, perceptron = subject("resnet"), subject("perceptron")
    cw, missing = cw_rows(resnet)
    return {"steps": step_rows([resnet, perceptron], rounds), "cw_9x1000": cw, "missing": missing}


def tables(report: dict[str, Any]) -> str:
    """Both parts as Markdown."""
    lines = [
        "| model | attack | precision | floor ms | step ms, graph | step ms, eager | graph over floor | target |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["steps"]:
        times = [_milliseconds(row["time_s"][name]) for name in ("floor", "graph", "eager")]
        ratio = row["over_floor"]["graph"]
        reached = "reached" if ratio <= row["target"] else "missed"
        lines.append(
            f"| {row['model']} | {row['attack']} | {row['precision']} | {' | '.join(times)} "
            f"| {ratio:.3f} | {row['target']}: {reached} |"
        )
    lines += [
        "",
        "| Carlini-Wagner, ResNet-32 | success | mean L2 | seconds | of the fastest peer's time |",
        "|---|---|---|---|---|",
    ]
    timed = [row for row in report["cw_9x1000"] if "time_s" in row]
    peers = [row["time_s"] for row in timed if "robustlab" not in row["attack"]]
    for row in report["cw_9x1000"]:
        if "failed" in row:
            lines.append(f"| {row['attack']} | {row['failed']} | | | |")
            continue
        share = f"1/{min(peers) / row['time_s']:.1f}" if peers else "no peer installed"
        mean = "-" if row["mean_l2"] is None else f"{row['mean_l2']:.4f}"
        lines.append(
            f"| {row['attack']} | {row['success_rate']:.1%} | {mean} | {row['time_s']:.1f} | {share} |"
        )
    lines += [f"\n{name} is left out: {reason}" for name, reason in report["missing"].items()]
    return "\n".join(lines)


def _milliseconds(time_s: dict[str, float]) -> str:
    median, p20, p80 = (1e3 * time_s[key] for key in ("median", "p20", "p80"))
    return f"{median:.3f} ({p20:.3f}-{p80:.3f})"
