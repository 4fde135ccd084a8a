"""The Triton passes beside the float64 truth: under the interpreter, and the same tests on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from robustlab_kernels.rows import as_rows
from torch import Tensor

from tests.kernels.cases import (
    HUGE,
    INACTIVE,
    LENGTHS,
    Case,
    all_cases,
    assert_near_truth,
    cw_case,
    ifgsm_case,
    ray_case,
    track_best_case,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning:triton"
)  # the interpreter's numpy sees inf and NaN

CASES = [pytest.param(case, id=f"{case}-{length}") for length in LENGTHS for case in all_cases(length)]
MEDIUM = [pytest.param(case, id=str(case)) for case in all_cases(1100)]


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where the Triton pass runs; on a machine with a GPU it is compiled, never interpreted."""
    if request.param == "cuda":
        return "cuda"
    if torch.cuda.is_available():
        pytest.skip("these tests run on this machine's GPU: make test-gpu")
    return "cpu"


@pytest.mark.parametrize("case", CASES)
def test_as_near_to_the_truth_as_torch(case: Case, device: str) -> None:
    """Element by element no further from float64 than twice torch's own error, at every row length."""
    assert_near_truth(case, case.run("fused", device=device))


@pytest.mark.parametrize("case", MEDIUM)
def test_float64_agrees_to_float64(case: Case, device: str) -> None:
    """In float64 the two passes differ by roundings of float64: no constant or sum has passed through float32."""
    got = case.run("fused", device=device, dtype=torch.float64)
    for name, value in case.run("reference", dtype=torch.float64).items():
        torch.testing.assert_close(got[name], value, rtol=1e-11, atol=1e-13, equal_nan=True)


@pytest.mark.parametrize("case", MEDIUM)
def test_the_check_notices_a_zeroed_output(case: Case) -> None:
    """Zeros in the place of any one output do not pass for the truth."""
    good = case.run("reference")
    assert_near_truth(case, good)
    for name, value in good.items():
        with pytest.raises(AssertionError):
            assert_near_truth(case, good | {name: torch.zeros_like(value)})


@pytest.mark.parametrize("case", MEDIUM)
def test_an_image_does_not_see_its_batch(case: Case, device: str) -> None:
    """Alone, in a batch, and in the batch in another order an image gives the same bits."""
    together = case.run("fused", device=device)
    batch = len(next(iter(case.arguments.values())))
    for chosen in [*([image] for image in range(batch)), list(reversed(range(batch)))]:
        apart = case.of_images(chosen).run("fused", device=device)
        for name, value in apart.items():
            assert torch.equal(bits(value), bits(together[name][chosen])), f"{name} of {chosen}"


@pytest.mark.parametrize(
    "case", [cw_case(1100), ifgsm_case(1100), ray_case(1100), *all_cases(1101)[-4:]], ids=str
)
def test_nan_stays_in_its_image(case: Case, device: str) -> None:
    """NaN gradients (or logits) give torch's NaN in their own image and leave the others' bits alone."""

    def spoil(name: str, value: Tensor) -> Tensor:
        spoiled = value.clone()
        if name in ("gradient", "logits"):
            spoiled[1, 7] = spoiled[2] = torch.nan
        return spoiled

    spoiled = case.with_arguments(spoil)
    got, clean = spoiled.run("fused", device=device), case.run("fused", device=device)
    assert_near_truth(spoiled, got)
    others = [0, 3, 4, 5, 6]
    for name, value in got.items():
        assert torch.equal(bits(value[others]), bits(clean[name][others])), name


@pytest.mark.parametrize("case", [cw_case(70), ifgsm_case(70), track_best_case(70)], ids=str)
def test_an_inactive_image_is_untouched(case: Case, device: str) -> None:
    """What a finished image holds keeps its bits, NaN in its gradient or in its candidate included."""

    def spoil(name: str, value: Tensor) -> Tensor:
        spoiled = value.clone()
        if name == "gradient" or (case.name == "track_best" and name == "adv_inputs"):
            spoiled[INACTIVE] = torch.nan
        return spoiled

    got = case.with_arguments(spoil).run("fused", device=device)
    for name in case.changed:
        assert torch.equal(got[name][INACTIVE], case.arguments[name][INACTIVE])
        assert not torch.equal(got[name][HUGE], case.arguments[name][HUGE])


SHAPE = (3, 5, 6)
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": lambda images: images.contiguous(memory_format=torch.channels_last),
    "strided": lambda images: torch.stack([images, images], dim=-1)[..., 0],
    "transposed": lambda images: images.transpose(2, 3).contiguous().transpose(2, 3),
    "every second image": lambda images: torch.stack([images, images], dim=1)[:, 0],
}


