"""The search space is read from the attack's dataclass."""

from __future__ import annotations

from dataclasses import fields

import optuna
import pytest

from robustlab.attacks import IFGSM, CarliniWagnerL2
from robustlab.errors import InputError
from robustlab.study.tuning.constants_file import CONSTANTS
from robustlab.study.tuning.space import search_space, with_values


@pytest.mark.parametrize("attack", ["cw", "ifgsm"])
def test_the_space_lies_in_the_fields_ranges_and_holds_the_defaults(attack: str) -> None:
    """Every field that says where to look is searched there, inside what it may be, and the defaults can be drawn."""
    known = {entry.name: entry for entry in fields(CONSTANTS[attack])}
    space = {dimension.name: dimension for dimension in search_space(attack)}
    assert {name for name, entry in known.items() if entry.metadata["search"] is not None} == set(space)
    assert len(space) == 9
    for name, dimension in space.items():
        assert (dimension.low, dimension.high) == known[name].metadata["search"]
        assert known[name].metadata["low"] <= dimension.low < dimension.high <= known[name].metadata["high"]
        assert dimension.holds(known[name].default)
        assert dimension.kind is type(known[name].default)


@pytest.mark.parametrize("attack", ["cw", "ifgsm"])
def test_every_draw_is_a_valid_set_of_constants(attack: str) -> None:
    """Whatever Optuna draws can be built, choices and whole numbers included."""
    extra = ["loss"] if attack == "ifgsm" else ["first_order_const", "relative_learning_rate", "const_growth"]
    space = (*search_space(attack), *search_space(attack, extra))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        trial = study.ask()
        values = {dimension.name: dimension.suggest(trial) for dimension in space}
        constants = with_values(CONSTANTS[attack](), values)
        assert all(getattr(constants, name) == value for name, value in values.items())


def test_fields_and_ranges_can_be_given() -> None:
    """`name` keeps the range, `name=low:high` narrows it, `name=a|b` picks choices; the scale is the field's."""
    space = search_space("ifgsm", ["passes=10:20", "step_size", "loss=margin"])
    passes, step_size, loss = space
    assert (passes.low, passes.high, passes.log, passes.kind) == (10, 20, True, int)
    assert step_size == next(d for d in search_space("ifgsm") if d.name == "step_size")
    assert loss.choices == ("margin",)
    assert search_space("cw", ["first_order_const"])[0].choices == (False, True)
    assert with_values(CarliniWagnerL2(), {"warm_steps": 7}).warm_steps == 7
    assert with_values(IFGSM(), {}) == IFGSM()


@pytest.mark.parametrize(
    ("attack", "wanted", "message"),
    [
        ("pgd", [], "unknown attack 'pgd'"),
        ("cw", ["passes"], "no constant 'passes'"),
        ("cw", ["warm_steps", "warm_steps=3:4"], "more than once"),
        ("cw", ["warm_steps=9:3"], "is empty"),
        ("cw", ["warm_steps=3:3"], "is empty"),
        ("cw", ["learning_rate=nan:1"], "is empty"),
        ("cw", ["learning_rate=1:inf"], "leaves what"),
        ("cw", ["learning_rate=0:1"], "leaves what"),
        ("cw", ["warm_steps=1.5:3"], "no range of ints"),
        ("cw", ["warm_steps=3"], "no range of ints"),
        ("cw", ["warm_steps="], "no range of ints"),
        ("ifgsm", ["loss=hinge"], "no choice of"),
    ],
)
def test_bad_spaces(attack: str, wanted: list[str], message: str) -> None:
    """Unknown, repeated, empty, or outside what the field may be."""
    with pytest.raises(InputError, match=message):
        search_space(attack, wanted)
