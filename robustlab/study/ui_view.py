"""A view of the experiment for MLflow's own UI: the columns and charts that answer this project's questions."""

from __future__ import annotations

import json

import mlflow
from mlflow import MlflowClient

from robustlab.study.secrets import without_password

VIEW_KEY = "robustlab"
_COLUMNS = (
    "params.`dataset`",
    "params.`model`",
    "params.`augmented`",
    "params.`train_size`",
    "params.`seed`",
    "metrics.`test_accuracy`",
    "metrics.`l2`",
    "metrics.`linf`",
)
_CHARTS = {"test_accuracy": "Test accuracy", "l2": "Mean L2 distortion", "linf": "Mean Linf distortion"}


def prepare_experiment(client: MlflowClient, experiment_id: str) -> None:
    """Store the view with the experiment, as the UI's own "Share" does, and say that models are trained here.

    The UI would otherwise guess the latter from what it finds. What a user has set is left as it is.
    """
    tags = client.get_experiment(experiment_id).tags
    wanted = {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": (
            "Each **study** is a parent run: its report (`report.html`), figure and curves over the training size. Its "
            "children are the **cells**: one trained and attacked model each."
        ),
    }
    for key, value in wanted.items():
        if not tags.get(key) or tags[key].endswith("_inferred"):
            client.set_experiment_tag(experiment_id, key, value)
    key, view = f"mlflow.sharedViewState.{VIEW_KEY}", json.dumps(_view())
    if tags.get(key) != view:
        client.set_experiment_tag(experiment_id, key, view)


def view_page(experiment_id: str) -> str:
    """The address of the view in the UI (on its default port where the store is local)."""
    uri = without_password(mlflow.get_tracking_uri())
    root = uri if uri.startswith("http") else "http://127.0.0.1:5000"
    return f"{root}/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW_KEY}"


def _view() -> dict[str, object]:
    section = "robustlab"
    charts = [
        {
            "uuid": f"robustlab-{metric}",
            "type": "SCATTER",
            "deleted": False,
            "isGenerated": False,
            "metricSectionId": section,
            "displayName": f"{name} against training size",
            "xaxis": {"key": "train_size", "type": "PARAM"},
            "yaxis": {"key": metric, "type": "METRIC"},
            "runsCountToCompare": 100,
        }
        for metric, name in _CHARTS.items()
    ]
    return {
        "searchFilter": "tags.`robustlab.kind` = 'cell'",
        # Sorted by anything but the date, the UI shows the cells themselves instead of folding them under the study.
        "orderByKey": "tags.`mlflow.runName`",
        "orderByAsc": True,
        "selectedColumns": list(_COLUMNS),
        "columnOrder": [],
        "runsHiddenMode": "SHOWALL",
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": section, "name": "Against training size", "display": True, "isReordered": False}
        ],
    }
