"""Training: the recipe is followed, the seed decides everything, a diverging loss is an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from robustlab.data import Augmentation, DataSet, LabelledImages, load_dataset, nested_subsets
from robustlab.errors import InputError
from robustlab.models import build_model
from robustlab.recipes import Recipe, default_recipe, learning_rate_factor
from robustlab.study.checkpoint import load_training_state, save_training_state
from robustlab.training import (
    TrainingDiverged,
    TrainingState,
    channel_statistics,
    correctly_classified,
    initial_model,
    train,
)


@pytest.fixture(scope="module")
def digits() -> DataSet:
    """The embedded digits."""
    return load_dataset("digits")


def subset_of(digits: DataSet, size: int) -> LabelledImages:
    """The first balanced subset of that size."""
    indices = nested_subsets(digits.train.labels, 10, [size], seed=0)[size]
    return LabelledImages(digits.train.images[indices], digits.train.labels[indices])


def weights_after_training(
    digits: DataSet, seed: int, augmentation: Augmentation | None = None
) -> torch.Tensor:
    """All weights and buffers of a ResNet after two epochs."""
    subset = subset_of(digits, 100)
    model = initial_model("resnet", digits, subset, seed)
    train(model, subset, Recipe(epochs=2, batch_size=32), seed=seed, augmentation=augmentation)
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


@pytest.mark.parametrize("augmentation", [None, Augmentation(shift=True, flip=True, rotation=True)])
def test_same_seed_gives_bit_identical_weights(digits: DataSet, augmentation: Augmentation | None) -> None:
    """Two trainings under one seed end with the same bits; another seed ends elsewhere."""
    first = weights_after_training(digits, 3, augmentation)
    assert torch.equal(first, weights_after_training(digits, 3, augmentation))
    assert not torch.equal(first, weights_after_training(digits, 4, augmentation))


def gratings(count: int, seed: int) -> LabelledImages:
    """Made-up images of STL-10's shape: a class is the direction of its waves, in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    angle = (labels * torch.pi / 10).view(-1, 1, 1, 1)
    row, column = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    phase = 2 * torch.pi * torch.rand(count, 1, 1, 1, generator=generator)
    wave = torch.cos(0.4 * (angle.cos() * row + angle.sin() * column) + phase)
    images = 127 + 60 * wave + 30 * torch.randn(count, 3, 96, 96, generator=generator)
    return LabelledImages(images.clamp(0, 255).byte(), labels)


@pytest.mark.slow
def test_the_plain_cnn_of_twenty_layers_trains() -> None:
    """No batch normalisation, peak learning rate as in its recipe, and only a few dozen steps: it does not die."""
    torch.manual_seed(0)
    model = build_model("simple_cnn", (3, 96, 96), 10, [0.5] * 3, [0.25] * 3)
    recipe = replace(default_recipe("simple_cnn", 96), epochs=18, batch_size=10, least_steps=0)
    result = train(model, gratings(50, 0), recipe, seed=0)
    assert result.losses[-1] < 1.5, result.losses
    assert correctly_classified(model, gratings(50, 1)).double().mean() > 0.3


def test_bf16_rounds_the_network_and_nothing_else(digits: DataSet) -> None:
    """Same seed: the same bits again, float32 weights, other ones than float32's; auto is float32 on the CPU."""

    def weights(precision: str) -> torch.Tensor:
        subset = subset_of(digits, 100)
        model = initial_model("simple_cnn", digits, subset, 3)
        train(model, subset, Recipe(epochs=2, batch_size=32, precision=precision), seed=3)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    rounded = weights("bf16")
    assert torch.equal(rounded, weights("bf16"))
    assert not torch.equal(rounded, weights("float32"))
    assert torch.equal(weights("auto"), weights("float32"))


