"""The search itself: trials that attack batch by batch, each a child run, until there are as many as wanted."""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
import torch
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from robustlab.attacks.constants import Constants
from robustlab.study.attacking import ATTACKS
from robustlab.study.store import StudyStore
from robustlab.study.tuning.judgement import Judgement, batch_cost, cost, judge
from robustlab.study.tuning.space import Dimension, with_values
from robustlab.study.tuning.storage import PRUNED_AFTER, RUN_ID, UNTUNED, WORKER, this_worker
from robustlab.study.tuning.subjects import Outcome, Subjects

_STARTUP_TRIALS = 10
_POPULATION = 20
# The test is repeated after every batch, so a trial that is as good as the best meets it often.
_P_THRESHOLD = 0.05
_TIE_BREAK = 1e-6
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Search:
    """What a worker has to know beside the subjects; can be sent to another process."""

    attack: str
    untuned: Constants
    mode: str
    tolerance: float
    space: tuple[Dimension, ...]
    batch_size: int
    sampler: str
    seed: int
    trials: int

    @property
    def directions(self) -> list[StudyDirection]:
        return [StudyDirection.MINIMIZE] * (2 if self.mode == "pareto" else 1)


def open_search(storage: BaseStorage, name: str, search: Search) -> optuna.Study:
    """The Optuna study of that name, made where it does not exist."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        pruner: BasePruner = (
            NopPruner() if search.mode == "pareto" else WilcoxonPruner(p_threshold=_P_THRESHOLD)
        )
        return optuna.create_study(
            storage=storage,
            study_name=name,
            directions=search.directions,
            pruner=pruner,
            load_if_exists=True,
        )


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that ended by themselves, without the untuned defaults."""
    trials = study.get_trials(deepcopy=False, states=_FINISHED)
    return [trial for trial in trials if not trial.user_attrs.get(UNTUNED)]


def add_untuned(study: optuna.Study, search: Search, subjects: Subjects) -> None:
    """Tell Optuna what the defaults reach, once, if they lie in the space: no trial has to find that out."""
    values = {dimension.name: getattr(search.untuned, dimension.name) for dimension in search.space}
    if study.get_trials(deepcopy=False) or not all(d.holds(values[d.name]) for d in search.space):
        return
    objectives, steps, judgement = _objectives(search, subjects, subjects.untuned)
    study.add_trial(
        optuna.create_trial(
            params=values,
            distributions={dimension.name: dimension.distribution() for dimension in search.space},
            values=objectives,
            intermediate_values=steps if search.mode == "cheapest" else {},
            user_attrs={UNTUNED: True, **judgement.metrics()},
        )
    )


def add_starts(study: optuna.Study, space: Sequence[Dimension], starts: Sequence[Constants]) -> None:
    """Have these constants tried next, once each; what is not searched is as in every trial."""
    for constants in starts:
        values = {dimension.name: getattr(constants, dimension.name) for dimension in space}
        study.enqueue_trial(values, skip_if_exists=True)


def run_trials(
    study: optuna.Study,
    search: Search,
    subjects: Subjects,
    store: StudyStore,
    *,
    worker: int = 0,
    on_batch: Callable[[int, int], None] | None = None,
) -> None:
    """Run trials until the study has ``search.trials`` finished ones.

    The random numbers of a trial follow from the seed and the count of those finished before it, so a sequential
    search is repeatable, also one that was interrupted.

    Args:
        worker: its number; others than 0 leave a trial to whoever is at it.
        on_batch: called with (batches done, batches in all) of the present trial.
    """
    while True:
        finished = len(finished_trials(study))
        under_way = len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))) if worker else 0
        if finished + under_way >= search.trials:
            return
        draw = _seed(search.seed, worker, finished)
        study.sampler = _sampler(search, draw, several=worker > 0)

        def objective(trial: optuna.Trial, draw: int = draw) -> Any:
            return _run_trial(trial, search, subjects, store, random.Random(draw), on_batch)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.optimize(objective, n_trials=1)


def _run_trial(
    trial: optuna.Trial,
    search: Search,
    subjects: Subjects,
    store: StudyStore,
    order: random.Random,
    on_batch: Callable[[int, int], None] | None,
) -> Any:
    """Attack all models with the trial's constants, in a child run of its own."""
    trial.set_user_attr(WORKER, this_worker())
    values = {dimension.name: dimension.suggest(trial) for dimension in search.space}
    constants = with_values(search.untuned, values)
    run_id = start_child(store, f"trial {trial.number}", "trial", search.attack, constants)
    trial.set_user_attr(RUN_ID, run_id)
    try:
        outcome, done, steps = _attack(trial, search, subjects, constants, order, on_batch)
    except BaseException as error:
        store.fail_cell(run_id, f"the trial ended: {type(error).__name__}", "KILLED")
        raise
    if steps:
        store.log_series(run_id, "batch_cost", list(steps), list(steps.values()))
    if done is not None:  # pruned
        trial.set_user_attr(PRUNED_AFTER, done)
        so_far = sum(steps.values()) / len(steps)
        end_child(store, run_id, {"pruned_after_batches": done, "cost_so_far": so_far}, state="pruned")
        # Not an estimate of its cost instead: the cost of a whole trial goes by its worst model, so an estimate
        # from some batches could pass for the best.
        raise optuna.TrialPruned
    objectives, _, judgement = _objectives(search, subjects, outcome)
    for key, value in judgement.metrics().items():
        trial.set_user_attr(key, value)
    metrics = judgement.metrics() | ({"cost": objectives[0]} if search.mode == "cheapest" else {})
    end_child(store, run_id, metrics, state="complete")
    return objectives if len(objectives) > 1 else objectives[0]


