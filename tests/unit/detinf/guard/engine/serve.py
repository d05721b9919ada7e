"""As ``vllm serve``: plug-ins first, then the engine; then it would serve."""

import os
import pathlib
import sys


def main() -> None:
    """Start, say that users would be answered now, and wait."""
    from vllm.config import vllm_config
    from vllm.logger import logger
    from vllm.plugins import load_general_plugins

    from vllm import TEST

    load_general_plugins()
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM(vllm_config())
    pathlib.Path(os.environ["TEST_FOLDER"], "serving").touch()
    if line := TEST.get("log"):
        logger.warning(line)
    engine.core.join()
    sys.exit(1)


if __name__ == "__main__":
    main()
