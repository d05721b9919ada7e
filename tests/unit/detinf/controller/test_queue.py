"""The queue: nothing twice at once, nothing lost, failures further and further apart."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from detinf.controller.queue import LONGEST_SECONDS, KeyQueue


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def queue() -> tuple[KeyQueue[str], Clock]:
    clock = Clock()
    return KeyQueue(clock, jitter=lambda: 0.0), clock


def test_key_that_is_added_twice_is_taken_once() -> None:
    keys, _ = queue()
    keys.add("a")
    keys.add("a")
    assert keys.take() == "a"
    assert keys.take() is None


def test_key_in_work_is_not_handed_out_and_comes_again_when_done() -> None:
    keys, _ = queue()
    keys.add("a")
    assert keys.take() == "a"
    keys.add("a")
    assert keys.take() is None
    keys.done("a")
    assert keys.take() == "a"


def test_earlier_of_two_times_counts() -> None:
    keys, clock = queue()
    keys.add("a", after=100)
    keys.add("a", after=5)
    clock.now = 4.9
    assert keys.take() is None
    clock.now = 5.0
    assert keys.take() == "a"
    keys.done("a")
    clock.now = 200
    assert keys.take() is None


def test_failures_back_off_and_success_forgets_them() -> None:
    keys, clock = queue()
    delays = []
    for _ in range(12):
        keys.add("a", after=0)
        while keys.take() is None:
            clock.now += 1
        delays.append(keys.failed("a"))
        clock.now += delays[-1]
    assert delays[:4] == [1.0, 2.0, 4.0, 8.0]
    assert delays[-1] == LONGEST_SECONDS
    assert keys.take() == "a"
    keys.done("a")
    keys.add("a")
    assert keys.take() == "a"
    assert keys.failed("a") == 1.0


def test_failure_that_an_event_met_before_its_wait_was_over_doubles_nothing() -> None:
    keys, clock = queue()
    keys.add("a")
    keys.take()
    first = keys.failed("a")
    for _ in range(50):
        clock.now += first / 100
        keys.add("a")
        assert keys.take() == "a"
        assert keys.failed("a") <= first
    clock.now += first
    keys.add("a")
    keys.take()
    assert keys.failed("a") == 2 * first


def test_server_that_asks_for_patience_gets_it() -> None:
    keys, _ = queue()
    keys.add("a")
    keys.take()
    assert keys.failed("a", at_least=30) == 30


async def test_waiting_worker_is_woken_by_an_add() -> None:
    keys: KeyQueue[str] = KeyQueue(asyncio.get_running_loop().time)
    waiting = asyncio.create_task(keys.get())
    await asyncio.sleep(0)
    keys.add("a")
    assert await waiting == "a"


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abc"), st.integers(0, 5)),
        st.tuples(st.sampled_from(["take", "done", "failed"]), st.sampled_from("abc"), st.just(0)),
        st.tuples(st.just("wait"), st.just("a"), st.integers(0, 400)),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_no_key_is_lost_or_worked_on_twice_at_once(actions: list[tuple[str, str, int]]) -> None:
    keys, clock = queue()
    working: set[str] = set()
    owed: set[str] = set()
    for action, key, number in actions:
        if action == "add":
            keys.add(key, after=number)
            owed.add(key)
        elif action == "wait":
            clock.now += number
        elif action == "take":
            taken = keys.take()
            if taken is not None:
                assert taken not in working
                working.add(taken)
                owed.discard(taken)
        elif key in working:
            working.discard(key)
            if action == "done":
                keys.done(key)
            else:
                keys.failed(key)
                owed.add(key)
    for key in sorted(working):
        keys.done(key)
    clock.now += 10_000
    seen = set()
    while (key_or_none := keys.take()) is not None:
        seen.add(key_or_none)
    assert owed <= seen
