"""How does the amount of training data change a classifier's accuracy and its robustness?

Start with :mod:`robustlab.attacks` (a plain torch library) or the command ``robustlab --help``.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__version__ = "0.1.0"


def load_model(uri: str) -> "nn.Module":
    """A trained model with input gradients: takes images (B, C, H, W) in [0, 1], returns logits (B, N).

    Args:
        uri: ``models:/<name>@<alias>``, ``models:/<name>/<version>``, ``runs:/<run id>``, or a folder with a model.

    Never runs pickled code. Needs the ``study`` extra.

    Raises:
        InputError: there is no such model, or its files are damaged.
    """
    # Imported here: the attack library alone needs neither MLflow nor safetensors.
    from robustlab.study.load import load_model as load

    return load(uri)
