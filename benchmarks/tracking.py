"""What MLflow costs a cell: wall-clock time of a study that is neither training nor attacking.

    python -m benchmarks.tracking [--models perceptron,resnet,densenet] [--sizes 8]

Runs a study of tiny cells in a store of its own and prints, per model, the seconds a cell beside training and
attacking (evaluation included): median, 20 % and 80 % quantile over the cells.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import mlflow

from robustlab.attacks import IFGSM, CarliniWagnerL2
from robustlab.data import load_dataset
from robustlab.study.conduct import conduct_study
from robustlab.study.plan import plan_study
from robustlab.study.runner import StudyProgress


def main() -> None:
    """Run one study a model and print what its cells cost beside their work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="perceptron,simple_cnn,resnet,densenet")
    parser.add_argument("--cells", type=int, default=8, help="cells a model (default 8)")
    options = parser.parse_args()
    digits = load_dataset("digits")
    print(f"{'model':<12} {'cells':>5} {'median_s':>9} {'p20_s':>7} {'p80_s':>7} {'first_s':>8}")
    for model in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
            mlflow.create_experiment("tracking", artifact_location=f"{folder}/artifacts")
            mlflow.set_experiment("tracking")
            plan = plan_study(
                digits,
                models=[model],
                sizes=[100],
                seeds=range(options.cells),
                attack_images=4,
                epochs=1,
                cw=CarliniWagnerL2(max_iterations=20),
                ifgsm=IFGSM(steps=3),
            )
            ended: list[float] = []

            def note(progress: StudyProgress, ended: list[float] = ended) -> None:
                if progress.cells_done > len(ended):
                    ended.append(time.perf_counter())

            started = time.perf_counter()
            results = conduct_study(plan, on_progress=note).outcome.results
            walls = [end - begin for begin, end in zip([started, *ended], ended, strict=False)]
            beside = [
                wall - result.train_s - result.attack_s for wall, result in zip(walls, results, strict=True)
            ]
            quantiles = statistics.quantiles(beside[1:], n=5)
            print(
                f"{model:<12} {len(beside):>5} {statistics.median(beside[1:]):>9.2f} {quantiles[0]:>7.2f} "
                f"{quantiles[-1]:>7.2f} {beside[0]:>8.2f}"
            )


if __name__ == "__main__":
    main()
