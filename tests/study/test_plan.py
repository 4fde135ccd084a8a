"""The plan: defaults are the paper's, bad input ends it in one line before anything is trained."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from robustlab.attacks import CarliniWagnerL2
from robustlab.data import DataSet, LabelledImages, load_dataset
from robustlab.errors import InputError
from robustlab.study.cell import Cell
from robustlab.study.plan import StudyPlan, Variant, plan_study
from robustlab.study.work import attack_work


@pytest.fixture(scope="module")
def digits() -> DataSet:
    """The embedded digits."""
    return load_dataset("digits")


def test_defaults_are_the_data_sets_grid(digits: DataSet) -> None:
    """Without options every size of the data set's grid and its own models are taken."""
    plan = plan_study(digits)
    assert plan.sizes == digits.default_sizes
    assert [str(variant) for variant in plan.variants] == ["perceptron", "simple_cnn", "resnet"]
    assert plan.cell_count == 3 * len(digits.default_sizes)
    assert plan.attacks == ("cw", "ifgsm")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ["resnets"]}, "unknown model 'resnets'"),
        ({"models": ["resnet+aug+aug"]}, "unknown model"),
        ({"models": ["+aug"]}, "unknown model"),
        ({"models": ["resnet", "resnet"]}, "more than once"),
        ({"sizes": [15]}, "not a multiple of the 10 classes"),
        ({"sizes": [100, 100]}, "more than once"),
        ({"sizes": [200, 100]}, "must rise"),
        ({"sizes": [100_000]}, "too large"),
        ({"seeds": [0, 0]}, "more than once"),
        ({"seeds": []}, "seeds must be"),
        ({"seeds": [-1]}, "seeds must be"),
        ({"attacks": ["pgd"]}, "unknown attack 'pgd'"),
        ({"attacks": ["cw", "cw"]}, "more than once"),
        ({"attack_images": -1}, "attack_images"),
        ({"train_budget": "hours"}, "unknown train budget 'hours'"),
        ({"epochs": 0}, "epochs must be at least 1"),
    ],
)
def test_bad_input_is_named_in_one_line(digits: DataSet, options: dict[str, object], message: str) -> None:
    """Each mistake says what is wrong and what was given."""
    with pytest.raises(InputError, match=message) as raised:
        plan_study(digits, **options)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_an_image_too_small_for_an_architecture_is_refused(digits: DataSet) -> None:
    """The sides are checked against every architecture before training."""
    tiny = LabelledImages(torch.zeros(20, 1, 2, 2, dtype=torch.uint8), torch.arange(20) % 10)
    dataset = dataclasses.replace(digits, train=tiny, test=tiny)
    with pytest.raises(InputError, match="simple_cnn needs images of at least"):
        plan_study(dataset, models=["simple_cnn"], sizes=[10])


def test_steps_budget_takes_the_largest_size(digits: DataSet) -> None:
    """With equal steps every recipe holds the largest size's steps; with epochs none is fixed."""
    by_steps = plan_study(digits, models=["resnet"], sizes=[100, 400], train_budget="steps", epochs=2)
    assert by_steps.recipes["resnet"].steps == 2 * 13
    assert plan_study(digits, models=["resnet"]).recipes["resnet"].steps is None


def test_the_work_of_an_attack_follows_its_constants(digits: DataSet) -> None:
    """The time left is told from it: 9 searches of 1,000 passes are fifty times those of the tuned constants."""
    work = {}
    for name, cw in {
        "classic": CarliniWagnerL2(warm_starts=0, binary_search_steps=9, max_iterations=1000),
        "tuned": CarliniWagnerL2(warm_starts=3, warm_steps=55, binary_search_steps=1, max_iterations=1),
    }.items():
        plan = plan_study(digits, models=["perceptron"], sizes=[100], attacks=["cw"], cw=cw)
        work[name] = attack_work(plan, plan.cells(plan.variants[0], 0)[0])
    assert 45 < work["classic"] / work["tuned"] < 55


def test_augmentation_follows_the_paper_but_never_mirrors_digits(digits: DataSet) -> None:
    """ResNet+D shifts and flips, DenseNet+D rotates too; a mirrored digit is another character."""
    resnet = Variant.parse("resnet+aug").augmentation(digits)
    assert resnet is not None
    assert (resnet.shift, resnet.flip, resnet.rotation) == (True, False, False)
    photographs = dataclasses.replace(digits, mirror_invariant=True)
    densenet = Variant.parse("densenet+aug").augmentation(photographs)
    assert densenet is not None
    assert (densenet.shift, densenet.flip, densenet.rotation) == (True, True, True)
    assert Variant.parse("resnet").augmentation(digits) is None


def _digest(plan: StudyPlan) -> str:
    variant = plan.variants[0]
    return plan.cells(variant, plan.seeds[0])[0].digest(plan.settings(variant))


def test_cell_digest_changes_with_what_changes_results_only(digits: DataSet) -> None:
    """Recipe, grid, attack and data change a cell's digest; the device does not."""
    base = {"models": ["perceptron"], "sizes": [100, 200]}
    digest = _digest(plan_study(digits, **base))
    assert digest == _digest(plan_study(digits, **base, device=torch.device("cpu")))
    for change in (
        {"epochs": 3},
        {"sizes": [100]},
        {"attack_images": 7},
        {"attacks": ["cw"]},
        {"seeds": [1]},
    ):
        assert _digest(plan_study(digits, **{**base, **change})) != digest
    other_data = dataclasses.replace(digits, digest="0" * 64)
    assert _digest(plan_study(other_data, **base)) != digest


def test_cell_digest_is_stable() -> None:
    """The digest of a cell is the same on every machine and in every later version."""
    cell = Cell("digits", "resnet", True, 100, 0)
    assert cell.digest({"a": 1, "b": "x"}) == cell.digest({"b": "x", "a": 1})
    assert cell.digest({"a": 1, "b": "x"}) == "d213bae93c230199"


def test_registered_names_hold_no_forbidden_character() -> None:
    """MLflow refuses slashes and colons in the name of a registered model."""
    cell = Cell("imagefolder:/home/me/my birds", "densenet", True, 10, 0)
    assert cell.registered_name == "imagefolder--home-me-my-birds-densenet-aug"
