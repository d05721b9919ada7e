"""Every state times every fault: a divergence is recorded, told and acted on, or the status says why not."""

from __future__ import annotations

import pytest
from fleet import Fleet
from journeys import resource
from matrix import ALL, STATES, STRIKES, State, Strike, World

SETTLED_LOOKS = 2
"""From a fault's first wrong answer that a probe sees to isolation, where all is settled: one to ask, one to act."""
MOST_LOOKS = 2 * SETTLED_LOOKS


def told(world: World, name: str) -> bool:
    """Return whether the status says of a pod that it diverged."""
    index = int(name.split("-")[1])
    said = str(world.condition("OutputsInvariant").get("message", ""))
    return world.condition("OutputsInvariant").get("status") == "False" and f"replica {index}" in said


def healthy(world: World, strike: Strike) -> list[str]:
    return [name for name in world.serving() if name not in strike.wrong and name not in world.fleet.answers]


def claims_hold(world: World, looks: int) -> None:
    """Hold what the status claims against what there is."""
    for row in world.status.get("replicaStates", []):
        pod = world.pod(f"a-{row['index']}-0")
        if row["state"] == "Isolated" and pod is not None and pod["metadata"]["uid"] == row.get("podUID"):
            assert pod["metadata"]["labels"]["detinf.io/serving"] == "false", row
    if looks and world.condition("OutputsInvariant").get("status") == "True":
        assert not [name for name in world.serving() if name in world.fleet.answers], "proven, and it answers wrong"


@pytest.mark.parametrize("strike", STRIKES, ids=lambda item: item.name)
@pytest.mark.parametrize("state", STATES, ids=lambda item: item.name)
async def test_fault_in_a_state_is_recorded_told_and_acted_on_or_the_status_says_why_not(
    state: State, strike: Strike
) -> None:
    world = World(Fleet())
    world.fleet.api.put(resource(replicas=3))
    await state.enter(world)
    strike.strike(world)
    world.fleet.tick()
    serving = [name for name in strike.wrong if name in world.serving()]
    boots = {name: world.boot(name) for name in serving}
    assert serving or strike.gated, "the cell has no force: nobody wrong serves"
    looks = 0
    isolated: set[str] = set()
    while looks < MOST_LOOKS:
        looks += await world.look()
        claims_hold(world, looks)
        now_serving = world.serving()
        if serving and not strike.gated:
            assert now_serving, "an outage of our own making"
        for name in serving:
            if looks >= 2:
                assert told(world, name) or name not in now_serving, f"{name} was not told: {world.status}"
                boot = boots[name]
                stored = boot is not None and world.recorded(boot)
                assert stored or (state.unrecorded and "exceeded quota" in str(world.condition("Degraded"))), name
            if name not in now_serving:
                isolated.add(name)
        world.fleet.tick()
    if strike.gated:
        row = world.state(1)
        assert ALL[1] not in world.serving()
        assert row.get("state") in {"Failed", "Pending", "Starting", "Qualifying", "Draining"}, row
        assert world.condition("Ready")["status"] == "False"
        return
    for name in serving:
        if name in isolated:
            continue
        # It serves on: since nobody else could, or nobody was there to say that it is alone.
        assert (
            f"replica {name.split('-')[1]} diverged and goes on serving ("
            in world.condition("OutputsInvariant")["message"]
        )
        assert not healthy(world, strike), f"{name} serves on beside {healthy(world, strike)}: {world.status}"
