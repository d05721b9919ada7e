"""One tag, two images: which image a replica runs is pinned by the first baseline, and told apart."""

from __future__ import annotations

from typing import Any

import pytest
from cluster_api import copied
from fleet import IMAGE, Fleet
from journeys import NAME, NAMESPACE, RESOURCE_KEY
from steps import condition, fleet_with, label, reconcile, records, settle, status

from detinf.api import names
from detinf.controller.images import Pins, image_id, is_pinned_by_digest, same_image, words
from detinf.controller.pods import format_time
from detinf.documents import Baseline
from detinf.guard.canonical import short

A, B = "a" * 64, "b" * 64
OTHER = f"registry.example/engine@sha256:{B}"
LOADED = f"sha256:{A}"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (f"docker.io/x@sha256:{A}", f"docker.io/x@sha256:{A}", True),
        (f"docker.io/x@sha256:{A}", f"docker.io/x@sha256:{B}", False),
        (f"docker.io/x@sha256:{A}", f"mirror.example:5000/y/x@sha256:{A}", True),
        (f"docker-pullable://x@sha256:{A}", f"x@sha256:{A}", True),
        (f"docker://sha256:{A}", f"sha256:{A}", True),
        (A, f"sha256:{A}", True),
        (f"sha256:{A}", f"sha256:{B}", False),
        ("x:tag", "x:tag", True),
        ("x:tag", "x:other", False),
        (f"sha256:{A[:-1]}", f"sha256:{A}", False),
    ],
)
def test_images_are_the_same_where_their_digests_are(one: str, other: str, same: bool) -> None:
    assert same_image(one, other) is same
    assert same_image(other, one) is same


def pod_of(told: Any, image: str = "x:1") -> dict[str, Any]:
    return {
        "metadata": {"name": "a-0-0"},
        "spec": {"containers": [{"name": "probe", "image": f"p@sha256:{A}"}, {"name": "engine", "image": image}]},
        "status": {"containerStatuses": [{"name": "probe", "imageID": "p"}, {"name": "engine", "imageID": told}]},
    }


@pytest.mark.parametrize("told", ["", None, " ", 7, {}])
def test_container_that_was_not_started_yet_has_no_image(told: Any) -> None:
    assert image_id(pod_of(told)) is None


def test_image_is_the_engines_and_no_other_containers() -> None:
    assert image_id(None) is None
    assert image_id({"metadata": {}}) is None
    assert image_id(pod_of("sha256:1")) == "sha256:1"
    assert not is_pinned_by_digest(pod_of("x"))
    assert is_pinned_by_digest(pod_of("x", f"x@sha256:{A}"))
    assert is_pinned_by_digest(pod_of("x", f"x:1@sha256:{A}"))


def test_words_name_both_images_and_how_to_pin_the_first() -> None:
    assert words(IMAGE, OTHER) == (
        f"its image is {OTHER}, the first baseline of its revision ran {IMAGE}; name the image by its digest: "
        f"spec.engine.image: {IMAGE}"
    )
    assert words(LOADED, OTHER).endswith("spec.engine.image: NAME@sha256:DIGEST, from a registry")
    assert "one was pulled and the other loaded into its node" in words(LOADED, OTHER)
    assert words(f"docker-pullable://x@sha256:{A}", OTHER).endswith(f"spec.engine.image: x@sha256:{A}")


async def moved(**spec: Any) -> Fleet:
    """Return two replicas that served, one of which was restarted with what its tag stands for since."""
    fleet = fleet_with(**spec)
    await settle(fleet)
    assert condition(fleet, "Ready")["status"] == "True"
    fleet.images["a-1-0"] = OTHER
    fleet.restart("a-1-0")
    await settle(fleet)
    return fleet


async def test_replica_of_another_image_with_the_same_fingerprint_does_not_serve() -> None:
    fleet = await moved()
    assert [label(fleet, pod) for pod in ("a-0-0", "a-1-0")] == ["true", "false"]
    assert status(fleet)["readyReplicas"] == 1
    pinned = condition(fleet, "TopologyPinned")
    assert (pinned["status"], pinned["reason"]) == ("False", "ImageDrift")
    assert pinned["message"] == f"replica 1: {words(IMAGE, OTHER)}"
    assert condition(fleet, "Stalled")["reason"] == "ImageDrift"
    assert condition(fleet, "Ready")["message"] == f"TopologyPinned: replica 1: {words(IMAGE, OTHER)}"
    rows = status(fleet)["replicaStates"]
    assert [row["state"] for row in rows] == ["Serving", "Failed"]
    assert [row["imageID"] for row in rows] == [IMAGE, OTHER]


async def test_each_replica_that_is_another_engine_is_told_beside_the_others() -> None:
    fleet = fleet_with(replicas=4)
    await settle(fleet)
    fleet.images["a-1-0"] = OTHER
    fleet.told["a-2-0"] = {"environment.LANG": "C"}
    fleet.hardware["a-3-0"] = {"driver": "1"}
    for index in (1, 2, 3):
        fleet.restart(f"a-{index}-0")
    await settle(fleet)
    pinned = condition(fleet, "TopologyPinned")
    assert (pinned["status"], pinned["reason"]) == ("False", "TopologyDrift")
    first, second, third = pinned["message"].split("; besides, ")
    assert first.startswith("replica 3: driver: ")
    assert second == f"replica 1: {words(IMAGE, OTHER)}"
    assert third.startswith("replica 2: environment.LANG: 'C.UTF-8' -> 'C'; ")