@pytest.mark.parametrize("layout", [*LAYOUTS, "mixed"])
@pytest.mark.parametrize(
    "make", [cw_case, ifgsm_case, track_best_case, ray_case], ids=lambda make: make.__name__
)
def test_any_layout_gives_the_same_pixels(make: Callable[[int], Case], layout: str, device: str) -> None:
    """Images in any memory order, one or several of them at once, come out the same to rounding."""
    torch.manual_seed(3)
    flat = make(3 * 5 * 6)
    in_shape = flat.with_arguments(
        lambda name, value: value.unflatten(1, SHAPE) if value.dim() > 1 else value
    )
    names = [name for name, value in flat.arguments.items() if value.dim() > 1]

    def arrange(name: str, value: Tensor) -> Tensor:
        if value.dim() == 1:
            return value
        chosen = list(LAYOUTS)[names.index(name) % len(LAYOUTS)] if layout == "mixed" else layout
        return LAYOUTS[chosen](value)

    arranged = in_shape.with_arguments(arrange)
    assert all(torch.equal(arranged.arguments[name], in_shape.arguments[name]) for name in names)
    got = run_in_place(arranged, device)
    assert_near_truth(in_shape, got)


@pytest.mark.parametrize("case", MEDIUM)
def test_values_per_image_may_be_strided(case: Case, device: str) -> None:
    """Columns of a larger tensor serve as values per image and are changed where they lie; logits may be transposed."""

    def stride(name: str, value: Tensor) -> Tensor:
        if value.dim() == 1:
            return torch.stack([value, torch.zeros_like(value)], dim=1)[:, 0]
        return value.t().contiguous().t() if name == "logits" else value

    assert_near_truth(case, run_in_place(case.with_arguments(stride), device))


def run_in_place(case: Case, device: str) -> dict[str, Tensor]:
    """As ``Case.run``, which copies its arguments, keeping their strides."""
    arguments = dict(case.arguments)
    for name, value in arguments.items():
        storage = value.untyped_storage().clone() if device == "cpu" else value.untyped_storage().cuda()
        arguments[name] = torch.empty(0, dtype=value.dtype, device=device).set_(
            storage, value.storage_offset(), value.size(), value.stride()
        )
    returned = case.operator(*arguments.values(), backend="fused")
    returned = () if returned is None else returned if isinstance(returned, tuple) else (returned,)
    results = {f"returned {position}": value for position, value in enumerate(returned)}
    return {name: value.cpu() for name, value in (results | {n: arguments[n] for n in case.changed}).items()}


def test_dense_layouts_run_without_a_copy() -> None:
    """Images in one dense order, whichever, are used where they lie; others are copied, all into one order."""
    x, y = torch.rand(2, 4, *SHAPE)
    for layout in ("channels last", "transposed"):
        arranged = LAYOUTS[layout](x), LAYOUTS[layout](y)
        assert all(used is given for used, given in zip(as_rows(*arranged), arranged, strict=True))
    part, other = x[1:], y[:-1]
    assert all(used is given for used, given in zip(as_rows(part, other), (part, other), strict=True))
    for pair in [
        (x, LAYOUTS["channels last"](y)),
        (x.expand_as(x), LAYOUTS["strided"](y)),
        (x[:1].expand(4, *SHAPE), y),
    ]:
        used = as_rows(*pair)
        assert all(image.is_contiguous() for image in used)
        assert all(torch.equal(image, given) for image, given in zip(used, pair, strict=True))


@pytest.mark.parametrize("case", MEDIUM)
def test_an_empty_batch(case: Case, device: str) -> None:
    """No images, no launch, empty results."""
    assert all(len(value) == 0 for value in case.of_images([]).run("fused", device=device).values())


@pytest.mark.gpu
@pytest.mark.parametrize("case", [case for length in (63, 3072) for case in all_cases(length)], ids=str)
def test_in_a_cuda_graph(case: Case) -> None:
    """Captured once and replayed on new contents, every operator does what it does eagerly."""
    expected = case.run("fused", device="cuda")
    fresh = {name: value.cuda() for name, value in case.arguments.items()}
    arguments = {name: value.clone() for name, value in fresh.items()}
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        case.operator(*arguments.values(), backend="fused")  # compiles: not inside the capture
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        returned = case.operator(*arguments.values(), backend="fused")
    for name, value in fresh.items():
        arguments[name].copy_(value)
    graph.replay()
    returned = () if returned is None else returned if isinstance(returned, tuple) else (returned,)
    got = {f"returned {position}": value for position, value in enumerate(returned)}
    got |= {name: arguments[name] for name in case.changed}
    for name, value in got.items():
        assert torch.equal(bits(value.cpu()), bits(expected[name])), name


def bits(values: Tensor) -> Tensor:
    """The values with NaN comparable."""
    return values.nan_to_num(nan=-12345.0) if values.is_floating_point() else values
