"""Specs that cannot be carried out: what runs is watched under the last one that could."""

from __future__ import annotations

from typing import Any

import pytest
from fleet import Fleet
from journeys import NAME, NAMESPACE, change
from steps import (
    condition,
    fleet_with,
    isolate,
    label,
    reconcile,
    settle,
    status,
)


def break_by_argument(fleet: Fleet) -> None:
    change(fleet, engine={"extraArgs": ["--seed", "1"]})


def break_by_profile(fleet: Fleet) -> None:
    change(fleet, engine={"profile": "no-such-engine"})


def break_beyond_reading(fleet: Fleet) -> None:
    change(fleet, replicas="many", quarantine={"policy": "Perhaps"})


@pytest.mark.parametrize("broken", [break_by_argument, break_by_profile, break_beyond_reading])
async def test_divergence_under_an_invalid_spec_is_told_isolated_and_replaced_as_the_last_valid_one_has_it(
    broken: Any,
) -> None:
    fleet = fleet_with()
    await settle(fleet)
    broken(fleet)
    await reconcile(fleet)
    assert condition(fleet, "SpecValid")["status"] == "False"
    uid = fleet.api.objects["Pod", NAMESPACE, "a-1-0"]["metadata"]["uid"]
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await isolate(fleet)
    assert label(fleet, "a-1-0") == "false"
    assert condition(fleet, "OutputsInvariant")["reason"] == "DivergenceDetected"
    assert condition(fleet, "Degraded")["status"] == "True"
    fleet.answers.clear()
    await settle(fleet)
    pod = fleet.api.objects["Pod", NAMESPACE, "a-1-0"]
    assert pod["metadata"]["uid"] != uid
    assert pod["status"]["conditions"][0]["status"] == "True"
    assert condition(fleet, "OutputsInvariant")["status"] == "True"
    assert condition(fleet, "Ready")["reason"] == "InvalidSpec"


async def test_child_that_is_deleted_under_an_invalid_spec_comes_back_as_the_last_valid_one_has_it() -> None:
    fleet = fleet_with()
    await settle(fleet)
    break_by_argument(fleet)
    await reconcile(fleet)
    fleet.api.remove("StatefulSet", NAMESPACE, "a-1")
    fleet.api.remove("Service", NAMESPACE, NAME)
    await settle(fleet)
    assert status(fleet)["readyReplicas"] == 2
    assert ("Service", NAMESPACE, NAME) in fleet.api.objects


async def test_spec_whose_profile_the_chart_took_away_is_watched_as_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import steps

    fleet = fleet_with()
    await settle(fleet)
    from dataclasses import replace

    left = {name: profile for name, profile in steps.SETTINGS.profiles.items() if name != "simulated"}
    monkeypatch.setattr(steps, "SETTINGS", replace(steps.SETTINGS, profiles=left))
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await isolate(fleet)
    assert label(fleet, "a-1-0") == "false"
    assert condition(fleet, "SpecValid")["status"] == "False"
    assert condition(fleet, "OutputsInvariant")["reason"] == "DivergenceDetected"
    fleet.answers.clear()
    await settle(fleet)
    assert status(fleet)["readyReplicas"] == 2
    assert status(fleet)["revision"]


async def test_what_an_invalid_spec_asks_for_waits_for_its_correction() -> None:
    fleet = fleet_with()
    await settle(fleet)
    change(fleet, replicas=3, engine={"profile": "no-such-engine"})
    await settle(fleet)
    assert len(fleet.pods()) == 2
    change(fleet, engine={})
    await settle(fleet)
    assert len(fleet.pods()) == 3
    assert condition(fleet, "Ready")["status"] == "True"
