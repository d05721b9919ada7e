"""As ``vllm serve``: plug-ins first, then the engine; then it would serve."""

import multiprocessing
import os
import pathlib
import sys


def say(file: str, call: str) -> None:
    """Log as a source file of the engine would; ``user`` is what a user wrote."""
    import vllm_ascend
    from vllm.logger import logger

    from vllm import TEST

    place = pathlib.Path(vllm_ascend.__file__).parent.parent / file
    exec(compile(call, str(place), "exec"), {"logger": logger, "user": TEST.get("user")})  # noqa: S102 - a stand-in


def main() -> None:
    """Start, say that users would be answered now, and wait."""
    from vllm.config import vllm_config
    from vllm.logger import logger
    from vllm.plugins import load_general_plugins

    from vllm import TEST

    load_general_plugins()
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        engine = AsyncLLM(vllm_config())
    except BaseException:
        for core in multiprocessing.active_children():  # as vLLM's finalizers do
            core.terminate()
        raise
    pathlib.Path(os.environ["TEST_FOLDER"], "serving").touch()
    for file, call in TEST.get("logged", []):
        say(file, call)
    for number in range(TEST.get("lines", 0)):
        logger.info("line %d of many", number)
    pathlib.Path(os.environ["TEST_FOLDER"], "said").touch()
    engine.core.join()
    sys.exit(1)


if __name__ == "__main__":
    main()