async def test_image_of_a_mirror_is_the_same_image() -> None:
    fleet = fleet_with()
    await settle(fleet)
    fleet.images["a-1-0"] = IMAGE.replace("registry.example", "mirror.example:5000")
    fleet.restart("a-1-0")
    await settle(fleet)
    assert condition(fleet, "Ready")["status"] == "True"


async def test_replica_of_another_image_and_fingerprint_gets_no_baseline_of_its_own() -> None:
    fleet = fleet_with()
    await settle(fleet)
    fleet.images["a-1-0"] = OTHER
    fleet.hardware["a-1-0"] = {"devices": 2}  # any difference of fingerprints that no pinned hardware names
    fleet.restart("a-1-0")
    await settle(fleet)
    assert len(records(fleet, "baseline")) == 1
    assert condition(fleet, "TopologyPinned")["reason"] == "ImageDrift"
    assert condition(fleet, "Ready")["status"] == "False"


async def test_first_lifetimes_of_two_images_are_not_called_an_engine_that_differs() -> None:
    fleet = fleet_with()
    fleet.images["a-1-0"], fleet.answers["a-1-0"] = OTHER, 1
    await settle(fleet)
    assert condition(fleet, "Qualified")["reason"] == "BaselineAgreed"
    assert condition(fleet, "TopologyPinned")["reason"] == "ImageDrift"


async def test_two_images_are_told_where_drift_is_let_pass() -> None:
    fleet = await moved(topology={"drift": "Warn"})
    assert condition(fleet, "Ready")["status"] == "True"
    pinned = condition(fleet, "TopologyPinned")
    assert (pinned["status"], pinned["reason"]) == ("True", "Pinned")
    assert pinned["message"].startswith(
        f"images differ, which spec.topology.drift lets pass: replica 1: its image is {OTHER}"
    )


async def test_first_lifetimes_of_two_images_that_are_let_pass_and_differ_say_so() -> None:
    fleet = fleet_with(topology={"drift": "Warn"})
    fleet.images["a-1-0"], fleet.answers["a-1-0"] = OTHER, 1
    await settle(fleet)
    found = condition(fleet, "Qualified")
    assert found["reason"] == "CandidatesDiffer"
    assert f"they ran different images ({IMAGE}, {OTHER})" in found["message"]


async def test_restart_one_by_one_stops_where_what_comes_runs_another_image() -> None:
    fleet = fleet_with(replicas=3)
    await settle(fleet)
    fleet.images["a-1-0"] = OTHER
    asked = format_time(fleet.now)
    annotated = copied(fleet.api.objects[RESOURCE_KEY])
    annotated["metadata"].setdefault("annotations", {})[names.ANNOTATION_RESTART] = asked
    fleet.api.put(annotated)
    await settle(fleet)
    assert [row["state"] for row in status(fleet)["replicaStates"]] == ["Serving", "Failed", "Serving"]
    restarted = [
        fleet.api.objects["Pod", NAMESPACE, f"{NAME}-{index}-0"]["metadata"]["annotations"].get(
            names.ANNOTATION_RESTART
        )
        for index in range(3)
    ]
    assert restarted == [None, asked, asked]  # replica 0 serves on: nothing is taken for one that does not serve


async def test_record_of_a_divergence_names_the_image() -> None:
    fleet = fleet_with()
    await settle(fleet)
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await reconcile(fleet)
    (record,) = records(fleet, "evidence")
    assert fleet.api.objects["ConfigMap", NAMESPACE, record]["data"]["imageID"] == IMAGE


def test_baseline_of_an_earlier_release_pins_no_image() -> None:
    earlier = Baseline(fingerprint="f", references_digest="r", lifetimes=1, answers={})
    pins = Pins([earlier, earlier.model_copy(update={"plan_digest": "sha256:1"})])
    assert pins.of("1") is None
    assert not pins.differs(pod_of(OTHER), "1")


def test_oldest_baseline_of_a_revision_pins_its_image_and_a_revision_its_own() -> None:
    def agreed(plan: str, image: str) -> Baseline:
        plan_digest = "sha256:" + plan * 64
        return Baseline(
            fingerprint="f", references_digest="r", lifetimes=1, answers={}, plan_digest=plan_digest, image_id=image
        )

    pins = Pins([agreed("1", IMAGE), agreed("1", OTHER), agreed("2", OTHER)])
    one, two = (short("sha256:" + plan * 64) for plan in "12")
    assert (pins.of(one), pins.of(two)) == (IMAGE, OTHER)
    assert pins.differs(pod_of(OTHER), one)
    assert not pins.differs(pod_of(OTHER), two)
    assert not pins.differs(pod_of(OTHER), "another")
    assert not pins.differs(pod_of(""), one)
    assert not pins.differs(pod_of(OTHER, f"x@sha256:{B}"), one)  # what its runtime has verified
