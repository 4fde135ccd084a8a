"""The paper's Table 1, to hold our architectures against."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Table1Row:
    """One row: a data set's image shape and class count, the paper's name of the model, its parameters."""

    dataset: str
    model: str
    paper_name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    parameters: int


def _rows(
    dataset: str, shape: tuple[int, int, int], classes: int, *rows: tuple[str, str, int]
) -> list[Table1Row]:
    return [Table1Row(dataset, model, name, shape, classes, count) for model, name, count in rows]


TABLE_1: tuple[Table1Row, ...] = (
    *_rows(
        "mnist", (1, 28, 28), 10,
        ("perceptron", "2-layer perceptron", 814_090),
        ("simple_cnn", "Simple CNN, 7 layers", 312_202),
        ("resnet", "ResNet-20", 272_778),
    ),
    *_rows(
        "cifar10", (3, 32, 32), 10,
        ("perceptron", "2-layer perceptron", 3_157_002),
        ("simple_cnn", "Simple CNN, 7 layers", 1_147_978),
        ("resnet", "ResNet-32", 467_946),
        ("densenet", "DenseNet-40", 1_059_298),
    ),
    *_rows(
        "stl10", (3, 96, 96), 10,
        ("simple_cnn", "Simple CNN, 20 layers", 7_257_322),
        ("resnet", "ResNet-20", 278_186),
        ("densenet", "DenseNet-40", 1_059_298),
    ),
    *_rows(
        "tinyimagenet", (3, 64, 64), 200,
        ("simple_cnn", "Simple CNN, 20 layers", 6_044_072),
        ("resnet", "ResNet-20", 323_816),
    ),
)  # fmt: skip


def parameter_count(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
