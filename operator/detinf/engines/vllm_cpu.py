"""The profile of the stock vLLM 0.32 on CPU: a real engine for machines without an accelerator.

Measured: it is bit-invariant at widths 2 to 32 in float32 and bfloat16 as it is, so nothing has to be switched on.
"""

from __future__ import annotations

from detinf.engines import common
from detinf.engines.profile import Argument, Profile, Unset, Variable

PROFILE = Profile(
    name="vllm-cpu-0.32",
    description="the stock vLLM 0.32 on CPU",
    image=None,
    uses_devices=False,
    arguments=(*common.ARGUMENTS, Argument("--enforce-eager", "compilation takes minutes and is no part of the proof")),
    variables=(
        Variable("PYTHONHASHSEED", "0", "no order of a set may depend on the process"),
        Variable("HF_HUB_OFFLINE", "1", "the model is the mounted one, whatever a hub has under its name"),
        Variable("VLLM_CPU_KVCACHE_SPACE", "1", "GiB of KV cache: its size decides when a request would be preempted"),
        Variable("OMP_NUM_THREADS", "1", "the number of threads decides how sums are split"),
        Variable("VLLM_CPU_OMP_THREADS_BIND", "nobind", "threads stay where the kernel puts them: pods share cores"),
        Variable("TORCH_COMPILE_DISABLE", "1", "else the first request for logprobs compiles a function, eager or not"),
        Variable("VLLM_NO_USAGE_STATS", "1", "no reports to the outside"),
    ),
    unset=(
        Unset("VLLM_PLUGINS", "an allow-list would leave out plug-ins, or let in others"),
        Unset("MKL_CBWR", "another code path of MKL than the one that was proven"),
    ),
    pod_variables=common.POD_VARIABLES,
    middleware="detinf.guard.middleware.BootHeader",
    processes=("guard",),
    gate_widths=(2, 8, 16),
    default_requests=(("cpu", "500m"), ("memory", "4Gi")),
)
