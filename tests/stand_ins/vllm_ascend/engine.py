"""As ``vllm serve`` of the vllm-ascend image: its processes attest like the real ones, and the simulated engine serves.

The processes, the order of their start and the kernels' names are those of the guard's own stand-ins
(``tests/unit/detinf/guard/engine``), the configuration is what the command line asks for, and batch invariance is
switched on by the published package's own ``vllm_ascend/batch_invariant.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from detinf.guard.layout import TRACE_VARIABLE
from detinf_sim.cli import parser, serve, settings_of


def configuration(options: argparse.Namespace) -> dict[str, Any]:
    """Return the effective configuration by path, as far as it is looked at."""
    blocks = -(-options.max_model_len // options.block_size)
    return {
        "model_config.vocab_size": json.loads((options.model / "config.json").read_text())["vocab_size"],
        "model_config.max_model_len": options.max_model_len,
        "model_config.dtype": f"torch.{options.dtype}",
        "cache_config.enable_prefix_caching": options.enable_prefix_caching,
        "cache_config.block_size": options.block_size,
        "cache_config.num_gpu_blocks": blocks * options.max_num_seqs,
        "scheduler_config.enable_chunked_prefill": options.enable_chunked_prefill,
        "scheduler_config.async_scheduling": not options.no_async_scheduling,
        "scheduler_config.max_num_seqs": options.max_num_seqs,
        "scheduler_config.max_num_batched_tokens": options.max_num_batched_tokens,
        "scheduler_config.policy": "fcfs",
        "parallel_config.tensor_parallel_size": int(options.tensor_parallel_size),
        "parallel_config.pipeline_parallel_size": 1,
        "parallel_config.data_parallel_size": options.data_parallel_size,
        "parallel_config.enable_expert_parallel": False,
        "compilation_config.cudagraph_mode": json.loads(options.compilation_config)["cudagraph_mode"],
        "lora_config": None,
    }


def main() -> None:
    """Start as vLLM does, plug-ins first; then answer users."""
    # The real parser takes every flag of a plan; the simulated engine knows those that it has a use for.
    options, _ = parser().parse_known_args()
    asked = {"configuration": configuration(options), "additional_config": json.loads(options.additional_config)}
    os.environ["TEST_ENGINE"] = json.dumps(asked)
    from vllm.config import vllm_config
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM(vllm_config())
    settings = settings_of(options)
    settings.trace = Path(os.environ[TRACE_VARIABLE])
    code = asyncio.run(serve(settings, options.host, options.port, 0.1))
    engine.core.kill()
    sys.exit(code)


if __name__ == "__main__":
    main()
