"""Two studies on one grid, the other one played by the test, so that the order of events is certain."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustlab.study import runner
from robustlab.study.claims import CELL_TAG, CURVE_TAG, Claims
from robustlab.study.conduct import conduct_study
from robustlab.study.executors import LocalExecutor, Task
from robustlab.study.owners import Owner
from robustlab.study.stages import Stages
from tests.study.test_study import small_plan


def test_a_shared_curve_is_attacked_as_soon_as_it_is_trained(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another study finishes training is seen while there is still something to train."""
    monkeypatch.setattr(runner, "_LOOK_AGAIN_S", 0.0)
    plan = small_plan()
    tasks: list[str] = []

    class OtherStudyAtWork(LocalExecutor):
        """Holds the larger cell of seed 0 from the first task on, trains it during the second, and dies."""

        def submit(self, task: Task) -> None:
            tasks.append(f"{task.stage} {task.cell.train_size} seed {task.cell.seed}")
            client, experiment_id = self._stages.store.client, self._stages.store.experiment_id
            if len(tasks) == 1:
                self.cell = plan.cells(plan.variants[0], seed=0)[1]
                self.owner = Owner.this_process(self._stages.store.parent_run_id)
                tags = {
                    CELL_TAG: plan.cell_digest(self.cell),
                    CURVE_TAG: plan.curve_digest(plan.variants[0], 0),
                }
                self.held = Claims(client, experiment_id, self.owner).claim(
                    tags[CELL_TAG],
                    lambda more: self._stages.store.open_cell(self.cell, {**tags, **more}),
                    retry_failed=True,
                )
            elif len(tasks) == 2:
                Stages(plan, self._stages.store, str(self.owner)).train(self.cell, self.held.run.info.run_id)
            elif len(tasks) == 3:
                self.owner.stop()
            super().submit(task)

    finished = conduct_study(plan, make_executor=OtherStudyAtWork)
    assert tasks[:3] == ["train 100 seed 0", "train 100 seed 1", "attack 100 seed 0"]
    assert len(finished.outcome.results) == 4