def start_child(store: StudyStore, name: str, kind: str, attack: str, constants: Constants) -> str:
    """Open a child run with the constants as its parameters."""
    params = {f"{attack}.{key}": value for key, value in asdict(constants).items()}
    return store.start_child(name, {"robustlab.kind": kind, "robustlab.attack": attack}, params)


def end_child(store: StudyStore, run_id: str, metrics: Mapping[str, float | int], state: str) -> None:
    """Log the result and end the run."""
    store.log_metrics(run_id, metrics)
    store.log_tags(run_id, {"robustlab.state": state})
    store.finish_cell(run_id)


def _attack(
    trial: optuna.Trial,
    search: Search,
    subjects: Subjects,
    constants: Constants,
    order: random.Random,
    on_batch: Callable[[int, int], None] | None,
) -> tuple[Outcome, int | None, dict[int, float]]:
    """The outcome, after how many batches it was pruned (None: it was not), and the cost per batch's fixed id."""
    batches = batch_slices(subjects, search.batch_size)
    ids = list(batches)
    # Shuffled, so that the constants are not fitted to the images that happen to come first.
    order.shuffle(ids)
    distance = torch.full_like(subjects.reference.distance, torch.inf)
    propagations = torch.zeros_like(subjects.reference.propagations)
    outcome = Outcome(distance, propagations)
    steps: dict[int, float] = {}
    models = list(subjects.models.values())
    for done, batch in enumerate(ids, start=1):
        model, images = batches[batch]
        result = ATTACKS[search.attack](
            models[model], subjects.inputs[images], subjects.labels[images], constants
        )
        distance[model, images] = result.distance.cpu()
        propagations[model, images] = (result.forwards + result.backwards).cpu()
        if on_batch is not None:
            on_batch(done, len(ids))
        if search.mode == "cheapest":
            steps[batch] = _batch_cost(search, subjects, outcome, model, images)
            # Equal differences send scipy into enumerating permutations, seconds a test: split them at random.
            trial.report(steps[batch] + order.uniform(-1, 1) * _TIE_BREAK * _scale(subjects), step=batch)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                if done < len(ids) and trial.should_prune():
                    return outcome, done, steps
    return outcome, None, steps


def batch_slices(subjects: Subjects, batch_size: int) -> dict[int, tuple[int, slice]]:
    """Every batch under its fixed id: which model, which images."""
    starts = range(0, len(subjects.labels), batch_size)
    parts = [slice(start, min(start + batch_size, len(subjects.labels))) for start in starts]
    return dict(enumerate((model, part) for part in parts for model in range(len(subjects.models))))


def _objectives(
    search: Search, subjects: Subjects, outcome: Outcome
) -> tuple[list[float], dict[int, float], Judgement]:
    """What Optuna minimises, the costs by batch, and the judgement of the whole."""
    judgement = judge(outcome, subjects.reference)
    if search.mode == "pareto":
        return [judgement.distance, judgement.propagations], {}, judgement
    batches = batch_slices(subjects, search.batch_size)
    steps = {
        batch: _batch_cost(search, subjects, outcome, model, images)
        for batch, (model, images) in batches.items()
    }
    return [cost(judgement, search.tolerance, _scale(subjects))], steps, judgement


def _batch_cost(search: Search, subjects: Subjects, outcome: Outcome, model: int, images: slice) -> float:
    part, wanted = outcome.batch(model, images), subjects.reference.batch(model, images)
    return batch_cost(judge(part, wanted), search.tolerance, _scale(subjects))


def _scale(subjects: Subjects) -> float:
    return subjects.untuned.propagations.double().mean().item()


def _seed(seed: int, worker: int, finished: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{worker}:{finished}".encode()).digest()[:4], "little")


def _sampler(search: Search, seed: int, *, several: bool) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if search.sampler == "nsga2":
            return NSGAIISampler(seed=seed, population_size=_POPULATION)
        return TPESampler(
            seed=seed, n_startup_trials=_STARTUP_TRIALS, multivariate=True, constant_liar=several
        )
