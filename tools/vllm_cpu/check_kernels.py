"""See that vLLM finds its CPU platform and its kernels: run by the Python that has it.

vLLM itself only logs a warning where they do not load, and fails much later. Where VLLM_CACHE_ROOT is set, what it
finds out about the tiny model's class stays there: else each start imports vllm once more, in a process of its own.
"""

from __future__ import annotations

import os

import torch
from vllm.platforms import current_platform

if not current_platform.is_cpu():
    raise SystemExit(f"vLLM takes this for the platform {current_platform.device_name!r}, not for a CPU")
current_platform.import_kernels()
if not hasattr(torch.ops._C, "init_cpu_memory_env"):  # noqa: SLF001 - torch's namespace for these kernels
    raise SystemExit("vLLM's kernels did not load; the warning above says why")
if "VLLM_CACHE_ROOT" in os.environ:
    from vllm.model_executor.models.registry import ModelRegistry

    ModelRegistry.models["Qwen3ForCausalLM"].inspect_model_cls()
