"""The architectures: Table 1's counts, shapes, normalisation, initialisation, refusals."""

from __future__ import annotations

import pytest
import torch

from robustlab.errors import InputError
from robustlab.models import MODEL_NAMES, TABLE_1, Table1Row, build_model, parameter_count


@pytest.mark.parametrize("row", TABLE_1, ids=lambda row: f"{row.dataset}-{row.model}")
def test_parameter_counts_equal_table_1(row: Table1Row) -> None:
    """Each of the twelve networks has exactly the parameter count that the paper prints."""
    assert parameter_count(build_model(row.model, row.image_shape, row.num_classes)) == row.parameters


def test_table_1_is_the_papers() -> None:
    """The twelve counts are the paper's, so that a wrong network cannot be excused by a wrong table."""
    assert sorted(row.parameters for row in TABLE_1) == [
        272_778,
        278_186,
        312_202,
        323_816,
        467_946,
        814_090,
        1_059_298,
        1_059_298,
        1_147_978,
        3_157_002,
        6_044_072,
        7_257_322,
    ]


def test_densenet_on_tiny_imagenet() -> None:
    """DenseNet-40 for Tiny ImageNet, named in the text but not in Table 1, has 1,146,128 parameters."""
    assert parameter_count(build_model("densenet", (3, 64, 64), 200)) == 1_146_128


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize(
    "shape",
    [(1, 8, 8), (1, 12, 12), (3, 16, 16), (1, 28, 28), (3, 32, 32), (3, 37, 30), (3, 64, 64), (3, 65, 96)],
    ids=str,
)
def test_logits_have_a_row_per_image(name: str, shape: tuple[int, int, int]) -> None:
    """Every architecture maps (B, C, H, W) to finite logits (B, N), also for odd, small and oblong images."""
    torch.manual_seed(0)
    model = build_model(name, shape, 7).eval()
    with torch.no_grad():
        logits = model(torch.rand(2, *shape))
    assert logits.shape == (2, 7)
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_logits_are_no_probabilities(name: str) -> None:
    """The network ends in a linear layer: a softmax would weaken every attack unnoticed."""
    torch.manual_seed(0)
    model = build_model(name, (1, 8, 8), 10).eval()
    with torch.no_grad():
        logits = model(torch.rand(4, 1, 8, 8))
    assert not torch.allclose(logits.sum(dim=1), torch.ones(4), atol=1e-3)
    assert isinstance(list(model.children())[-1], torch.nn.Linear)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_normalisation_is_inside(name: str) -> None:
    """A model with mean and std sees (input - mean) / std per channel: users and attacks stay in [0, 1]."""
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    plain = build_model(name, (3, 16, 16), 5).eval()
    normalising = build_model(name, (3, 16, 16), 5, mean, std).eval()
    weights = {key: value for key, value in plain.state_dict().items() if not key.startswith("0.")}
    normalising.load_state_dict(weights, strict=False)
    inputs = torch.rand(2, 3, 16, 16)
    normalised = (inputs - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        assert torch.allclose(normalising(inputs), plain(normalised), atol=1e-5)
        assert not torch.allclose(normalising(inputs), plain(inputs), atol=1e-3)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_float64_works(name: str) -> None:
    """A model turned to float64 computes in float64 throughout: exact attack tests need it."""
    model = build_model(name, (1, 8, 8), 10, [0.3], [0.2]).double().eval()
    inputs = torch.rand(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    logits = model(inputs)
    (gradient,) = torch.autograd.grad(logits.sum(), inputs)
    assert (logits.dtype, gradient.dtype) == (torch.float64, torch.float64)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    """Initialisation draws from torch's generator alone."""
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_model(name, (1, 8, 8), 10).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_twenty_layers_keep_the_signal() -> None:
    """At initialisation the 20-layer CNN's activations neither vanish nor explode."""
    torch.manual_seed(0)
    features = torch.randn(4, 3, 64, 64)
    scales = []
    for layer in build_model("simple_cnn", (3, 64, 64), 200).children():
        with torch.no_grad():
            features = layer(features)
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            scales.append(float(features.square().mean().sqrt()))
    assert len(scales) == 20
    # torch's default initialisation falls to 0.01 on the way.
    assert all(0.3 < scale < 30 for scale in scales[:-1]), scales
    assert scales[-1] == 0.0, "the output starts at zero: an early step cannot kill the network"


@pytest.mark.parametrize(
    ("name", "shape"),
    [("simple_cnn", (1, 3, 3)), ("resnet", (3, 3, 8)), ("densenet", (3, 8, 2))],
    ids=["simple_cnn", "resnet", "densenet"],
)
def test_too_small_images_are_refused(name: str, shape: tuple[int, int, int]) -> None:
    """An image that the pooling would use up is refused in one line that names both sizes."""
    with pytest.raises(InputError, match=rf"^{name} needs images of at least \d pixels a side, not \d$"):
        build_model(name, shape, 10)


def test_unknown_names_are_refused() -> None:
    """An unknown architecture is refused in one line that lists the known ones."""
    with pytest.raises(InputError) as refusal:
        build_model("vgg", (3, 32, 32), 10)
    assert str(refusal.value) == "unknown model 'vgg'; choose from perceptron, simple_cnn, resnet, densenet"


def test_one_class_is_refused() -> None:
    """A classifier of one class cannot be attacked, so it is not built."""
    with pytest.raises(InputError, match="at least 2 classes, not 1"):
        build_model("perceptron", (1, 8, 8), 1)
