"""As vllm_ascend.utils: its own operators are off where batch invariance is on."""

from vllm import TEST, envs


def enable_custom_op() -> bool:
    """Return whether layers call vLLM-Ascend's own operators."""
    return bool(TEST.get("custom_op", not envs.VLLM_BATCH_INVARIANT))
