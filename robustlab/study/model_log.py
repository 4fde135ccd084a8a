"""Trained models into MLflow: logged as pt2 (no pickle), registered, one version per size and seed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlflow.pytorch
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import nn


class ModelLog:
    """Logs and registers the models of one study.

    torch.export traces a network anew for every model that MLflow saves (1 s for ResNet-32, 2 s for DenseNet-40 on a
    laptop's CPU, many times what the rest takes), though all sizes of a variant share one graph and differ in weights
    only. So each variant is traced once and its graph is saved again with the next model's weights.
    """

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._traced: dict[str, torch.export.ExportedProgram] = {}

    def log(
        self,
        model: nn.Module,
        registered_name: str,
        run_id: str,
        image_shape: tuple[int, int, int],
        num_classes: int,
        tags: Mapping[str, str],
        description: str,
    ) -> tuple[str, str]:
        """Log ``model`` under the run and register it; returns (logged model's id, registered version)."""
        model = copy.deepcopy(model).cpu().eval()
        signature = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("float32"), (-1, *image_shape))]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, num_classes))]),
        )
        with self._traced_once(registered_name):
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
                tags=dict(tags),
                # MLflow would load every model once more to try its example; the tests do that instead.
                validate_serving_input=False,
            )
        self._create_registered_model(registered_name)
        version = self._client.create_model_version(
            registered_name,
            source=info.model_uri,
            run_id=run_id,
            tags=dict(tags),
            description=description,
            model_id=info.model_id,
        )
        return info.model_id, str(version.version)

    def _create_registered_model(self, name: str) -> None:
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

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
    model = mlflow.pytorch.load_model(uri)
    for module in model.modules():
        module.training = False  # an exported graph is an evaluation graph, but refuses .eval()
    return model


def _release(version: str) -> str:
    return version.partition("+")[0]  # a local build suffix such as +cu130 cannot be installed by name
