"""As vllm_ascend.ascend_config."""

from types import SimpleNamespace

_CONFIG = SimpleNamespace(weight_nz_mode=1, enable_matmul_allreduce=True)


def get_ascend_config() -> SimpleNamespace:
    """Return the one configuration."""
    return _CONFIG
