"""Whatever stands on the command line: it works, or one line and exit status 2. Nothing is trained here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlab.cli import main, study, tune
from robustlab.data import load_dataset
from tests.fuzz.profile import fuzzed, tried

# What people and scripts get wrong, and what would be dangerous where it was taken for more than text.
AWKWARD = [
    "", " ", "auto", "AUTO", "0", "-1", "1", "100", "1e3", "1_000", "nan", "inf", "-inf", "1e400", "٣", "9" * 30,
    "9" * 5000, ",", "100,", "100,200", "200,100", "0,1", "default", "untuned", "cw", "ifgsm", "cw,ifgsm", "cw,cw",
    "perceptron", "resnet+aug", "perceptron+aug+aug", "digits", "mnist", "imagefolder:",
    "imagefolder:~nobody-here/x", "imagefolder:/", "~nobody-here/x", "~", "/", "/dev/null", ".", "..",
    "../../etc/passwd", "a\0b", "\ud800", "\x1b[31m", "[red]x[/red]", "[/]", "%s%n", "'", "';--", "$(id)", "`id`",
    "; rm -rf x", "| id", "&& id", "runs:/", "runs:/x/y", "models:/", "models:/a/b/c", "models:/a@", "file:///x",
    "cpu", "cpu:7", "cuda:99", "meta", "mps", "xla", "local", "ray", "epochs", "steps", "learning_rate=1",
    "steps=1,steps=2", "passes=1e3", "=", "a=b=c", "confidence=-1", "warm_steps=3:9", "warm_steps=9:3", "journal/x",
    "sqlite://", "postgresql://", "torchvision:", "timm:", "torchvision:resnet18", "best",
]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(AWKWARD), st.text(max_size=12), st.integers().map(str), st.floats().map(str)
)

OPTIONS = {
    "study": ["dataset", "models", "sizes", "seeds", "attacks", "attack-images", "cross-check", "train-budget",
              "epochs", "constants", "cw", "ifgsm", "data-dir", "device", "executor", "gpus-per-cell"],
    "train": ["dataset", "models", "sizes", "seeds", "train-budget", "epochs", "data-dir", "device"],
    "tune": ["dataset", "model", "attack", "mode", "sizes", "images", "trials", "tolerance", "reference",
             "search", "sampler", "seed", "train-seed", "epochs", "storage", "name", "workers", "data-dir", "device"],
    "attack": ["model", "dataset", "attacks", "images", "cross-check", "weights", "constants", "cw", "ifgsm",
               "data-dir", "device"],
    "report": ["study", "out"],
    "status": ["study"],
    "linear": [], "models": [],
}  # fmt: skip


@st.composite
def command_lines(draw: st.DrawFn, verb: str) -> list[str]:
    """A verb with one to three of its options, or something that is no option."""
    names = draw(st.lists(st.sampled_from(OPTIONS[verb] or ["help-me"]), min_size=1, max_size=3, unique=True))
    arguments = [verb]
    for name in names:
        arguments += [f"--{name}", draw(VALUES)]
    return arguments + draw(st.lists(VALUES, max_size=1))


@pytest.fixture
def _nothing_is_run(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything up to the first training is real; no Ray cluster is started, nothing fetched."""
    digits = load_dataset("digits")

    def open_dataset(name: str, data_dir: str, download: bool, console: Any) -> Any:
        return digits if name == "digits" else load_dataset(name, _directory(data_dir), download=False)

    def _directory(text: str) -> Path:
        from robustlab.cli.options import parse_data_dir
        from robustlab.data import data_directory

        return data_directory(parse_data_dir(text) or store / "no data")

    monkeypatch.setattr(study, "_conduct", lambda *arguments, **named: 0)
    for module in (study, tune):
        monkeypatch.setattr(module, "open_dataset", open_dataset)
    monkeypatch.setattr("robustlab.cli.attack.open_dataset", open_dataset)
    monkeypatch.setattr("robustlab.study.executors.on_ray.connect", lambda *arguments: None)
    monkeypatch.setattr(tune, "check_store", _stop)
    monkeypatch.setattr("robustlab.cli.attack.load_library_model", _no_library_model)


def _stop() -> None:
    """The tuning would begin here."""
    raise KeyboardInterrupt


def _no_library_model(*arguments: object) -> None:
    from robustlab.errors import InputError

    raise InputError("no models are fetched here")


@pytest.mark.usefixtures("_nothing_is_run")
@pytest.mark.parametrize("verb", OPTIONS)
def test_it_works_or_is_refused_in_one_line(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 0 and silence on the error stream, or 2 and one line that begins with the program's name."""

    @fuzzed
    @given(command_lines(verb))
    def try_it(arguments: list[str]) -> None:
        tried[f"command line: {verb}"] += 1
        status = main(arguments)
        lines = capsys.readouterr().err.strip().splitlines()
        assert status in (0, 2, 130), (arguments, lines)
        if status == 2:
            assert lines[0].startswith("robustlab: "), (arguments, lines)
            assert len(lines) == 1, (arguments, lines)

    try_it()
