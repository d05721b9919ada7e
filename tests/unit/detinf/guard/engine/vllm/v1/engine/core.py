"""As vLLM's engine core: plug-ins are loaded inside it, then workers, then the scheduler."""

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any


def run_worker(rank: int, config: Any, ready: Connection) -> None:
    """Be a worker until the engine core ends."""
    import os

    from vllm import TEST
    from vllm.plugins import load_general_plugins

    os.environ.update(TEST.get("environment", {}).get(str(rank), {}))
    for name in TEST.get("unset", {}).get(str(rank), []):
        os.environ.pop(name, None)
    TEST["ops"] = rank not in TEST.get("ranks_without_ops", [])
    load_general_plugins()
    from vllm_ascend.worker.worker import NPUWorker

    worker = NPUWorker(config, rank)
    worker.init_device()
    worker.compile_or_warm_up_model()
    ready.send("ready")
    multiprocessing.Event().wait()


def run_engine_core(config: Any, ready: Connection) -> None:
    """Be the engine core until its API server ends; several cores are shown without workers."""
    from vllm import TEST
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    spawn = multiprocessing.get_context("spawn")
    for rank in () if TEST.get("cores") else range(config.parallel_config.tensor_parallel_size):
        ours, theirs = spawn.Pipe()
        spawn.Process(target=run_worker, args=(rank, config, theirs), daemon=True).start()
        theirs.close()
        ours.recv()
    from vllm.v1.core.sched.scheduler import Scheduler

    Scheduler(config)
    ready.send("ready")
    multiprocessing.Event().wait()
