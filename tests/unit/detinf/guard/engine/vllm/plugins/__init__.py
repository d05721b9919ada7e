"""As vllm.plugins: every entry point is called, and an error is logged."""

import importlib.metadata

from vllm.logger import logger

_loaded = False


def load_general_plugins() -> None:
    """Load the plug-ins once for each process."""
    global _loaded  # noqa: PLW0603 - as in vLLM
    if _loaded:
        return
    _loaded = True
    for plugin in importlib.metadata.entry_points(group="vllm.general_plugins"):
        try:
            plugin.load()()
        except Exception:  # noqa: BLE001 - as vLLM does, which is the point
            logger.exception("Failed to load plugin %s", plugin.name)
