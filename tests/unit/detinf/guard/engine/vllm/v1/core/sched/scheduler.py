"""As vLLM's scheduler, as far as it is hooked."""

from typing import Any


class Scheduler:
    """Schedules nothing."""

    def __init__(self, vllm_config: Any) -> None:
        """Keep the configuration."""
        self.vllm_config = vllm_config

    def schedule(self) -> None:
        """Schedule nothing."""

    def _preempt_request(self, request: Any) -> None:
        """Preempt nothing."""
