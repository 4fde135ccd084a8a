"""Rows, tables, figures and the order of the runs."""

from __future__ import annotations

import json
from math import inf

import pytest
import torch
from torch import nn

from benchmarks import attacks
from benchmarks.contenders import FAST, Contender, Effort
from benchmarks.figures import figures, figures_table
from benchmarks.measure import Run
from benchmarks.peers import PEERS, missing_peers, peer_contenders
from benchmarks.subjects import Subject
from benchmarks.summary import Row, best_known, mean_where_both, rows_table, spread


def row(
    key: str, distances: list[float], *, passes: float = 100, over_bare: float = 1.0, norm: str = "l2"
) -> Row:
    """A row of one run; the time is that of its passes."""
    library, name = key.split(": ")
    outcome = Run(
        distances=distances,
        claimed=sum(distance < inf for distance in distances) / len(distances),
        forwards=passes,
        backwards=passes,
        cpu_s=passes / 1000,
        wall_s=passes / 1000,
        over_bare=over_bare,
        worth=passes * over_bare,
        bare_pass_s=0.001,
    )
    return Row(Contender(library, name, norm, lambda *_: None), len(distances), [outcome])


def reached(rows: list[Row], number: str, *, folds: bool = False) -> bool | None:
    """Whether the figure of that number was reached."""
    return {figure.number: figure for figure in figures("subject", rows, folds=folds)}[number].reached


def test_spread_is_median_and_outer_quintiles():
    """Quantiles are linear between the values, and one value is its own spread."""
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0, 6.0]) == {"median": 3.5, "p20": 2.0, "p80": 5.0}
    assert spread([7.0]) == {"median": 7.0, "p20": 7.0, "p80": 7.0}


def test_slow_contenders_get_fewer_images():
    """A share of eight takes an eighth of the images, at least one."""
    slow = Contender("here", "slow", "l2", lambda *_: None, share=8)
    assert [slow.images_for(count) for count in (64, 9, 3)] == [8, 1, 1]


def test_means_are_compared_where_the_other_succeeded():
    """Images that the other missed do not count; one that only the other found makes ours infinite."""
    other = row("a: b", [1.0, inf, 3.0])
    assert mean_where_both(row("c: d", [2.0, 9.0, 4.0]), other) == (3.0, 2.0)
    assert mean_where_both(row("c: d", [2.0, 9.0, inf]), other)[0] == inf
    assert mean_where_both(row("c: d", [2.0]), other) == (2.0, 1.0)
    assert mean_where_both(row("c: d", [2.0]), row("a: b", [inf])) == (0.0, inf)


def test_best_known_is_the_minimum_per_image_and_norm():
    """Rows of fewer images take part where they can, rows of the other norm and failed rows never."""
    rows = [row("a: b", [1.0, 5.0, inf]), row("a: c", [2.0, 3.0]), row("a: d", [0.1] * 3, norm="linf")]
    rows.append(Row(rows[0].contender, 3, status="failed"))
    assert best_known(rows, "l2") == [1.0, 3.0, inf]


def test_row_keeps_what_a_reader_needs():
    """Success, distances of the successes, counts and spreads; no infinity, so that the JSON is valid."""
    entry = row("a: b", [1.0, 2.0, inf, 3.0]).as_json()
    assert entry["success_rate"] == 0.75
    assert entry["mean_distance"] == 2.0
    assert entry["distances"] == [1.0, 2.0, None, 3.0]
    assert entry["passes_per_image"] == 100
    assert entry["cpu_s"] == {"median": 0.1, "p20": 0.1, "p80": 0.1}
    json.dumps(entry, allow_nan=False)


def test_table_shows_failures_and_false_claims():
    """A row without runs shows why; a claimed rate that is not the real one is noted."""
    honest, false = row("a: b", [1.0]), row("a: c", [inf])
    false.runs[0] = Run(**{**vars(false.runs[0]), "claimed": 1.0})
    lines = rows_table([honest, false, Row(honest.contender, 1, status="OutOfTime: stopped")]).splitlines()
    assert "another label" not in lines[2]
    assert "100% have another label" in lines[3]
    assert "OutOfTime: stopped" in lines[4]
    assert len({line.count("|") for line in lines}) == 1


def test_classic_figure_is_stricter_where_folding_applies():
    """1.03 times the bare passes is enough for a plain CNN and too much with batch normalisation."""
    rows = [row("robustlab: cw classic 9x100", [1.0], over_bare=1.03)]
    assert reached(rows, "1") is True
    assert reached(rows, "1", folds=True) is False


@pytest.mark.parametrize(
    ("distances", "passes", "expected"),
    [
        ([1.005, 2.01], 300, True),
        ([1.03, 2.06], 300, False),
        ([1.0, 2.0], 301, False),
        ([1.0, inf], 9, False),
    ],
)
def test_cw_figure_needs_success_distance_and_passes(distances, passes, expected):
    """Every image found, within 1 % of the best known, in 300 passes."""
    rows = [row("robustlab: cw", distances, passes=passes), row("adv-lib: ddn 1000", [1.0, 2.0])]
    assert reached(rows, "2") is expected


