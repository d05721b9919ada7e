"""Stands in for the op library: its import registers the kernels."""

from types import SimpleNamespace

import torch

from vllm import TEST

if not TEST.get("ops", True):
    raise ImportError("libcust_opapi.so: cannot open shared object file: No such file or directory")

NAMES = ("mm", "matmul", "reduce_sum", "reduce_mean", "log_softmax", "softmax", "fused_infer_attention_score")
torch.ops.batch_invariant_ops = SimpleNamespace(**{f"npu_{name}_batch_invariant": object() for name in NAMES})
