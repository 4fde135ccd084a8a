"""Optuna's own interactive plots of a tuning, in one HTML page that needs no network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

PAGE = "tuning.html"
_AXES = ["mean distortion", "propagations an image"]
_KEYS = ("distance", "propagations")
_LEAST_TRIALS = 2


def write_plots(study: optuna.Study, path: Path) -> list[str]:
    """Write front, importances and history into one page; returns the names of the plots that it holds.

    A plot for which there are too few different trials is left out, and the page says so.
    """
    import plotly.io

    figures: list[tuple[str, Callable[[], Any]]] = [
        ("Pareto front", lambda: _front(whole_trials(study))),
        ("Parameter importances", lambda: _importances(study)),
        ("History", lambda: _history(study)),
    ]
    parts: list[str] = []
    drawn: list[str] = []
    for name, draw in figures:
        parts.append(f"<h2>{name}</h2>")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                figure = draw()
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            parts.append(f"<p>Not drawn: {error}</p>")
            continue
        # The library stands once in the page, so that it opens without a network.
        parts.append(plotly.io.to_html(figure, full_html=False, include_plotlyjs=not drawn))
        drawn.append(name)
    title = f"Tuning: {study.study_name}"
    page = f"<!doctype html><html><head><meta charset='utf-8'><title>{title}</title></head><body><h1>{title}</h1>"
    path.write_text(page + "\n".join(parts) + "</body></html>\n")
    return drawn


def whole_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that attacked every batch, the untuned defaults included."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in trials if _KEYS[0] in trial.user_attrs]


def front(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that no other one beats in distance and propagations at once, fewest propagations first."""
    best: list[FrozenTrial] = []
    for trial in sorted(whole_trials(study), key=lambda t: (t.user_attrs[_KEYS[1]], t.user_attrs[_KEYS[0]])):
        if not best or trial.user_attrs[_KEYS[0]] < best[-1].user_attrs[_KEYS[0]]:
            best.append(trial)
    return best


def _front(trials: list[FrozenTrial]) -> Any:
    """From a copy with two objectives, whatever the search minimised."""
    if len(trials) < _LEAST_TRIALS:
        raise ValueError("too few trials that were not pruned")
    optuna_log = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        copy = optuna.create_study(directions=["minimize", "minimize"])
        for trial in trials:
            copy.add_trial(
                optuna.create_trial(
                    params=trial.params,
                    distributions=trial.distributions,
                    values=[trial.user_attrs[key] for key in _KEYS],
                )
            )
    finally:
        optuna.logging.set_verbosity(optuna_log)
    return optuna.visualization.plot_pareto_front(copy, target_names=_AXES)


def _importances(study: optuna.Study) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if len(study.directions) > 1:
            return optuna.visualization.plot_param_importances(
                study, target=lambda trial: trial.values[0], target_name=_AXES[0]
            )
        return optuna.visualization.plot_param_importances(study)


def _history(study: optuna.Study) -> Any:
    if len(study.directions) > 1:
        return optuna.visualization.plot_optimization_history(
            study, target=lambda trial: trial.values[1], target_name=_AXES[1]
        )
    return optuna.visualization.plot_optimization_history(study, target_name="cost")
