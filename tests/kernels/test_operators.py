"""The operators as torch sees them, and the choice between their passes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from robustlab_kernels import backends
from torch import Tensor

from tests.kernels.cases import Case, all_cases, ifgsm_case

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning:triton"
)  # the interpreter's numpy sees inf and NaN

CASES = [pytest.param(case, id=str(case)) for case in all_cases(60)]
KERNELS = Path(backends.__file__).parents[1]
SETTINGS: dict[str, tuple[Any, ...]] = {
    "search_update": (10.0,),
    "cw_start": (0.999,),
    "margin": (False, True, 0.5),
}


def registered(case: Case) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """torch.ops.robustlab's operator and the arguments to call it with."""
    name = case.name.split()[0]
    arguments = [value.clone() for value in case.arguments.values()]
    return getattr(torch.ops.robustlab, name), (*arguments, *SETTINGS.get(name, ()))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck(case: Case, channels_last: bool) -> None:
    """Schema, mutated arguments, the shapes and strides of fake results and tracing agree with what runs."""

    def shaped(name: str, value: Tensor) -> Tensor:
        if value.dim() == 1 or name == "logits":
            return value
        value = value.unflatten(1, (3, 4, 5))
        return value.contiguous(memory_format=torch.channels_last) if channels_last else value

    operator, arguments = registered(case.with_arguments(shaped))
    torch.library.opcheck(operator, arguments)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("through", ["function", "torch.ops"])
def test_torch_compile_without_a_graph_break(case: Case, through: str) -> None:
    """Compiled whole, on the CPU, an operator and what it changes are as in eager mode."""
    # Traced and functionalised as for any backend; generating C++ for it is not what is tested here.
    torch.compiler.reset()
    expected = case.run("reference")
    if through == "function":
        operator: Callable[..., Any] = case.operator
        arguments: tuple[Any, ...] = tuple(value.clone() for value in case.arguments.values())
        settings: dict[str, Any] = {"backend": None}
    else:
        operator, arguments = registered(case)
        settings = {}
        twin = [value.clone() if isinstance(value, Tensor) else value for value in arguments]
        returned = operator(*twin)
        expected = results(returned, dict(zip(case.arguments, twin, strict=False)), case)
    compiled = torch.compile(operator, backend="aot_eager", fullgraph=True)
    got = results(compiled(*arguments, **settings), dict(zip(case.arguments, arguments, strict=False)), case)
    for name, value in got.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, equal_nan=True)


def results(returned: Any, arguments: dict[str, Tensor], case: Case) -> dict[str, Tensor]:
    returned = () if returned is None else returned if isinstance(returned, tuple) else (returned,)
    named = {f"returned {position}": value for position, value in enumerate(returned)}
    return named | {name: arguments[name] for name in case.changed}


class Called(Exception):
    """Raised in the place of a pass, to see which one was chosen."""


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chosen", backends.BACKENDS)
def test_backend_forces_a_pass(case: Case, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """backend= runs that pass and no other, and gives its bits; by default the CPU gets the reference."""
    if torch.cuda.is_available() and chosen == "fused":
        pytest.skip(
            "CPU tensors need the interpreter: on this machine test_fused.py runs the kernels on the GPU"
        )
    expected = case.run(chosen)

    def refuse(*arguments: object) -> None:
        raise Called

    monkeypatch.setattr(backends.Operator, "fused", refuse)
    if chosen == "fused":
        with pytest.raises(Called):
            case.run("fused")
    else:
        for backend in ("reference", None):
            for name, value in case.run(backend).items():
                torch.testing.assert_close(value, expected[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_cuda_tensors_take_the_kernel(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default CUDA tensors take the kernel, bit by bit; the reference runs there where it is asked for."""
    expected = case.run("fused", device="cuda")
    for name, value in case.run(None, device="cuda").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, equal_nan=True)
    assert case.run("reference", device="cuda").keys() == expected.keys()


@pytest.mark.parametrize("case", CASES)
def test_an_unknown_backend_is_refused(case: Case) -> None:
    """The message names the choices and what was given."""
    with pytest.raises(ValueError, match=r"'reference', 'fused'.*'triton'"):
        case.run("triton")


def test_kernels_refuse_what_they_cannot_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU tensors outside the interpreter, other dtypes and shapes that do not fit raise before anything runs."""
    case = ifgsm_case(60)
    with monkeypatch.context() as outside:
        outside.delenv("TRITON_INTERPRET", raising=False)
        with pytest.raises(ValueError, match="CUDA device, got cpu"):
            case.run("fused")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="float16"):
        case.with_arguments(lambda name, value: value).run("fused", dtype=torch.float16)
    with pytest.raises(ValueError, match="one shape"):
        case.with_arguments(lambda name, value: value[:, :9] if name == "gradient" else value).run("fused")
    with pytest.raises(ValueError, match=r"expand\(batch\)"):
        case.with_arguments(lambda name, value: value[0] if name == "epsilon" else value).run("fused")


@pytest.mark.parametrize("installed", [True, False])
def test_without_triton(installed: bool) -> None:
    """Triton is not imported before it is needed; where it is missing the reference works and fused says why not."""
    program = f"""
import importlib.util, sys
find_spec = importlib.util.find_spec
if not {installed}:
    importlib.util.find_spec = lambda name, *rest: None if name == "triton" else find_spec(name, *rest)
import torch
from robustlab_kernels import kernels_version, margin
importlib.util.find_spec = find_spec
logits, labels = torch.eye(2), torch.tensor([1, 1])
assert margin(logits, labels).adversarial.tolist() == [True, False]
assert "triton" not in sys.modules
print(kernels_version())
try:
    margin(logits, labels, backend="fused")
except Exception as error:
    print(type(error).__name__, error)
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | {"PYTHONPATH": str(KERNELS)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    version, error = done.stdout.splitlines()
    if installed:
        assert version.startswith("triton 3.")
        assert "needs tensors on a CUDA device" in error
    else:
        assert version == "reference"
        assert error.startswith(
            "RuntimeError margin with backend='fused' needs triton, which is not installed"
        )
