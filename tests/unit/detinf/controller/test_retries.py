"""When what was refused is tried again."""

from __future__ import annotations

from typing import Any

from detinf.cluster.port import InvalidError
from detinf.controller.actions import Apply, Undone
from detinf.controller.retries import FIRST_SECONDS, LONGEST_SECONDS, Retries

KEY, ABOUT = ("ns", "a"), ("Service", "a")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def service(port: int = 1, version: str | None = None) -> dict[str, Any]:
    metadata = {"name": "a", "namespace": "ns"} | ({"resourceVersion": version} if version else {})
    return {"kind": "Service", "metadata": metadata, "spec": {"port": port}}


def refused(action: Apply) -> Undone:
    return Undone(action, InvalidError("no"))


def test_same_refusal_is_tried_less_and_less_often_and_never_rarer_than_the_limit() -> None:
    clock = Clock()
    retries, action = Retries(clock), Apply(service())
    waits = []
    for _ in range(8):
        retries.refused(KEY, refused(action), service(version="5"))
        began = clock.now
        while retries.held(KEY, action, service(version="5")) is not None:
            clock.now += 0.5
        waits.append(clock.now - began)
    assert waits[:4] == [FIRST_SECONDS, 2 * FIRST_SECONDS, 4 * FIRST_SECONDS, 8 * FIRST_SECONDS]
    assert waits[-1] == LONGEST_SECONDS


def test_what_is_wanted_otherwise_or_was_changed_by_somebody_is_tried_at_once() -> None:
    retries, action = Retries(Clock()), Apply(service())
    retries.refused(KEY, refused(action), service(version="5"))
    assert retries.held(KEY, action, service(version="5")) is not None
    assert retries.held(KEY, Apply(service(port=2)), service(version="5")) is None
    assert retries.held(KEY, action, service(version="6")) is None
    assert retries.held(KEY, action, None) is None
    assert retries.held(("ns", "b"), action, service(version="5")) is None


def test_what_was_done_or_is_no_longer_wanted_is_forgotten() -> None:
    retries, action = Retries(Clock()), Apply(service())
    retries.refused(KEY, refused(action), None)
    retries.keep(KEY, {ABOUT})
    assert retries.held(KEY, action, None) is not None
    retries.keep(KEY, set())
    assert retries.held(KEY, action, None) is None
    retries.keep(KEY, set())
