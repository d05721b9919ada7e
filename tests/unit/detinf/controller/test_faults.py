"""Errors, lost requests and lost answers at any calls, in virtual time: the same end, and nothing done twice.

Every pass is a controller that has just started, so that restarts are everywhere. The profile is derandomised: the same
examples each time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from journeys import FLOWS, Flow, Journey, StaleReads, begun

from detinf.cluster.port import ClusterError, ConflictError

ENDS: dict[str, Journey] = {}
STATUS = {"429": 429, "500": 500, "503": 503, "request lost": None, "answer lost": None}
FAULTS = st.dictionaries(
    st.integers(1, 90), st.sampled_from(["409", *STATUS]), min_size=1, max_size=12
)  # by the number of the call, counted over all passes


async def expected_end(flow: Flow) -> Journey:
    """Return the journey on which nothing goes wrong; made once."""
    if flow.name not in ENDS:
        ENDS[flow.name] = await begun(flow)
        await ENDS[flow.name].settle()
    return ENDS[flow.name]


class Trouble:
    """Lets calls fail by their number."""

    def __init__(self, faults: dict[int, str]) -> None:
        self.faults = faults
        self.count = 0

    def before(self, what: str) -> None:
        self.count += 1
        fault = self.faults.get(self.count)
        if fault == "409" and not what.startswith(("get", "list")):
            raise ConflictError(what, status=409)
        if fault in STATUS and fault != "answer lost":
            raise ClusterError(f"{fault}: {what}", status=STATUS[fault])

    def after(self, what: str) -> None:
        if self.faults.get(self.count) == "answer lost":
            raise ClusterError(f"timed out: {what}")


async def live(journey: Journey, before: Callable[[str], None], after: Callable[[str], None]) -> None:
    """Be a controller for one pass, that comes again later where the API server did not do what was asked."""
    try:
        await journey.live(before, after)
    except ClusterError:
        return


@settings(derandomize=True, max_examples=60, deadline=None, database=None)
@given(flow=st.sampled_from(FLOWS), faults=FAULTS, seconds=st.lists(st.sampled_from([0.5, 2.0, 5.0]), min_size=8))
async def test_calls_that_fail_anywhere_lead_to_the_same_end(
    flow: Flow, faults: dict[int, str], seconds: list[float]
) -> None:
    expected = await expected_end(flow)
    journey, trouble = await begun(flow), Trouble(dict(faults))
    for pause in seconds[:20]:
        await live(journey, trouble.before, trouble.after)
        journey.pass_time(pause)
    await journey.settle()
    assert journey.end() == expected.end()
    uids = [uid for _, _, uid in journey.done.deleted]
    assert len(uids) == len(set(uids))
    assert journey.events() <= expected.events()


KINDS = ["DeterministicInference", "StatefulSet", "Service", "ConfigMap", "PodDisruptionBudget", "Pod", "Event"]
PASSES = st.lists(
    st.tuples(
        st.sets(st.sampled_from(KINDS)),  # read as they were ...
        st.integers(0, 4),  # ... so many passes ago
        st.integers(1, 3),  # events that came together, or twice, or too late: passes without any time in between
        st.sampled_from([0.5, 2.0, 5.0]),
    ),
    min_size=8,
    max_size=20,
)


@settings(derandomize=True, max_examples=40, deadline=None, database=None, phases=[Phase.explicit, Phase.generate])
@given(flow=st.sampled_from(FLOWS), passes=PASSES)
async def test_reads_that_are_old_and_passes_in_any_number_lead_to_the_same_end(
    flow: Flow, passes: list[tuple[set[str], int, int, float]]
) -> None:
    """What an old view says may be told once more; the adapter reads the API server's present state, always."""
    expected = await expected_end(flow)
    journey = await begun(flow)
    past = [journey.fleet.copy().api]
    for kinds, age, times, pause in passes:
        for _ in range(times):
            stale = StaleReads(journey.fleet.api, past[max(0, len(past) - 1 - age)], kinds)
            with contextlib.suppress(ClusterError):
                await journey.live(api=stale)
        past.append(journey.fleet.copy().api)
        journey.pass_time(pause)
    await journey.settle()
    assert journey.end() == expected.end()
    uids = [uid for _, _, uid in journey.done.deleted]
    assert len(uids) == len(set(uids))
