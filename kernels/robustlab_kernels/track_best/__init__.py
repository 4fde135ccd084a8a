"""track_best: per image, copy x to the best so far only where it improved."""

from robustlab_kernels.track_best.reference import track_best

__all__ = ["track_best"]
