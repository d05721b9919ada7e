"""vLLM's command line: ``vllm serve MODEL --flags``; and our own ``faults`` and ``make-model``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path

from aiohttp import web

from detinf.guard.addresses import listening
from detinf.guard.errors import RefusedError
from detinf.guard.layout import BOOT_VARIABLE, PLAN_VARIABLE, TRACE_VARIABLE
from detinf.guard.plan import read_plan
from detinf.guard.requests import Rules
from detinf_sim.faults import check_names
from detinf_sim.model import load_model, make_model
from detinf_sim.scheduler import Limits
from detinf_sim.server import Server, Settings

PLAIN_FLAGS = (
    "--dtype",
    "--tensor-parallel-size",
    "--seed",
    "--generation-config",
    "--max-logprobs",
    "--logprobs-mode",
    "--compilation-config",
    "--additional-config",
    "--distributed-executor-backend",
    "--middleware",
)
"""Flags of vLLM that are taken and change nothing here."""

SWITCHES = ("--enforce-eager", "--no-async-scheduling", "--enable-lora")


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = argparse.ArgumentParser(prog="vllm", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", allow_abbrev=False, help="serve a model folder under vLLM's API")
    serve.add_argument("model", type=Path)
    serve.add_argument("--host", default="0.0.0.0")  # noqa: S104 - vLLM's own default
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--served-model-name")
    serve.add_argument("--max-model-len", type=int, default=8192)
    serve.add_argument("--max-num-seqs", type=int, default=32)
    serve.add_argument("--max-num-batched-tokens", type=int, default=8192)
    serve.add_argument("--enable-chunked-prefill", action=argparse.BooleanOptionalAction, default=True)
    serve.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction, default=True)
    serve.add_argument("--block-size", type=int, default=128)
    serve.add_argument("--num-gpu-blocks-override", type=int, default=0)
    serve.add_argument("--speculative-config", type=json.loads, default={})
    serve.add_argument("--data-parallel-size", type=int, default=1)
    serve.add_argument("--api-server-count", type=int)
    serve.add_argument("--lora-modules", nargs="*", default=[])
    serve.add_argument("--enable-prompt-tokens-details", action="store_true")
    serve.add_argument("--fingerprint-mode", choices=["full", "hash", "custom", "none"], default="full")
    serve.add_argument("--fingerprint-value")
    for flag in PLAIN_FLAGS:
        serve.add_argument(flag)
    for flag in SWITCHES:
        serve.add_argument(flag, action="store_true")
    faults = commands.add_parser("faults", help="list or switch the faults of a running engine")
    faults.add_argument("action", choices=["list", "set", "clear"])
    faults.add_argument("names", nargs="*")
    faults.add_argument("--port", type=int, default=8000)
    model = commands.add_parser("make-model", help="write a model folder")
    model.add_argument("folder", type=Path)
    model.add_argument("--vocab-size", type=int, default=32_000)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    options = parser().parse_args(arguments)
    if options.command == "make-model":
        make_model(options.folder, options.vocab_size)
        print(f"wrote {options.folder}: a model with {options.vocab_size} token ids")
        return 0
    if options.command == "faults":
        return switch_faults(options.action, options.names, options.port)
    try:
        settings = settings_of(options)
        trace = os.environ.get(TRACE_VARIABLE)
        load_seconds = float(os.environ.get("DETINF_SIM_LOAD_SECONDS", "10"))
        Server(settings)  # what cannot be served is refused before the load, as by vLLM
        settings.trace = Path(trace) if trace else None
    except ValueError as error:
        print(f"vllm: {error}", file=sys.stderr)
        return 1
    return asyncio.run(serve(settings, options.host, options.port, load_seconds))


def settings_of(options: argparse.Namespace) -> Settings:
    """Return what a command line and the environment say.

    Raises:
        ValueError: for a model folder, a number or a fault that cannot be.
    """
    boot = os.environ.get(BOOT_VARIABLE, "")
    settings = Settings(
        model=load_model(options.model),
        served_name=options.served_model_name or str(options.model),
        limits=Limits(
            options.max_num_seqs,
            options.max_num_batched_tokens,
            options.max_model_len,
            options.enable_chunked_prefill,
            options.enable_prefix_caching,
            options.block_size,
            options.num_gpu_blocks_override,
            int(options.speculative_config.get("num_speculative_tokens", 0)),
        ),
        step_seconds=float(os.environ.get("DETINF_SIM_STEP_MS", "2")) / 1000,
        faults=check_names(filter(None, os.environ.get("DETINF_SIM_FAULTS", "").split(","))),
        boot=boot,
        # Without a guard nobody names the boot, and chance is the process's own.
        launch=None if boot else secrets.randbits(64),
        replica=int(os.environ.get("DETINF_SIM_REPLICA", "0")),
        token_details=options.enable_prompt_tokens_details,
        # vLLM's default; with several servers process_start_time_seconds disappears (measured on 0.32).
        api_servers=options.api_server_count or options.data_parallel_size,
        data_parallel=options.data_parallel_size,
        rules=rules_of(os.environ.get(PLAN_VARIABLE)),
        adapters=tuple(module.partition("=")[0] for module in options.lora_modules),
    )
    if options.fingerprint_mode == "custom":
        if not options.fingerprint_value:
            raise ValueError("--fingerprint-mode custom needs --fingerprint-value")
        settings.fingerprint = options.fingerprint_value
    return settings


def rules_of(plan: str | None) -> Rules | None:
    """Return which requests the plan of the guard serves; without a guard, or lists in its plan, all are.

    Raises:
        ValueError: for a plan that cannot be read.
    """
    if plan is None:
        return None
    try:
        listed = read_plan(Path(plan)).requests
    except RefusedError as error:
        raise ValueError(str(error)) from error
    return Rules(listed) if listed else None


async def serve(settings: Settings, host: str, port: int, load_seconds: float) -> int:
    """Load, as long as real engines would have us wait; then serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await asyncio.wait_for(stop.wait(), load_seconds)
    except TimeoutError:
        pass
    else:
        return 0
    runner = web.AppRunner(Server(settings).application(), handler_cancellation=True, shutdown_timeout=5)
    await runner.setup()
    with listening(host, port) as listener:
        try:
            await web.SockSite(runner, listener).start()
            print(f"simulated engine: serving {settings.served_name} on {host}:{port}", flush=True)
            await stop.wait()
        finally:
            await runner.cleanup()
    return 0


def switch_faults(action: str, names: list[str], port: int) -> int:
    """Talk to a running engine on this machine's loopback."""
    url = f"http://127.0.0.1:{port}/sim/faults"
    body = None if action == "list" else json.dumps(names if action == "set" else []).encode()
    request = urllib.request.Request(url, data=body, method="GET" if body is None else "PUT")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - loopback
            print(response.read().decode())
    except urllib.error.HTTPError as error:
        print(error.read().decode(), file=sys.stderr)
        return 1
    except OSError as error:
        print(f"faults: no engine answers on {url}: {error}", file=sys.stderr)
        return 1
    return 0
