"""A faster copy of a model for inference: batch normalisation folded into convolutions, channels last.

Measured, one CPU thread, forward and input gradient: see docs/attacks.md.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from robustlab.shapes import Float

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# The copy's logits may differ from the model's by so many roundings of the largest logit: a network of a hundred
# layers stays within it, a wrong copy does not.
_ROUNDINGS = 1_000


def faster_copy(model: nn.Module, images: Float[Tensor, "batch ..."]) -> nn.Module:
    """A copy in evaluation mode that gives the same logits faster, or ``model`` itself where there is none.

    There is none for a model without convolutions, one with hooks (they belong to the model's behaviour), one
    that ``torch.fx`` cannot trace, and one whose copy does not give the same logits on ``images``.
    """
    if not any(isinstance(module, _CONVOLUTIONS) for module in model.modules()) or _has_hooks(model):
        return model
    try:
        traced = fx.symbolic_trace(copy.deepcopy(model))
        _fold_batch_norm(traced)
        traced.requires_grad_(False)
        if images.dim() == 4:
            traced.to(memory_format=torch.channels_last)
        with torch.no_grad():
            expected, got = model(images), traced(images)
        tolerance = _ROUNDINGS * torch.finfo(expected.dtype).eps * expected.abs().max()
        same = expected.shape == got.shape and bool(((expected - got).abs() <= tolerance).all())
    except (
        Exception
    ):  # whatever a foreign model does when it is copied and traced, the model itself still works
        return model
    return traced if same else model


def _has_hooks(model: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind, None) for module in model.modules() for kind in kinds)


def _fold_batch_norm(traced: fx.GraphModule) -> None:
    """Replace each convolution and the batch normalisation behind it by one convolution, in place."""
    modules = dict(traced.named_modules())
    calls = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not isinstance(modules[str(node.target)], _BatchNorm):
            continue
        before = node.args[0]
        if not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        conv, norm = modules[str(before.target)], modules[str(node.target)]
        # A module that is called twice, or whose output goes elsewhere too, has to stay as it is.
        once = len(before.users) == calls.count(before.target) == calls.count(node.target) == 1
        if not isinstance(conv, _CONVOLUTIONS) or not once or norm.running_mean is None:
            continue
        traced.set_submodule(str(before.target), fuse_conv_bn_eval(conv, norm))
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
