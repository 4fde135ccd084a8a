"""ray_step: turn the ray from the clean image, then find the radius at which it leaves the class."""

from robustlab_kernels.ray_step.reference import ray_step

__all__ = ["ray_step"]
