"""The real vLLM as the negative control, and with a fault of the tests' own as the positive one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800), pytest.mark.parametrize("engine", ["stock"], indirect=True)]

# Rounds by width: 3 x 16 + 4 x 8 + 10 x 2 = 100 comparisons.
ROUNDS = {2: 10, 8: 4, 16: 3}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as client:
        yield client


@pytest.fixture
def fault(engine: Any) -> Iterator[None]:
    """Switch the fault on in the running engine, and off afterwards."""
    engine.fault_file.touch()
    yield
    engine.fault_file.unlink()


@pytest.mark.parametrize("width", ROUNDS)
async def test_stock_engine_at_any_width_answers_bit_for_bit_as_alone(
    engine: Any, session: aiohttp.ClientSession, width: int
) -> None:
    seen = await engine.compare(session, width, ROUNDS[width], seed=width)

    assert seen.comparisons == width * ROUNDS[width]
    assert (seen.tokens, seen.logprobs) == (0, 0)


@pytest.mark.usefixtures("fault")
@pytest.mark.parametrize("width", ROUNDS)
async def test_fault_switched_on_changes_logprob_bits_and_not_one_token(
    engine: Any, session: aiohttp.ClientSession, width: int
) -> None:
    seen = await engine.compare(session, width, ROUNDS[width], seed=width)

    assert seen.tokens == 0
    assert seen.logprobs == seen.comparisons


async def test_fault_switched_off_again_leaves_no_trace(engine: Any, session: aiohttp.ClientSession) -> None:
    engine.fault_file.touch()
    assert (await engine.compare(session, 8, 1, seed=1)).logprobs
    engine.fault_file.unlink()

    assert (await engine.compare(session, 8, 1, seed=1)).logprobs == 0


async def test_every_kind_of_answer_names_its_boot(engine: Any, session: aiohttp.ClientSession) -> None:
    for path in ("/health", "/v1/models", "/metrics", "/nothing-here"):
        async with session.get(engine.url + path) as response:
            assert response.headers.getall("X-Detinf-Boot") == [engine.boot], path
    body: dict[str, Any] = {"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 3}
    for stream, wanted in ((False, "application/json"), (True, "text/event-stream")):
        async with session.post(f"{engine.url}/v1/completions", json=body | {"stream": stream}) as response:
            assert response.headers.getall("X-Detinf-Boot") == [engine.boot]
            assert response.content_type == wanted
            text = await response.text()
        if stream:
            assert text.rstrip().endswith("data: [DONE]")
        else:
            assert json.loads(text)["usage"]["completion_tokens"] == 3
