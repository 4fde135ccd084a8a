"""The GPU's benchmark where there is none: what it refuses, what its parts do on the CPU, what it prints."""

from __future__ import annotations

import pytest
import torch

from benchmarks import attack_steps, on_gpu
from robustlab.attacks import Execution


def test_without_a_gpu_it_refuses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, exit status 2, nothing measured."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        on_gpu.main([])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "the benchmark on GPUs needs a CUDA device, and torch sees none here\n"


@pytest.fixture(scope="module")
def subject() -> attack_steps.Subject:
    """A perceptron that has learnt the made-up classes a little, on the CPU."""
    return attack_steps.subject("perceptron", images=6, device="cpu", steps=30)


def test_every_image_takes_the_steps_that_are_timed(subject: attack_steps.Subject) -> None:
    """The slope counts steps only if all images make exactly so many (one pass is the clean image's)."""
    cw = attack_steps._attack("cw", subject, Execution(), 12)
    assert (cw.backwards == 12 + 1).all()
    steps = attack_steps._attack("ifgsm", subject, Execution(), 12)
    assert steps.success.all()
    assert (steps.backwards == 12 + 1).all()


def test_a_black_image_is_no_success(subject: attack_steps.Subject) -> None:
    """What foolbox returns where it found nothing does not count, whatever its label."""
    images = subject.inputs.clone()
    images[0] = 0
    assert attack_steps.judged(subject, images) == {"success_rate": 0.0, "mean_l2": None}


def test_tables() -> None:
    """Ratios with their targets, failures in words, peers as a multiple of our time."""
    spread = {"median": 2e-3, "p20": 1e-3, "p80": 3e-3}
    report = {
        "steps": [
            {
                "model": "resnet", "attack": "cw", "precision": "ieee", "target": 1.05, "over_floor": {"graph": 1.06},
                "time_s": dict.fromkeys(("floor", "graph", "eager"), spread),
            }
        ],
        "cw_9x1000": [
            {"attack": "robustlab: cw", "time_s": 2.0, "success_rate": 1.0, "mean_l2": 0.5},
            {"attack": "adv-lib: cw 9x1000", "time_s": 30.0, "success_rate": 0.9, "mean_l2": None},
            {"attack": "foolbox: cw 9x1000", "failed": "KeyError: x"},
        ],
        "missing": {"foolbox": "not installed"},
    }  # fmt: skip
    text = attack_steps.tables(report)
    assert "| 1.060 | 1.05: missed |" in text
    assert "| robustlab: cw | 100.0% | 0.5000 | 2.0 | 1/15.0 |" in text
    assert "KeyError: x" in text
    assert "foolbox is left out: not installed" in text
