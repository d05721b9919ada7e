"""The controller killed before and after every single call to the API server, reads included, in every flow.

Killed means: what comes next is a controller that remembers nothing. It has no memory but the cluster, so being killed
after a call is the same as being killed before the next one; both are done all the same.
"""

from __future__ import annotations

import pytest
from fleet import Fleet
from interrupted import KilledError, is_part_of
from journeys import FLOWS, RESOURCE_KEY, Flow, Journey, begun

EVERY_FLOW = pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)


def assert_same(seen: Journey, expected: Journey, when: str) -> None:
    """Hold an interrupted journey against the one that was not: its end, and that nothing happened twice on the way."""
    assert seen.end() == expected.end(), when
    # A state that ended while the controller was away was never told; nothing is told twice.
    assert seen.events() <= expected.events(), when
    assert set(seen.events()) == set(expected.events()), when
    uids = [uid for _, _, uid in seen.done.deleted]
    assert len(uids) == len(set(uids)), f"{when}: deleted twice"
    flips = expected.done.flips()
    for condition, said in seen.done.flips().items():
        assert is_part_of(said, flips[condition]), f"{when}: {condition} went {said}, and not {flips[condition]}"


class Killer:
    """Kills a life before or after its call of a number, counted from 1; the dead make no more calls."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at, self.is_after = at, after
        self.count = 0
        self.dead = ""

    def before(self, what: str) -> None:
        self.count += 1
        if self.dead or (not self.is_after and self.count == self.at):
            self.dead = self.dead or f"before call {self.count} of its pass, {what}"
            raise KilledError

    def after(self, what: str) -> None:
        if self.is_after and self.count == self.at:
            self.dead = f"after call {self.count} of its pass, {what}"
            raise KilledError


async def killed_at(start: Journey, at: int, *, after: bool) -> tuple[Journey, str]:
    """Return the journey whose next pass was killed, and when that was; no words where it has fewer calls."""
    journey, killer = start.copy(), Killer(at, after=after)
    try:
        await journey.live(killer.before, killer.after)
    except KilledError:
        journey.pass_time()  # it takes a moment until there is another one
    return journey, killer.dead


@EVERY_FLOW
async def test_controller_killed_at_any_call_comes_to_the_same_end(flow: Flow) -> None:
    expected = await begun(flow)
    starts = [expected.copy()]
    ends: dict[tuple[object, ...], Journey] = {}
    await expected.settle()
    kills = 0
    quiet = 0
    while quiet < 2:
        start = starts[-1]
        for after in (False, True):
            at = 0
            while True:
                at += 1
                journey, when = await killed_at(start, at, after=after)
                if not when:
                    break
                kills += 1
                state = journey.state()
                if state not in ends:  # a life that was killed while it read has changed nothing
                    await journey.settle()
                    ends[state] = journey
                assert_same(ends[state], expected, f"pass {len(starts)}: {when}")
        following = start.copy()
        wrote = await following.live()
        following.pass_time()
        quiet = 0 if wrote or not flow.ended(following.fleet) else quiet + 1
        starts.append(following)
    assert kills >= 2, "the enumeration has no force"


@EVERY_FLOW
async def test_controller_killed_after_each_of_its_writes_comes_to_the_same_end(flow: Flow) -> None:
    """No life gets further than one write: every kill of the other test, in one run."""
    expected = await begun(flow)
    await expected.settle()
    journey = await begun(flow)

    def killed_when_it_has_written(_what: str) -> None:
        if len(journey.fleet.api.writes) > written:
            raise KilledError

    for _ in range(300):
        written = len(journey.fleet.api.writes)
        try:
            await journey.live(after=killed_when_it_has_written)
        except KilledError:
            continue
        if flow.ended(journey.fleet) and journey.end() == expected.end():
            break
        journey.pass_time()
    assert_same(journey, expected, "lives of one write")


@EVERY_FLOW
async def test_nothing_is_written_in_ten_minutes_after_the_end_and_by_no_restarted_controller(flow: Flow) -> None:
    journey = await begun(flow)
    await journey.settle()
    before = list(journey.fleet.api.writes)
    for _ in range(40):
        assert not await journey.live()  # each is a restarted controller's first look
        journey.pass_time(15.0)
    assert journey.fleet.api.writes == before


class Deleter:
    """Deletes the resource, as its user, before the controller's call of a number."""

    def __init__(self, fleet: Fleet, at: int) -> None:
        self.fleet, self.at = fleet, at
        self.count = 0

    def before(self, _what: str) -> None:
        self.count += 1
        if self.count == self.at and RESOURCE_KEY in self.fleet.api.objects:
            self.fleet.api.remove(*RESOURCE_KEY)


@EVERY_FLOW
async def test_resource_deleted_at_any_call_leaves_nothing_but_events(flow: Flow) -> None:
    start = await begun(flow)
    for number in (1, 2):
        at = 0
        while True:
            at += 1
            journey = start.copy()
            deleter = Deleter(journey.fleet, at)
            await journey.live(deleter.before)
            if deleter.count < at:
                break
            journey.fleet.tick()
            assert not await journey.live()
            left = {kind for kind, _, _ in journey.fleet.api.objects}
            assert left <= {"Event"}, f"deleted before call {at} of pass {number}"
        await start.live()
        start.pass_time()
