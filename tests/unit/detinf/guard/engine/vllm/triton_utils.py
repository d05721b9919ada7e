"""As vllm.triton_utils."""

from vllm import TEST

HAS_TRITON = bool(TEST.get("triton", True))
