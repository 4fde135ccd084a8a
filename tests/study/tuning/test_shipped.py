"""The constants that are shipped: readable, with evidence, and as good as that on images never tuned on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import robustlab.study
from robustlab.data import DATASET_NAMES, load_dataset
from robustlab.recipes import Recipe
from robustlab.study.attacking import ATTACKS, chosen_images
from robustlab.study.plan import Variant
from robustlab.study.tuning.constants_file import CONSTANTS, find_constants, read_constants
from robustlab.study.tuning.subjects import train_models
from robustlab.training import correctly_classified, to_inputs

SHIPPED = sorted((Path(robustlab.study.__file__).parent / "shipped_constants").glob("*.json"))


def test_every_file_is_of_a_data_set_and_has_its_evidence() -> None:
    """Nothing is shipped that does not say how it was found, against what, and that it was within its tolerance."""
    assert "digits" in {path.stem for path in SHIPPED}
    for path in SHIPPED:
        assert path.stem in DATASET_NAMES
        for name, one in read_constants(path, path.name).items():
            assert one.evidence["dataset"] == path.stem
            assert one.evidence["within_tolerance"] is True, (path, name)
            assert one.evidence["tuned"]["propagations"] < one.evidence["untuned"]["propagations"]  # type: ignore[index]


def test_the_digest_is_that_of_the_data_set() -> None:
    """The digits that were tuned on are the digits that are here."""
    for one in find_constants("default", "digits").values():
        assert one.evidence["dataset_digest"] == load_dataset("digits").digest
        assert one.origin == "shipped for digits"


@pytest.mark.parametrize("attack", ["cw", "ifgsm"])
def test_shipped_constants_of_the_digits_keep_the_distance_for_less_work(attack: str) -> None:
    """On a model and test images that tuning never saw: every image found, within 1 % of the defaults, less work."""
    digits = load_dataset("digits")
    recipe = Recipe(epochs=10, batch_size=32, learning_rate=0.02)
    models = train_models(digits, Variant.parse("perceptron"), [400], recipe, 7, lambda *_: None)
    model = models["perceptron 400"]
    chosen = chosen_images(correctly_classified(model, digits.test), digits.test.labels, 30)
    inputs, labels = to_inputs(digits.test.images[chosen]), digits.test.labels[chosen]
    tuned = ATTACKS[attack](model, inputs, labels, find_constants("default", "digits")[attack].constants)
    untuned = ATTACKS[attack](model, inputs, labels, CONSTANTS[attack]())
    assert tuned.success.all()
    assert tuned.distance.double().mean() <= 1.01 * untuned.distance.double().mean()
    work = torch.stack([tuned.forwards + tuned.backwards, untuned.forwards + untuned.backwards]).double()
    assert work[0].mean() < 0.9 * work[1].mean()
