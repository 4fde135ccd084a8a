"""margin: from logits and labels f, its gradient with respect to the logits, and the best other class."""

from robustlab_kernels.margin.reference import Margin, margin

__all__ = ["Margin", "margin"]