def test_a_resumed_training_ends_with_the_same_bits(digits: DataSet, tmp_path: Path) -> None:
    """From the state after any epoch, read back from its file: weights, losses and steps of the undisturbed one."""
    subset, recipe = subset_of(digits, 100), Recipe(epochs=3, batch_size=32)
    augmentation = Augmentation(shift=True, flip=True, rotation=True)
    states: list[TrainingState] = []
    whole = initial_model("resnet", digits, subset, 5)
    expected = train(
        whole,
        subset,
        recipe,
        seed=5,
        augmentation=augmentation,
        on_state=lambda state: states.append(state()),
    )
    assert [state.steps for state in states] == [4, 8]
    for number, state in enumerate(states):
        save_training_state(state, tmp_path / str(number))
        model = initial_model("resnet", digits, subset, 99)  # other weights: all has to come from the state
        result = train(
            model,
            subset,
            recipe,
            seed=5,
            augmentation=augmentation,
            resume=load_training_state(tmp_path / str(number)),
        )
        assert (result.losses, result.steps) == (expected.losses, expected.steps)
        for name, value in whole.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name
    stored = tmp_path / "0" / "training.safetensors"
    stored.write_bytes(stored.read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated or altered"):
        load_training_state(tmp_path / "0")


def test_training_leaves_the_callers_random_state_alone(digits: DataSet) -> None:
    """A study's draws come from its own seeds, and nobody else's draws are disturbed."""
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    weights_after_training(digits, 1)
    assert torch.equal(torch.rand(3), expected)


def test_a_perceptron_learns_the_digits(digits: DataSet) -> None:
    """400 images and the stated recipe give over 90 % on the test images."""
    subset = subset_of(digits, 400)
    model = initial_model("perceptron", digits, subset, 0)
    result = train(model, subset, default_recipe("perceptron", 8), seed=0)
    assert correctly_classified(model, digits.test).double().mean() > 0.9
    assert result.losses[-1] < 0.1 < result.losses[0]
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("size", "epochs", "steps"), [(100, 3, 12), (10, 3, 3), (70, 2, 6)])
def test_epochs_set_the_steps(digits: DataSet, size: int, epochs: int, steps: int) -> None:
    """Every image is seen once an epoch, in batches of at most the batch size."""
    subset = subset_of(digits, size)
    model = initial_model("perceptron", digits, subset, 0)
    result = train(model, subset, Recipe(epochs=epochs, batch_size=32), seed=0)
    assert (result.steps, len(result.losses)) == (steps, epochs)


def test_small_subsets_get_the_least_steps() -> None:
    """Few epochs of a small subset would not fit it; a budget of steps is what it is."""
    recipe = Recipe(epochs=6, batch_size=128, least_steps=1000)
    assert [recipe.steps_for(size) for size in (1000, 20_000, 50_000)] == [1000, 1000, 6 * 391]
    assert recipe.with_equal_steps(50_000).steps_for(1000) == 6 * 391
    assert recipe.with_equal_steps(1000).steps_for(1000) == 1000


def test_equal_steps_give_every_size_the_largest_ones_steps(digits: DataSet) -> None:
    """With a budget of steps a small subset is passed over more often, and the last epoch may be a part."""
    recipe = Recipe(epochs=2, batch_size=32).with_equal_steps(400)
    assert recipe.steps == 26
    seen: list[int] = []
    subset = subset_of(digits, 100)
    result = train(
        initial_model("perceptron", digits, subset, 0),
        subset,
        recipe,
        seed=0,
        on_epoch=lambda done, total, loss: seen.append(done),
    )
    assert result.steps == 26
    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_learning_rate_rises_then_falls_to_zero() -> None:
    """Linear warm-up to the full rate, then a half cosine."""
    recipe = Recipe(epochs=1, warmup=0.2)
    factors = [learning_rate_factor(step, 100, recipe) for step in range(101)]
    assert factors[0] == pytest.approx(0.05)
    assert factors[19] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0, abs=1e-12)


