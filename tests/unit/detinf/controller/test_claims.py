"""What is claimed of divergences, proof and records, and in which words."""

from __future__ import annotations

from typing import Any

from composed import MODEL, look, restart, serving, world_of
from journeys import NAME, NAMESPACE, change
from steps import QUOTA, condition, events, fleet_with, reconcile, records, refuse, status

from detinf.api import names


async def test_divergence_on_record_of_the_boot_that_runs_counts_when_the_probe_lost_its_books() -> None:
    world = await world_of(1)
    fleet = world.fleet
    fleet.answers["a-0-0"] = 1
    fleet.tick()
    await world.looks(3)
    assert condition(fleet, "OutputsInvariant")["status"] == "False"
    fleet.answers.clear()
    fleet.lives[world.pod("a-0-0")["metadata"]["uid"]]["evidence"] = None
    await world.looks(3)
    assert world.recorded(world.boot("a-0-0"))
    assert condition(fleet, "OutputsInvariant")["status"] == "False", condition(fleet, "OutputsInvariant")


async def test_event_of_an_agreed_baseline_waits_for_its_record() -> None:
    fleet = fleet_with()
    refuse(fleet, QUOTA, ("ConfigMap", "-baseline-"))
    for _ in range(10):
        await reconcile(fleet)
        fleet.tick()
    assert "RevisionQualified" not in events(fleet)


async def test_status_names_no_record_that_is_not_stored() -> None:
    world = await world_of(2)
    fleet = world.fleet
    refuse(fleet, QUOTA, ("ConfigMap", "-evidence-"))
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await world.looks(3)
    named = [row["evidence"] for row in status(fleet)["replicaStates"] if "evidence" in row]
    assert [name for name in named if name not in records(fleet, "evidence")] == []


async def test_record_that_met_a_conflict_is_not_taken_for_stored() -> None:
    """A quota that is being counted is a 409 on a create, too: the adapter says None, and nothing has the name."""
    world = await world_of(2)
    fleet = world.fleet
    create = type(fleet.api).create

    async def create_(manifest: dict[str, Any]) -> Any:
        if "-evidence-" in manifest["metadata"]["name"]:
            return None
        return await create(fleet.api, manifest)

    fleet.api.create = create_  # type: ignore[method-assign]
    fleet.answers["a-1-0"] = 1
    uid = world.pod("a-1-0")["metadata"]["uid"]
    fleet.tick()
    await world.looks(30)
    assert records(fleet, "evidence") == []
    assert world.pod("a-1-0")["metadata"]["uid"] == uid, "it was replaced, and its evidence is nowhere"


async def test_divergence_of_what_scales_to_0_is_told() -> None:
    world = await world_of(2)
    fleet = world.fleet
    change(fleet, replicas=0)
    fleet.answers |= {"a-0-0": 1, "a-1-0": 1}
    fleet.tick()
    for _ in range(3):
        await look(world)
        assert condition(fleet, "OutputsInvariant")["status"] == "False", condition(fleet, "OutputsInvariant")


async def test_words_of_several_that_diverge_beside_another_fingerprint_are_true() -> None:
    world = await world_of(3, topology={"drift": "Warn"})
    fleet = world.fleet
    fleet.identical = {"chip", "driver"}
    fleet.hardware["a-2-0"] = {"driver": "25.9"}
    fleet.restart("a-2-0")
    await world.looks(20)
    assert len(serving(fleet)) == 3
    fleet.answers |= {"a-0-0": 1, "a-1-0": 1}
    fleet.tick()
    await world.looks(4)
    said = condition(fleet, "OutputsInvariant")["message"]
    assert "no other replica of its fingerprint serves" not in said, said


async def test_restart_under_an_invalid_spec_is_what_progressing_says() -> None:
    world = await world_of(2)
    fleet = world.fleet
    change(fleet, engine={"extraArgs": ["--seed", "1"]})
    restart(fleet)
    await world.looks(2)
    before = {pod["metadata"]["uid"] for pod in fleet.pods()}
    await world.looks(30)
    replaced = {pod["metadata"]["uid"] for pod in fleet.pods()} != before
    words = condition(fleet, "Progressing")["message"]
    assert not (replaced and "nothing is changed" in words), words


async def test_restart_without_a_plan_does_not_say_that_it_rolls() -> None:
    world = await world_of(2)
    from dataclasses import replace

    from matrix import OLDER_PROFILES

    world.settings = replace(world.settings, profiles=OLDER_PROFILES)
    world._reconciler = None
    restart(world.fleet)
    await world.looks(30)
    assert "runs another revision" not in condition(world.fleet, "ReplicasAvailable")["message"]


async def test_pass_of_tomorrow_is_no_fresh_proof() -> None:
    """The clock of a node was a day ahead when its probe passed last, and its probe has hung since."""
    world = await world_of(1)
    fleet = world.fleet
    pod = world.pod("a-0-0")
    fleet.lives[pod["metadata"]["uid"]]["asked"] = fleet.now + 86400
    fleet.busy.add("a-0-0")
    fleet.tick(3 * 3600)
    await world.looks(2)
    assert condition(fleet, "OutputsInvariant")["status"] != "True"


async def test_common_mode_is_not_said_of_a_replica_that_nobody_heard() -> None:
    world = await world_of(3)
    fleet = world.fleet
    report = fleet.report

    async def fetch(pod: dict[str, Any]) -> Any:
        return None if pod["metadata"]["name"] == "a-2-0" else report(pod)

    fleet.fetch = fetch  # type: ignore[method-assign]
    fleet.answers |= {"a-0-0": 1, "a-1-0": 1}
    fleet.tick()
    await world.looks(4)
    assert "all replicas that serve diverge" not in condition(fleet, "OutputsInvariant")["message"]


async def test_name_of_a_record_that_is_somebody_elses_is_not_given_as_evidence() -> None:
    world = await world_of(2)
    fleet = world.fleet
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    name = names.evidence_name(NAME, fleet.report(world.pod("a-1-0")).evidence.digest())
    fleet.api.put({"kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE, "labels": {}}, "data": {}})
    await world.looks(3)
    assert name not in str(status(fleet)["replicaStates"])


async def test_replica_that_is_not_to_exist_and_still_serves_is_part_of_the_proof() -> None:
    """It stays until the kept one serves as wanted; meanwhile users are sent to it, and its probe hangs."""
    world = await world_of(2)
    fleet = world.fleet
    fleet.gating.add("a-0-0")
    change(fleet, replicas=1, model=MODEL)
    await world.looks(3)
    fleet.busy.add("a-1-0")
    fleet.tick(1000)
    await world.looks(2)
    assert serving(fleet) == ["a-1-0"]
    assert condition(fleet, "OutputsInvariant")["status"] == "Unknown"
