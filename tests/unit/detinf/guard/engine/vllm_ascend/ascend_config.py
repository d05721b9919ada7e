"""As vllm_ascend.ascend_config."""

from types import SimpleNamespace
from typing import Any

from vllm import TEST


def members(values: dict[str, Any]) -> SimpleNamespace:
    """Return values as attributes; a mapping in them is a configuration of its own."""
    return SimpleNamespace(**{key: members(item) if isinstance(item, dict) else item for key, item in values.items()})


DEFAULTS: dict[str, Any] = {
    "weight_nz_mode": 1,
    "enable_matmul_allreduce": True,
    "enable_flashcomm1": TEST.get("flashcomm1", False),
    "ascend_compilation_config": {"fuse_qknorm_rope": TEST.get("fuse_qknorm_rope", False)},
}
_ASCEND_CONFIG = members(DEFAULTS | TEST.get("additional_config", {}))


def get_ascend_config() -> SimpleNamespace:
    """Return the one configuration."""
    return _ASCEND_CONFIG
