"""cw_step: the L2 term's gradient, the chain through tanh, Adam and the new image."""

from robustlab_kernels.cw_step.reference import cw_step

__all__ = ["cw_step"]
