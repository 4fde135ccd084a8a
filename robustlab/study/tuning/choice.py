"""Which constants a tuning ends with, and the evidence that goes with them."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass

import optuna
import torch

from robustlab.attacks.constants import Constants
from robustlab.study.tuning.judgement import Judgement, judge
from robustlab.study.tuning.plan import TuningPlan
from robustlab.study.tuning.plots import front, whole_trials
from robustlab.study.tuning.space import with_values
from robustlab.study.tuning.storage import UNTUNED
from robustlab.study.tuning.subjects import Subjects


@dataclass(frozen=True)
class Choice:
    """The chosen constants and what was measured on the tuning images; ``trial`` is None for the untuned defaults."""

    constants: Constants
    judgement: Judgement
    trial: int | None
    within: bool
    untuned: Judgement
    reference: Judgement


def choose(study: optuna.Study, plan: TuningPlan, subjects: Subjects) -> Choice:
    """The cheapest constants within the tolerance, the untuned ones among them; where none is, the nearest ones."""
    untuned = judge(subjects.untuned, subjects.reference)
    candidates: list[tuple[Judgement, int | None]] = [(untuned, None)]
    candidates += [
        (_judgement(trial), trial.number)
        for trial in whole_trials(study)
        if not trial.user_attrs.get(UNTUNED)
    ]
    inside = [one for one in candidates if one[0].within(plan.tolerance)]
    if inside:
        best = min(inside, key=lambda one: one[0].propagations)
    else:
        best = min(candidates, key=lambda one: one[0].worst_ratio)
    values = {} if best[1] is None else study.trials[best[1]].params
    return Choice(
        with_values(plan.untuned, values),
        best[0],
        best[1],
        bool(inside),
        untuned,
        judge(subjects.reference, subjects.reference),
    )


def evidence(choice: Choice, plan: TuningPlan, subjects: Subjects, trials: int) -> dict[str, object]:
    """What ``attack_constants.json`` says about how the constants were found; distances in [0, 1] pixel units."""
    return {
        "dataset": plan.dataset.name,
        "dataset_digest": plan.dataset.digest,
        "models": list(subjects.models),
        "train_seed": plan.train_seed,
        "models_from": plan.models_from or "trained in this tuning",
        "images": len(subjects.labels),
        "slice_images": subjects.slice_images,
        "images_all_models_get_right": subjects.common,
        "images_the_reference_missed": subjects.missed,
        "reference": plan.reference.title,
        "mode": plan.mode,
        "tolerance": plan.tolerance,
        "within_tolerance": choice.within,
        "trials": trials,
        "seed": plan.seed,
        "searched": {dimension.name: str(dimension) for dimension in plan.space},
        "tuned": asdict(choice.judgement),
        "untuned": asdict(choice.untuned),
        "reference_reached": asdict(choice.reference),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }


def front_choices(study: optuna.Study, plan: TuningPlan, subjects: Subjects) -> list[Choice]:
    """Every point of the Pareto front as if it had been chosen, fewest propagations first."""
    untuned = judge(subjects.untuned, subjects.reference)
    reference = judge(subjects.reference, subjects.reference)
    return [
        Choice(
            with_values(plan.untuned, trial.params),
            _judgement(trial),
            trial.number,
            _judgement(trial).within(plan.tolerance),
            untuned,
            reference,
        )
        for trial in front(study)
    ]


def front_table(study: optuna.Study, plan: TuningPlan) -> list[dict[str, object]]:
    """The Pareto front with its constants, fewest propagations first."""
    return [
        {
            "trial": trial.number,
            **asdict(_judgement(trial)),
            "within_tolerance": _judgement(trial).within(plan.tolerance),
            "constants": asdict(with_values(plan.untuned, trial.params)),
        }
        for trial in front(study)
    ]


def _judgement(trial: optuna.trial.FrozenTrial) -> Judgement:
    return Judgement(**{key: float(trial.user_attrs[key]) for key in Judgement.__dataclass_fields__})
