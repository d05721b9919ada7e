"""Whatever happens, in any order: what is claimed was done, what is fresh was read, and nothing of others changed."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import bad_days
import pytest
import structlog
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

SEQUENCES = int(os.environ.get("DETINF_SEQUENCES", "10000"))
PARTS = 2 * len(bad_days.EVENTS)
"""Each is a test of its own, so that several processes run them; each begins with another event, or another variant."""
CHOICE = st.integers(0, 99)
STEPS = st.lists(st.tuples(st.integers(0, len(bad_days.EVENTS) - 1), CHOICE), max_size=5)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Any:
    """Log nothing: ten thousand days are many lines."""
    before = structlog.get_config()
    structlog.configure(processors=[_drop])
    yield
    structlog.configure(**before)


def _drop(*_: Any) -> Any:
    raise structlog.DropEvent


@pytest.mark.parametrize("part", range(PARTS))
def test_any_sequence_of_bad_events_leaves_every_claim_true(part: int) -> None:
    loop = asyncio.new_event_loop()

    async def live(day: bad_days.Day, steps: list[tuple[int, int]]) -> None:
        for number, choice in steps:
            bad_days.EVENTS[number](day, choice)
            await day.look()
        for _ in range(2):
            await day.look()

    @settings(
        derandomize=True,
        max_examples=-(-SEQUENCES // PARTS),
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
    )
    @given(choice=CHOICE, steps=STEPS)
    def run(choice: int, steps: list[tuple[int, int]]) -> None:
        second, first = divmod(part, len(bad_days.EVENTS))
        begun = [(first, 2 * choice + second), *steps]
        loop.run_until_complete(live(bad_days.begin(loop.run_until_complete), begun))

    try:
        run()
    finally:
        loop.close()
