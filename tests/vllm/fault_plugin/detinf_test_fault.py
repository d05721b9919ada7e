"""A vLLM plug-in that breaks batch invariance on command: the positive control of the tests and of the demo.

vLLM loads it in each of its processes, before the model is built, when this folder is on PYTHONPATH. While the file
named by ``DETINF_TEST_FAULT_FILE`` (default ``/tmp/detinf-fault``) exists, every linear layer sums the two halves of
its inner dimension separately where it gets 2 rows or more, as a kernel with split-K does above a size. The result is
as good as the other one and its last bits differ: logprobs change with the width of the batch, tokens hardly ever.

Without the file the layers compute exactly what they always did.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

FILE_VARIABLE = "DETINF_TEST_FAULT_FILE"
DEFAULT_FILE = "/tmp/detinf-fault"
ROWS = 2


def split_sum(
    apply: Callable[..., torch.Tensor], layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return ``apply(x)`` as the sum over the two halves of the inner dimension.

    The weights are packed for the kernel by now, so the halves are cut out of the input.
    """
    middle = x.shape[-1] // 2
    left, right = x.clone(), x.clone()
    left[..., middle:] = 0
    right[..., :middle] = 0
    return apply(layer, left, bias) + apply(layer, right, None)


def register() -> None:
    """Wrap the linear layers; called by vLLM, more than once in some processes."""
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod

    original = UnquantizedLinearMethod.apply
    if hasattr(original, "__wrapped__"):
        return
    file = os.environ.get(FILE_VARIABLE, DEFAULT_FILE)

    @functools.wraps(original)
    def apply(
        self: UnquantizedLinearMethod, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        if x.numel() // x.shape[-1] < ROWS or not os.path.exists(file):  # noqa: PTH110 - some hundred times a step
            return original(self, layer, x, bias)
        return split_sum(functools.partial(original, self), layer, x, bias)

    UnquantizedLinearMethod.apply = apply
