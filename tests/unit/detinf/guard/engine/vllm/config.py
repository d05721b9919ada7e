"""The effective configuration: what the command line asked for, and what TEST_ENGINE makes of it."""

import enum
from types import SimpleNamespace
from typing import Any

from vllm import TEST


class CUDAGraphMode(enum.Enum):
    """As vLLM's."""

    PIECEWISE = 1
    FULL = 2


class ModelConfig(SimpleNamespace):
    """As vLLM's, as far as it is looked at."""

    def get_vocab_size(self) -> int:
        """Return the number of token ids."""
        return int(self.vocab_size)


def vllm_config() -> Any:
    """Return the configuration of this engine."""
    config = SimpleNamespace(
        model_config=ModelConfig(vocab_size=100, max_model_len=64, quantization=None, enforce_eager=False),
        cache_config=SimpleNamespace(enable_prefix_caching=False, block_size=8, num_gpu_blocks=16),
        scheduler_config=SimpleNamespace(enable_chunked_prefill=False, async_scheduling=False, max_num_seqs=2),
        compilation_config=SimpleNamespace(cudagraph_mode=CUDAGraphMode.PIECEWISE),
        parallel_config=SimpleNamespace(tensor_parallel_size=2, _api_process_count=1),
        speculative_config=None,
        additional_config={"weight_nz_mode": 0} | TEST.get("additional_config", {}),
    )
    for path, value in TEST.get("configuration", {}).items():
        *parents, name = path.split(".")
        holder: Any = config
        for parent in parents:
            holder = getattr(holder, parent)
        setattr(holder, name, CUDAGraphMode[value] if name == "cudagraph_mode" else value)
    return config
