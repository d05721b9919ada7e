"""As vllm_ascend.worker.worker of 0.23: batch invariance is switched on before the process group is made."""

from typing import Any

import torch_npu

from vllm import TEST
from vllm_ascend import utils
from vllm_ascend.batch_invariant import init_batch_invariance

NATIVE = torch_npu.npu_add_rms_norm


class NPUWorker:
    """A worker without a device."""

    def __init__(self, vllm_config: Any, rank: int) -> None:
        """Keep the configuration."""
        self.vllm_config = vllm_config
        self.rank = rank

    def init_device(self) -> None:
        """Switch batch invariance on; layers look whether they may call vLLM-Ascend's own operators."""
        init_batch_invariance()
        self.custom_op = utils.enable_custom_op()

    def compile_or_warm_up_model(self) -> None:
        """Warm up; a model's own code may put a native kernel back while it does."""
        if TEST.get("undone_by_warm_up"):
            torch_npu.npu_add_rms_norm = NATIVE