def test_a_loss_that_is_not_finite_is_an_error(digits: DataSet) -> None:
    """A learning rate that blows the weights up ends the training with the loss and the epoch named."""
    subset = subset_of(digits, 100)
    model = initial_model("perceptron", digits, subset, 0)
    recipe = replace(default_recipe("perceptron", 8), learning_rate=1e20, epochs=3)
    with pytest.raises(TrainingDiverged, match="epoch"):
        train(model, subset, recipe, seed=0)


def test_weights_that_the_last_step_ruins_are_an_error(digits: DataSet) -> None:
    """The loss before the last step is finite, so only a look at the weights tells."""
    subset = LabelledImages(digits.train.images[:20], torch.zeros(20, dtype=torch.long))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    recipe = replace(default_recipe("perceptron", 8), learning_rate=3e38, epochs=1, batch_size=20, warmup=0.0)
    with pytest.raises(TrainingDiverged, match="weights that are not finite"):
        train(model, subset, recipe, seed=0)


def test_logits_that_are_not_finite_are_never_right(digits: DataSet) -> None:
    """argmax takes NaN for the highest: such an image is no correct one, whatever its label."""

    class NotANumber(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.full((len(inputs), 10), torch.nan)

    images = LabelledImages(digits.test.images[:50], digits.test.labels[:50])
    assert (images.labels == 0).any()
    assert not correctly_classified(NotANumber(), images).any()


def test_a_rest_of_one_image_does_not_break_batch_normalisation(digits: DataSet) -> None:
    """33 images in batches of at most 32 become 17 and 16, not 32 and 1."""
    sizes: list[int] = []
    subset = LabelledImages(digits.train.images[:33], digits.train.labels[:33])
    model = initial_model("resnet", digits, subset, 0)
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    train(model, subset, Recipe(epochs=1, batch_size=32), seed=0)
    assert sizes == [17, 16]


def test_channel_statistics_equal_the_plain_ones() -> None:
    """Counting pixel values gives the mean and deviation of the pixels themselves."""
    images = torch.randint(0, 256, (50, 3, 5, 4), dtype=torch.uint8)
    images[:, 2] = 7
    mean, std = channel_statistics(images)
    pixels = images.double() / 255
    assert mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist(), abs=1e-12)
    assert std == pytest.approx([*pixels[:, :2].std(dim=(0, 2, 3), correction=0).tolist(), 1e-3], abs=1e-12)


def test_bad_recipes_are_refused() -> None:
    """Fewer than one epoch, image a batch or step is an input error."""
    for fields in ({"epochs": 0}, {"epochs": 1, "batch_size": 0}, {"epochs": 1, "steps": 0}):
        with pytest.raises(InputError, match="must be at least 1"):
            Recipe(**fields)
    for name, value in {
        "momentum": 1.0,
        "weight_decay": -1e-4,
        "warmup": 1.5,
        "label_smoothing": 1.0,
    }.items():
        with pytest.raises(InputError, match=f"{name} must be from 0 to"):
            Recipe(epochs=1, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="learning_rate must be above 0"):
        Recipe(epochs=1, learning_rate=0.0)
    with pytest.raises(InputError, match="unknown precision 'half'; choose from auto, float32, bf16"):
        Recipe(epochs=1, precision="half")


def test_accuracy_counts_every_image_once() -> None:
    """Batches of any size give one verdict an image, in order."""

    class FirstPixel(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            bright = inputs[:, 0, 0, 0]
            return torch.stack([0.5 - bright, bright - 0.5], dim=1)

    images = torch.zeros(7, 1, 2, 2, dtype=torch.uint8)
    images[3:, 0, 0, 0] = 255
    labels = torch.tensor([0, 0, 1, 1, 1, 0, 1])
    verdicts = correctly_classified(FirstPixel(), LabelledImages(images, labels), batch_size=3)
    assert verdicts.tolist() == [True, True, False, True, True, False, True]
