"""The profile of the simulated engine, which ships with the operator for trials, the demo and tests."""

from __future__ import annotations

from detinf.engines import common
from detinf.engines.profile import Profile, Unset, Variable

PROFILE = Profile(
    name="simulated",
    description="the simulated engine: vLLM's interface and a deterministic model without weights, on simulated NPUs",
    image="localhost/detinf/simulated-engine:dev",
    uses_devices=True,
    arguments=common.ARGUMENTS,
    variables=(
        Variable("VLLM_BATCH_INVARIANT", "1", "the switch of batch invariance; `true` is no integer to vLLM"),
        Variable("HCCL_DETERMINISTIC", "strict", "one order of additions in every collective"),
        Variable("LCCL_DETERMINISTIC", "1", "the same for ATB's collectives"),
        Variable("ATB_MATMUL_SHUFFLE_K_ENABLE", "0", "ATB's set_env.sh exports 1, which shuffles the K dimension"),
        Variable("ATB_LLM_LCOC_ENABLE", "0", "no communication that overlaps computation in another order"),
        Variable("CLOSE_MATMUL_K_SHIFT", "1", "no shift of the K dimension between cores"),
        Variable("INF_NAN_MODE_ENABLE", "1", "strict determinism needs the INF/NaN mode"),
        Variable("HCCL_BUFFSIZE", "200", "the size of HCCL's buffer decides how messages are split"),
        Variable("PYTHONHASHSEED", "0", "no order of a set may depend on the process"),
    ),
    unset=(
        Unset("HCCL_ALGO", "an algorithm of its own contradicts HCCL_DETERMINISTIC=strict"),
        Unset("HCCL_OP_EXPANSION_MODE", "AIV gives way to determinism, and only the default is tested with it"),
        Unset("ASCEND_RT_VISIBLE_DEVICES", "it would change the topology behind the plan"),
    ),
    pod_variables=common.POD_VARIABLES,
    middleware=None,
    processes=("guard",),
    gate_widths=(2, 8, 16),
    default_requests=(("cpu", "50m"), ("memory", "128Mi")),
    shared_memory="64Mi",
)
