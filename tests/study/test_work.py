"""What a cell is said to cost."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from robustlab.models import MODEL_NAMES, build_model
from robustlab.study.work import forward_flops


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 96, 96)])
@pytest.mark.parametrize("model", MODEL_NAMES)
def test_operations_are_those_that_torch_counts(model: str, shape: tuple[int, int, int]) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_model(model, shape, 10).eval()(torch.zeros(1, *shape))
    assert forward_flops(model, shape, 10) == counter.get_total_flops()


def test_planning_a_study_does_not_load_torchs_compiler() -> None:
    program = (
        "import sys; from robustlab.data import load_dataset; from robustlab.study.plan import plan_study;"
        "from robustlab.study.work import training_work;"
        "plan = plan_study(load_dataset('digits')); cell = plan.cells(*next(iter(plan.curves())))[0];"
        "assert training_work(plan, cell) > 0; sys.exit('sympy' in sys.modules or 'torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
