"""ifgsm_step: a signed step, clipped to the ball and the box."""

from robustlab_kernels.ifgsm_step.reference import ifgsm_step

__all__ = ["ifgsm_step"]
