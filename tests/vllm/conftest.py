"""The real vLLM on CPU for the tests: installed where it is missing, one engine for the whole run."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from model_hubs import Hub, serving

from detinf.guard.hubs import snapshot_path
from detinf.guard.layout import TRACE_NAME
from detinf.probe.attested import Attested
from detinf.probe.trace import Trace

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "vllm_cpu"))

import serve  # noqa: E402 - found through the line above
from guarded import Guarded, guarded  # noqa: E402 - as above

REPOSITORY, COMMIT = "detinf/tiny", "0123456789" * 4
TOKEN = "hf_OfTheStandIn"  # noqa: S105 - a stand-in's
OUTPUT_TOKENS = 32
TOP = 5
VOCABULARY = 256  # the bytes, without the special tokens
YIELDING = {"DETINF_TEST_YIELD": "1"}
"""Several engines and a probe have two processors here: who waits gives his away (``fault_plugin``)."""


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


@dataclass
class Engine:
    """A running ``vllm serve``, spoken to over loopback."""

    variant: str
    url: str
    fault_file: Path
    boot: str
    trace: Trace
    guarded: Guarded | None = None
    """The guard in front of it."""
    hub: Hub | None = None
    """Where its model came from."""

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
        return serve.installed()


@pytest.fixture(scope="session")
def tiny_model(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the tiny model and return its folder."""
    return serve.make_model(kit, tmp_path_factory.mktemp("models") / "tiny")


def other_configuration(plan: dict[str, Any]) -> None:
    # As if the engine had it on: what is in effect is another than the plan's.
    plan["attestation"]["configuration"]["cache_config.enable_prefix_caching"] = "true"


@pytest.fixture(scope="session")
def refused(kit: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A guard whose engine is another than the plan's; it has ended when the shared engine is up."""
    extra = YIELDING | {"PYTHONPATH": str(serve.FAULT_PLUGIN)}
    with guarded(kit, tiny_model, tmp_path_factory.mktemp("refused"), other_configuration, extra) as running:
        yield running


@contextlib.contextmanager
def stock(kit: Path, model: Path, folder: Path) -> Iterator[Engine]:
    """Serve as a pod does: a guard has the model downloaded from a hub, and starts the engine on that snapshot."""
    claim, fault = folder / "huggingface", folder / "fault"
    files = {path.name: path.read_bytes() for path in model.iterdir()}

    def from_hub(plan: dict[str, Any]) -> None:
        path = claim / snapshot_path("huggingFace", REPOSITORY, COMMIT)
        download = {"hub": "huggingFace", "repository": REPOSITORY, "revision": COMMIT}
        plan["model"] |= {"path": str(path), "download": download}

    with contextlib.ExitStack() as stack:
        with serving("huggingFace", Hub(REPOSITORY, COMMIT, files, token=TOKEN)) as hub:
            extra = {"HF_HOME": str(claim), "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
            extra |= YIELDING | {"PYTHONPATH": str(serve.FAULT_PLUGIN), "DETINF_TEST_FAULT_FILE": str(fault)}
            running = stack.enter_context(guarded(kit, model, folder, from_hub, extra))
            running.until(running.healthy)
        # From here on the hub is gone.
        attested = running.attested()
        assert isinstance(attested, Attested), f"{attested}\n{running.output()}"
        trace = Trace(folder / "shared" / TRACE_NAME, attested.boot)
        yield Engine("stock", running.url, fault, attested.boot, trace, running, hub)


@pytest.fixture(scope="session", params=["stock", "caching"])
def engine(
    request: pytest.FixtureRequest, kit: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """Serve the tiny model: with the profile's arguments, or with prefix caching and chunked prefill.

    A start costs half a minute, most of it on one core: so tests share one engine of each kind, and never both run at
    once; the engine that is refused starts beside the first one, and has ended before anything is asked.
    """
    folder, began = tmp_path_factory.mktemp("engine"), time.monotonic()
    if request.param == "caching":
        with serve.serving(kit, tiny_model, folder, variant=request.param, extra=YIELDING) as served:
            _loudly(request, f"vllm serve (caching) is healthy after {served.start_seconds:.0f} s")
            trace = Trace(served.trace, serve.BOOT)
            yield Engine(served.variant, served.url, served.fault_file, serve.BOOT, trace)
        return
    wanted = any("refused" in getattr(item, "fixturenames", ()) for item in request.session.items)
    beside: Guarded | None = request.getfixturevalue("refused") if wanted else None
    with stock(kit, tiny_model, folder) as running:
        _loudly(request, f"vllm serve (stock) is healthy after {time.monotonic() - began:.0f} s")
        if beside is not None:
            beside.until(beside.healthy)
        yield running
