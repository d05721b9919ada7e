"""Clocks that step: a report of the boot that runs counts, and one of an earlier boot does not."""

from __future__ import annotations

from typing import Any

import pytest
from fleet import Fleet
from journeys import NAME, NAMESPACE
from steps import condition, fleet_with, reconcile, settle

from detinf.controller.gather import gather
from detinf.controller.observed import Observed
from detinf.documents import Report

STARTED_MS = 1_800_000_000_000


async def seen(change: dict[str, Any], *, restarts: int) -> Report | None:
    """Return what counts of replica 0's report, with these fields, after so many restarts of its engine."""
    fleet: Fleet = fleet_with(replicas=1)
    await settle(fleet)
    observed = await gather(fleet.api, fleet, NAMESPACE, NAME)
    assert isinstance(observed, Observed)
    (pod,) = observed.pods
    status = pod["status"]["containerStatuses"][0]
    status["restartCount"] = restarts
    status["state"]["running"]["startedAt"] = "2027-01-15T08:00:00Z"  # STARTED_MS
    (uid,) = observed.reports
    observed.reports[uid] = observed.reports[uid].model_copy(update=change)  # type: ignore[index]
    return observed.replicas[0].report


@pytest.mark.parametrize("stepped_ms", [700, 3_600_000])
async def test_clock_that_stepped_back_during_the_start_ignores_no_report(stepped_ms: int) -> None:
    back = {"boot_started_unix_ms": STARTED_MS - stepped_ms}
    assert await seen(back, restarts=0) is not None
    assert await seen(back | {"guard_runs": True}, restarts=3) is not None


async def test_report_of_a_boot_before_the_engine_that_runs_does_not_count() -> None:
    earlier = {"boot_started_unix_ms": STARTED_MS - 1}
    assert await seen(earlier, restarts=1) is None
    assert await seen({"boot_started_unix_ms": STARTED_MS}, restarts=1) is not None


async def test_clock_of_a_node_that_is_ahead_is_why_nothing_is_fresh() -> None:
    fleet = fleet_with()
    await settle(fleet)
    fleet.now -= 600  # the nodes dated what they saw by their own clocks
    fleet.busy |= {"a-0-0", "a-1-0"}
    await reconcile(fleet)
    found = condition(fleet, "OutputsInvariant")
    assert found["reason"] == "EvidenceStale"
    assert "the clock of replica 0, 1's node is ahead of the controller's: set them alike (NTP)" in found["message"]
