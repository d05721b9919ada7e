"""Stands in for torch_npu: native kernels, which depend on the batch."""

from types import SimpleNamespace
from typing import Any

from vllm import TEST

npu = SimpleNamespace(get_soc_version=lambda: TEST.get("soc", 223))


def npu_fused_infer_attention_score(*_arguments: Any) -> None:
    """The native attention."""


def npu_add_rms_norm(*_arguments: Any) -> None:
    """The native norm."""


def npu_rms_norm(*_arguments: Any) -> None:
    """The norm alone."""
