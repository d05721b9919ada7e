"""Whoever makes way leaves the Service first and has time to answer: roll-out, restart, fewer replicas, under load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from audit import Audit
from bad_scene import READY_SECONDS, BadScene, condition_of, looks
from detinf_cluster.lifecycle import Cluster
from scenario import NAME

from detinf.controller.quarantine import DRAIN_SECONDS

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def pair(bad_scenes: Callable[[str], BadScene]) -> BadScene:
    """Two replicas, Ready, with a user."""
    made = bad_scenes("bad-leaving")
    made.start(2)
    made.load()
    return made


@pytest.fixture
def answered(pair: BadScene) -> Iterator[BadScene]:
    """A user who is answered, whatever happens: each request of theirs, to its end."""
    pair.until_ready()
    before = pair.seen()
    yield pair
    pair.more_answers(20, seconds=120)
    after = pair.seen()
    assert after["failed"] == before["failed"], after["errors"]


@pytest.fixture
def audit(node: Cluster) -> Audit:
    return Audit(node.folder / "control" / "audit.log", "system:serviceaccount:detinf-system:detinf")


def parsed(text: str) -> datetime:
    return datetime.fromisoformat(text)


def watch(scene: BadScene, done: Callable[[], bool]) -> dict[str, datetime]:
    """Look on until all is well again; return when each pod that is no more was no longer ready, by its own words.

    A replica or more serves at every look, and not more than one is away.
    """
    unready: dict[str, datetime] = {}
    wanted = len(scene.pods())
    for _ in looks(READY_SECONDS):
        assert len(scene.endpoints()) >= wanted - 1, scene.status()
        for pod in scene.kubectl.objects("pods", f"detinf.io/name={NAME}"):
            ready = condition_of(pod["status"], "Ready")
            if ready.get("status") == "False" and pod["metadata"]["labels"].get("detinf.io/serving") == "false":
                unready.setdefault(pod["metadata"]["name"], parsed(ready["lastTransitionTime"]))
        if done():
            return unready
    raise AssertionError(scene.status())


def deleted(audit: Audit, scene: BadScene, resource: str, since: datetime) -> dict[str, datetime]:
    """Return when the controller asked for a deletion, by the API server's log."""
    return {
        event["objectRef"]["name"]: parsed(event["requestReceivedTimestamp"])
        for event in audit.events()
        if event["verb"] == "delete"
        and event["objectRef"]["resource"] == resource
        and event["objectRef"].get("namespace") == scene.kubectl.namespace
        and parsed(event["requestReceivedTimestamp"]) >= since
    }


def all_replaced(scene: BadScene) -> Callable[[], bool]:
    """Return what says whether other pods than those of now serve."""
    before = {pod["metadata"]["uid"] for pod in scene.pods().values()}

    def done() -> bool:
        now = {pod["metadata"]["uid"] for pod in scene.pods().values()}
        return not (now & before) and scene.is_ready() and len(scene.endpoints()) == len(before)

    return done


def test_roll_out_under_load_fails_no_request_and_pods_drain_before_they_are_deleted(
    answered: BadScene, audit: Audit
) -> None:
    began, done = datetime.now(UTC), all_replaced(answered)
    answered.patch({"model": {"maxModelLen": 4096}})
    unready = watch(answered, done)
    gone = deleted(audit, answered, "pods", began)
    assert set(gone) == {f"{NAME}-0-0", f"{NAME}-1-0"} == set(unready)
    for name, at in gone.items():
        assert (at - unready[name]).total_seconds() >= DRAIN_SECONDS


def test_restart_that_is_asked_for_goes_one_by_one_and_fails_no_request(answered: BadScene) -> None:
    done = all_replaced(answered)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    answered.kubectl("annotate", "detinf", NAME, f"detinf.io/restarted-at={now}", "--overwrite")
    assert set(watch(answered, done)) == {f"{NAME}-0-0", f"{NAME}-1-0"}


def test_fewer_replicas_under_load_fail_no_request_and_drain_before_they_are_deleted(
    answered: BadScene, audit: Audit
) -> None:
    began = datetime.now(UTC)
    answered.kubectl("scale", f"detinf/{NAME}", "--replicas=1")
    unready = watch(answered, lambda: len(answered.kubectl.objects("statefulsets")) == 1 and answered.is_ready())
    gone = deleted(audit, answered, "statefulsets", began)
    assert list(gone) == [f"{NAME}-1"]
    assert (gone[f"{NAME}-1"] - unready[f"{NAME}-1-0"]).total_seconds() >= DRAIN_SECONDS
    answered.story.wait("its pod to end", lambda: None if answered.pod(1) else "gone", seconds=READY_SECONDS)