@pytest.mark.parametrize(
    ("mean", "passes", "expected"), [(1.0, 50, True), (1.0, 51, False), (1.1, 50, False)]
)
def test_twentieth_figure_needs_the_mean_and_the_time(mean, passes, expected):
    """The best peer's mean at a twentieth of the fastest peer's time."""
    rows = [row("robustlab: cw", [mean], passes=passes), row("adv-lib: cw 9x1000", [1.0], passes=1000)]
    assert reached(rows, "3") is expected


@pytest.mark.parametrize(
    ("mean", "passes", "expected"), [(1.0, 45, True), (1.0, 46, False), (1.1, 45, False)]
)
def test_fast_figure_needs_the_mean_and_the_passes(mean, passes, expected):
    """DDN's mean at 300 passes within 45 passes."""
    rows = [row(f"robustlab: {FAST}", [mean], passes=passes), row("adv-lib: ddn 300", [1.0], passes=300)]
    assert reached(rows, "4") is expected


@pytest.mark.parametrize(
    ("mean", "passes", "over_bare", "expected"),
    [(0.1, 50, 1.0, True), (0.1, 51, 0.9, False), (0.1, 50, 1.1, False), (0.2, 50, 1.0, False)],
)
def test_ifgsm_figure_needs_the_mean_half_the_passes_and_half_the_time(mean, passes, over_bare, expected):
    """Against the bisection of 10 x 10."""
    rows = [
        row("robustlab: ifgsm", [mean], passes=passes, over_bare=over_bare, norm="linf"),
        row("torchattacks: bim 10x10", [0.1], norm="linf"),
    ]
    assert reached(rows, "5a") is expected


@pytest.mark.parametrize(("widened_passes", "expected"), [(400, True), (401, False)])
def test_fmn_figure_takes_the_best_ifgsm_within_the_passes(widened_passes, expected):
    """The longer I-FGSM counts only where it needs no more passes than FMN."""
    rows = [
        row("robustlab: ifgsm", [0.12], passes=50, norm="linf"),
        row("robustlab: ifgsm widened", [0.1], passes=widened_passes, norm="linf"),
        row("adv-lib: fmn linf 400", [0.1], passes=400, norm="linf"),
    ]
    assert reached(rows, "5b") is expected


def test_fmn_figure_is_not_reached_by_any_mean_of_too_many_passes():
    """Where no I-FGSM keeps to FMN's passes the figure is missed."""
    rows = [
        row("robustlab: ifgsm", [0.05], passes=401, norm="linf"),
        row("adv-lib: fmn linf 400", [0.1], passes=400, norm="linf"),
    ]
    assert reached(rows, "5b") is False


def test_figures_without_their_rows_are_not_measured():
    """Without peers nothing is reached or missed, and the table says so."""
    entries = figures("subject", [row("robustlab: ifgsm", [0.1], norm="linf")], folds=False)
    assert {entry.reached for entry in entries} == {None}
    assert "not measured" in figures_table(entries)


def subject() -> Subject:
    """A linear model of two classes with three images."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
    return Subject("linear", model, torch.rand(3, 1, 1, 2), torch.zeros(3, dtype=torch.long), 1.0, {})


def test_contenders_take_turns_and_the_order_turns_round():
    """Every other round goes backwards; a contender past its budget is not repeated, a broken one not either."""
    calls = []

    def attack(name, fails=False):
        def record(model, inputs, _labels):
            calls.append(name)
            model(inputs)
            if fails:
                raise ValueError("no such image")
            return inputs

        return Contender("here", name, "l2", record)

    rows, _ = attacks.compare(subject(), [attack("a"), attack("b", fails=True), attack("c")], 3, 60, 60)
    assert calls == ["a", "b", "c", "c", "a", "a", "c"]
    assert [len(row.runs) for row in rows] == [3, 0, 3]
    assert rows[1].status == "ValueError: no such image"
    calls.clear()
    attacks.compare(subject(), [attack("a")], repeats=3, budget_s=0, limit_s=60)
    assert calls == ["a"]


def test_missing_peers_have_no_contenders():
    """What cannot be imported is named with its reason and takes no part."""
    missing = missing_peers()
    libraries = {contender.library for contender in peer_contenders(Effort())}
    assert libraries == set(PEERS) - set(missing)
    assert all(missing.values())


def test_a_smoke_run_writes_one_whole_results_file(tmp_path, capsys):
    """Without data and peers: digits, our attacks, tables on the screen and a file that says it is not complete."""
    out = tmp_path / "results" / "here.json"
    command = ["--quick", "--only", "robustlab: ifgsm", "--models", "mnist-simple-cnn", "--data-dir"]
    command += [str(tmp_path), "--cache", str(tmp_path / "cache"), "--out", str(out), "--train-images", "300"]
    attacks.main(command)
    report = json.loads(out.read_text())
    assert report["complete"] is False
    assert report["quick"] is True
    (model,) = report["models"]
    assert model["name"] == "digits-simple_cnn"
    assert [entry["attack"] for entry in model["attacks"]] == ["ifgsm", "ifgsm widened"]
    assert len(model["test_indices"]) == model["attacks"][0]["images"] == 4
    printed = capsys.readouterr()
    assert "| robustlab: ifgsm |" in printed.out
    assert "smoke run" in printed.out
    attacks.main(command)
    assert "training" not in capsys.readouterr().err  # the second run finds the model in the cache
