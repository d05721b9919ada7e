"""Twenty cells of the matrix of states times strikes, on real pods: recorded, told, and acted on or said why not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import matrix
import pytest
from bad_scene import TOLD_SECONDS, BadScene, condition_of, is_isolated, is_serving, looks
from bad_states import REPLICAS, STATES, STRIKES, UNRECORDED, WRONG, Struck, scaled_back
from scenario import NAME

pytestmark = pytest.mark.e2e
SEED, COUNT = 12, 20
SETTLED = ("settled", "one replica")
DRAWN = random.Random(SEED).sample(
    [(state.name, strike.name) for state in matrix.STATES for strike in matrix.STRIKES], COUNT
)
CELLS = sorted(DRAWN, key=lambda cell: cell != SETTLED)
"""The one that all are held against comes first; the rest as they were drawn."""
FINAL = ("all replicas that serve diverge", "no other replica of its fingerprint serves", "could not tell")
"""Why a replica that diverged goes on serving until a person acts."""
BLIND_LOOKS = 10
"""A replica that became ready is in the Service some looks later."""
seconds: dict[tuple[str, str], float] = {}


def row(status: dict[str, Any], index: int) -> dict[str, Any]:
    return next((item for item in status.get("replicaStates", []) if item["index"] == index), {})


def claims_hold(status: dict[str, Any], pods: dict[str, Any]) -> None:
    """Hold what the status claims against the pods that were looked at after it."""
    for item in status.get("replicaStates", []):
        pod = pods.get(f"{NAME}-{item['index']}-0")
        if item["state"] == "Isolated" and pod is not None and pod["metadata"]["uid"] == item.get("podUID"):
            assert is_isolated(pod), item


def is_told(status: dict[str, Any], index: int) -> bool:
    said = condition_of(status, "OutputsInvariant")
    named = f"replica {index}" in str(said.get("message", "")) or "diverged" in row(status, index).get("message", "")
    return said.get("status") == "False" and named


def follow(scene: BadScene, struck: Struck, *, unrecorded: bool) -> float:
    """Look on until everything about the divergences is done; return the seconds until the last was."""
    told: set[int] = set()
    recorded: set[int] = set()
    blind, status = 0, {}
    names = {f"{NAME}-{index}-0" for index in struck.wrong}
    for now in looks(TOLD_SECONDS):
        status = scene.status()
        pods = scene.pods()
        claims_hold(status, pods)
        healthy = [name for name, pod in pods.items() if is_serving(pod) and name not in names]
        blind = blind + 1 if healthy and not scene.endpoints() else 0
        assert blind < BLIND_LOOKS, f"an outage of our own making: {healthy} are ready; {status}"
        boots = {item["metadata"]["labels"].get("detinf.io/boot") for item in scene.records("evidence")}
        quota = unrecorded and "exceeded quota" in condition_of(status, "Degraded").get("message", "")
        acted: set[int] = set()
        for index, (uid, boot) in struck.wrong.items():
            pod = pods.get(f"{NAME}-{index}-0")
            out = pod is None or pod["metadata"]["uid"] != uid or is_isolated(pod)
            why = row(status, index).get("message", "")
            if out or (not healthy and "goes on serving" in why and any(words in why for words in FINAL)):
                acted.add(index)
            if out or is_told(status, index):
                told.add(index)
            if boot in boots or quota:
                recorded.add(index)
        if acted == told == recorded == set(struck.wrong):
            return now
    raise AssertionError(f"struck: {struck}; told: {told}; recorded: {recorded}; {status}")


def stays_out(scene: BadScene, uid: str) -> None:
    """See that a replica that is wrong from its beginning fails its gate, and serves nobody before."""
    name = f"{NAME}-{WRONG}-0"
    for _ in looks(TOLD_SECONDS):
        status, pods = scene.status(), scene.pods()
        claims_hold(status, pods)
        pod = pods.get(name)
        if pod is None or pod["metadata"]["uid"] != uid:
            return  # replaced: it was never let in
        assert not is_serving(pod), status
        if row(status, WRONG).get("state") == "Failed" and "evidence" in row(status, WRONG):
            assert condition_of(status, "Ready")["status"] == "False"
            return
    raise AssertionError(scene.status())


@pytest.fixture(scope="module")
def trios(bad_scenes: Callable[[str], BadScene]) -> list[BadScene]:
    """Two resources that take turns: one mends while the other is struck."""
    made = [bad_scenes(f"bad-matrix-{number}") for number in range(2)]
    for scene in made:
        scene.kubectl.apply(scene.manifest(REPLICAS))
    for scene in made:
        scene.until_ready()  # so that the cell that all are held against has the machine to itself
    return made


@pytest.fixture
def trio(trios: list[BadScene]) -> Iterator[BadScene]:
    """Three replicas, Ready and without a fault."""
    scene = trios[0]
    trios.reverse()
    scaled_back(scene)
    scene.until_ready()
    yield scene
    scene.mend()


@pytest.mark.parametrize(("state", "strike"), CELLS, ids=[f"{state}, {strike}" for state, strike in CELLS])
def test_fault_in_a_state_is_recorded_told_and_acted_on(trio: BadScene, state: str, strike: str) -> None:
    with STATES[state](trio):
        struck = STRIKES[strike](trio)
        assert struck.wrong or struck.gated is not None, "the cell has no force: nobody wrong serves"
        if struck.gated is not None:
            stays_out(trio, struck.gated)
            return
        took = seconds[state, strike] = follow(trio, struck, unrecorded=state in UNRECORDED)
    ratio = f"{took / seconds[SETTLED]:.2f}" if SETTLED in seconds else "?"
    trio.story.say(f"{state}, {strike}: acted on after {took:.1f} s, {ratio} times the settled cell")
