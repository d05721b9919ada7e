"""As vLLM's AsyncLLM: made when the engine core is ready."""

import multiprocessing
import os
import pathlib
import time
from typing import Any

from vllm import TEST
from vllm.v1.engine.core import run_engine_core


class AsyncLLM:
    """The API server's engine."""

    def __init__(self, vllm_config: Any) -> None:
        """Start the engine core and wait for it."""
        self.vllm_config = vllm_config
        spawn = multiprocessing.get_context("spawn")
        for _ in range(TEST.get("cores", 1)):
            ours, theirs = spawn.Pipe()
            self.core = spawn.Process(target=run_engine_core, args=(vllm_config, theirs))
            self.core.start()
            theirs.close()
            try:
                ours.recv()
            except EOFError as error:
                for other in multiprocessing.active_children():
                    other.terminate()
                raise RuntimeError("Engine core initialization failed. See root cause above.") from error
        for path, text in TEST.get("written", {}).items():  # once the guard has looked for the second time
            while not pathlib.Path(os.environ["DETINF_SHARED"], "attestation-guard.json").exists():
                time.sleep(0.01)
            pathlib.Path(path).write_text(text)
