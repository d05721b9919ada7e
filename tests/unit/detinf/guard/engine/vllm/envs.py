"""As vllm.envs of 0.23: the switch is an integer, and `true` is an error."""

import os

VLLM_BATCH_INVARIANT = bool(int(os.environ.get("VLLM_BATCH_INVARIANT", "0")))
