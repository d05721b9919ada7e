"""As vllm_ascend.ascend_config."""

from types import SimpleNamespace

from vllm import TEST

_ASCEND_CONFIG = SimpleNamespace(
    **{"weight_nz_mode": 1, "enable_matmul_allreduce": True, "enable_flashcomm1": TEST.get("flashcomm1", False)}
    | TEST.get("additional_config", {})
)


def get_ascend_config() -> SimpleNamespace:
    """Return the one configuration."""
    return _ASCEND_CONFIG
