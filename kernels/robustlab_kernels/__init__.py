"""Attack operators on torch (and, where there is a CUDA device, Triton); useful to any attack library.

One folder per operator; ``reference.py`` is the torch truth, ``fused.py`` the Triton pass beside it. Operators treat
the first dimension as the batch, change the tensors they name in place, and never let one image see another.
"""

from robustlab_kernels.backends import kernels_version
from robustlab_kernels.cw_start import cw_start
from robustlab_kernels.cw_step import cw_step
from robustlab_kernels.ifgsm_step import ifgsm_step
from robustlab_kernels.margin import Margin, margin
from robustlab_kernels.ray_step import ray_step
from robustlab_kernels.search_update import search_update
from robustlab_kernels.track_best import track_best

__all__ = [
    "Margin",
    "cw_start",
    "cw_step",
    "ifgsm_step",
    "kernels_version",
    "margin",
    "ray_step",
    "search_update",
    "track_best",
]
