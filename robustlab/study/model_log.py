"""Trained models into MLflow: logged as pt2 (no pickle), registered, one version per size and seed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import nn

from robustlab.study.store import StudyStore


class ModelLog:
    """Logs the models of one study.

    torch.export traces a network anew for every model that MLflow saves (1 s for ResNet-32, 2 s for DenseNet-40 on a
    laptop's CPU, many times what the rest takes), though all sizes of a variant share one graph and differ in weights
    only. So each variant is traced once and its graph is saved again with the next model's weights.
    """

    def __init__(self, store: StudyStore) -> None:
        self._store = store
        self._traced: dict[str, torch.export.ExportedProgram] = {}

    def log(
        self,
        model: nn.Module,
        name: str,
        run_id: str,
        image_shape: tuple[int, int, int],
        num_classes: int,
        tags: dict[str, str],
    ) -> str:
        """Log ``model``, of the variant ``name``, under the run and return its id.

        What an interrupted attempt left of the same run's model is deleted.
        """
        import mlflow.pytorch  # loads MLflow's model server, which a study that finds all done does not need

        model = copy.deepcopy(model).cpu().eval()
        signature = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("float32"), (-1, *image_shape))]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, num_classes))]),
        )

        def log() -> str:
            with self._traced_once(name):
                info = Model.log(
                    artifact_path=None,
                    name="model",
                    flavor=mlflow.pytorch,
                    run_id=run_id,
                    pytorch_model=model,
                    serialization_format="pt2",
                    signature=signature,
                    input_example=np.zeros((2, *image_shape), dtype=np.float32),
                    pip_requirements=[f"torch=={_release(torch.__version__)}"],
                    tags=tags,
                    # MLflow would load every model once more to try its example; the tests do that instead.
                    validate_serving_input=False,
                )
            return str(info.model_id)

        model_id = self._store.patience.call(log)
        for other in self._store.client.search_logged_models(
            [self._store.experiment_id], f"source_run_id = '{run_id}'"
        ):
            if other.model_id != model_id:
                self._store.client.delete_logged_model(other.model_id)
        return model_id

    @contextmanager
    def _traced_once(self, key: str) -> Iterator[None]:
        """While open, ``torch.export.export`` answers from the variant's traced graph, with the new weights in it."""
        trace = torch.export.export

        def export(model: nn.Module, *arguments: Any, **keywords: Any) -> torch.export.ExportedProgram:
            if key not in self._traced:
                self._traced[key] = trace(model, *arguments, **keywords)
                return self._traced[key]
            program = self._traced[key]
            with torch.no_grad():
                for name, value in model.state_dict().items():
                    program.state_dict[name].copy_(value)
            return program

        torch.export.export = export  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.export.export = trace


def load_logged_model(uri: str) -> nn.Module:
    """The logged graph module at a ``models:/`` or ``runs:/`` address; takes (B, C, H, W) in [0, 1], returns logits."""
    import mlflow.pytorch

    model = mlflow.pytorch.load_model(uri)
    for module in model.modules():
        module.training = False  # an exported graph is an evaluation graph, but refuses .eval()
    return model


def _release(version: str) -> str:
    return version.partition("+")[0]  # a local build suffix such as +cu130 cannot be installed by name
