"""What a fresh pair of eyes broke: each test says what should hold and does not."""

from __future__ import annotations

from typing import Any

import pytest
from cluster_api import copied
from fleet import Fleet
from journeys import NAME, NAMESPACE, RESOURCE_KEY, change, resource
from matrix import World, settled
from steps import QUOTA, condition, events, fleet_with, reconcile, records, refuse, settle, status

from detinf.api import names
from detinf.cluster.port import ClusterError, ForbiddenError
from detinf.controller.quarantine import EVIDENCE_KEPT

MODEL = resource()["spec"]["model"] | {"maxModelLen": 4096}
AWAY = ClusterError("500: etcdserver: request timed out", status=500)


def serving(fleet: Fleet) -> list[str]:
    return [
        pod["metadata"]["name"]
        for pod in fleet.pods()
        if pod["status"]["conditions"][0]["status"] == "True"
        and pod["metadata"]["labels"].get(names.LABEL_SERVING) != "false"
    ]


def restart(fleet: Fleet, when: str = "2027-01-15T08:00:00Z") -> None:
    asked = copied(fleet.api.objects[RESOURCE_KEY])
    asked["metadata"]["annotations"] = {names.ANNOTATION_RESTART: when}
    fleet.api.put(asked)


def unlist(fleet: Fleet, error: ClusterError, *kinds: str, everywhere: bool = False) -> None:
    listed = type(fleet.api).list

    async def list_(kind: Any, **options: Any) -> Any:
        if kind.kind in kinds and (not everywhere or options.get("namespace") is None):
            raise error
        return await listed(fleet.api, kind, **options)

    fleet.api.list = list_  # type: ignore[method-assign]


async def look(world: World, seconds: float = 2.0) -> None:
    await world.look()
    world.fleet.tick(seconds)


async def world_of(replicas: int = 2, **spec: Any) -> World:
    world = World(Fleet())
    world.fleet.api.put(resource(replicas=replicas, **spec))
    await settled(world, replicas=replicas)
    return world


# 1. The net depends on reads that it does not need ----------------------------------------------------------------


@pytest.mark.parametrize("what", ["nodes", "pods of all namespaces"])
async def test_divergence_is_isolated_while_the_lists_of_a_roll_out_fail(what: str) -> None:
    world = await world_of(3)
    unlist(world.fleet, AWAY, "Node" if what == "nodes" else "Pod", everywhere=True)
    change(world.fleet, model=MODEL)
    await world.looks(2)
    world.fleet.answers["a-1-0"] = 1
    world.fleet.tick()
    await world.looks(20)
    assert condition(world.fleet, "OutputsInvariant")["status"] == "False", condition(world.fleet, "OutputsInvariant")
    assert records(world.fleet, "evidence")
    assert "a-1-0" not in serving(world.fleet)


@pytest.mark.parametrize("kind", ["Event", "PodDisruptionBudget", "Service"])
@pytest.mark.parametrize("fails", [False, True])
async def test_divergence_is_isolated_while_one_kind_cannot_be_listed(kind: str, *, fails: bool) -> None:
    """Events are in an etcd of their own in many clusters; they are asked for where one pod is refused."""
    world = await world_of(3)
    world.fleet._make_pod = lambda _item: None  # type: ignore[method-assign]  # admission refuses pods now
    world.fleet.api.remove("Pod", NAMESPACE, "a-0-0")
    if fails:
        unlist(world.fleet, AWAY, kind)
    world.fleet.answers["a-1-0"] = 1
    world.fleet.tick()
    await world.looks(20)
    assert records(world.fleet, "evidence"), condition(world.fleet, "OutputsInvariant")
    assert "a-1-0" not in serving(world.fleet)


# 2. The boot that diverged comes back, or is forgotten ----------------------------------------------------------------


async def test_boot_that_diverged_stays_out_when_its_probe_lost_its_books() -> None:
    world = await world_of(2)
    fleet = world.fleet
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await world.looks(3)
    assert serving(fleet) == ["a-0-0"]
    boot = world.boot("a-1-0")
    fleet.answers.clear()  # it was intermittent
    fleet.lives[world.pod("a-1-0")["metadata"]["uid"]]["evidence"] = None  # books unreadable: the pass stands
    for _ in range(6):
        await look(world)
        assert not ("a-1-0" in serving(fleet) and world.boot("a-1-0") == boot), "the boot that diverged serves again"
        assert condition(fleet, "OutputsInvariant")["status"] != "True"


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


async def test_divergence_that_was_recorded_is_not_untold_when_the_controller_cannot_reach_the_probe() -> None:
    """The kubelet reaches it, so the pod serves on; a NetworkPolicy keeps the controller from it."""
    world = await world_of(2)
    fleet = world.fleet
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await look(world)
    assert condition(fleet, "OutputsInvariant")["status"] == "False"
    report = fleet.report
    fleet.report = lambda pod: None if pod["metadata"]["name"] == "a-1-0" else report(pod)  # type: ignore[method-assign]
    await world.looks(10)
    said = condition(fleet, "OutputsInvariant")
    assert said["status"] == "False", said
    assert condition(fleet, "Degraded")["status"] == "True", condition(fleet, "Degraded")


async def test_isolated_pod_whose_probe_is_gone_is_replaced() -> None:
    world = await world_of(2)
    fleet = world.fleet
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await world.looks(3)
    uid = world.pod("a-1-0")["metadata"]["uid"]
    fleet.probeless.add("a-1-0")
    await world.looks(100)
    assert world.pod("a-1-0")["metadata"]["uid"] != uid, status(fleet)


# 3. Outages of our own making --------------------------------------------------------------------------------------


@pytest.mark.parametrize("edit", ["plan", "restart", "fewer"])
@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("wrong", ["a-0-0", "a-1-0"])
async def test_isolation_and_another_way_out_leave_somebody_to_serve(edit: str, after: int, wrong: str) -> None:
    world = await world_of(2)
    fleet = world.fleet

    def begin() -> None:
        if edit == "plan":
            change(fleet, model=MODEL)
        elif edit == "restart":
            restart(fleet)
        else:
            change(fleet, replicas=1)

    fleet.answers[wrong] = 1
    fleet.tick()
    for number in range(60):
        if number == after:
            begin()
        await look(world)
        assert serving(fleet), f"nobody serves after look {number}: {status(fleet)['replicaStates']}"


@pytest.mark.parametrize("wrong", ["a-0-0", "a-1-0"])
async def test_fewer_replicas_take_the_one_that_diverged(wrong: str) -> None:
    world = await world_of(2)
    world.fleet.answers[wrong] = 1
    world.fleet.tick()
    change(world.fleet, replicas=1)
    await world.looks(40)
    assert wrong not in serving(world.fleet), condition(world.fleet, "OutputsInvariant")


async def test_fewer_replicas_with_another_plan_leave_somebody_to_serve() -> None:
    world = await world_of(2)
    world.fleet.loading_seconds = 20.0
    change(world.fleet, replicas=1, model=MODEL)
    for number in range(60):
        await look(world)
        assert serving(world.fleet), f"nobody serves after look {number}"


@pytest.mark.parametrize("edit", ["no place", "roll-out"])
async def test_moment_of_unreadiness_during_an_edit_takes_nobody(edit: str) -> None:
    """Six seconds of a network that is away: all pods are unready, and all come back by themselves."""
    world = await world_of(3)
    fleet = world.fleet
    if edit == "no place":
        change(fleet, scheduling={"nodeSelector": {"example.org/room": "none"}}, model=MODEL)
    else:
        fleet.loading_seconds = 40.0
        change(fleet, model=MODEL)
    await world.looks(3)
    before = {pod["metadata"]["uid"] for pod in fleet.pods()}
    fleet.probeless |= {f"a-{index}-0" for index in range(3)}
    fleet.tick()
    await world.looks(3)
    fleet.probeless.clear()
    fleet.tick()
    for number in range(30):
        await look(world)
        assert serving(fleet), f"an outage after look {number}: {status(fleet)['replicaStates']}"
    if edit == "no place":
        assert {pod["metadata"]["uid"] for pod in fleet.pods()} == before


async def test_isolated_replica_is_replaced_by_one_that_has_a_place() -> None:
    world = await world_of(3)
    fleet = world.fleet
    change(fleet, scheduling={"nodeSelector": {"example.org/room": "none"}}, model=MODEL)
    await world.looks(5)
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await world.looks(4)
    fleet.answers.clear()
    assert "example.org/room" not in str(fleet.api.objects["StatefulSet", NAMESPACE, "a-1"]["spec"]["template"])


# 4. Hot loops ------------------------------------------------------------------------------------------------------


async def test_more_divergences_than_records_are_kept_write_nothing_for_ever() -> None:
    replicas = EVIDENCE_KEPT + 2
    world = await world_of(replicas)
    world.fleet.answers |= {f"a-{index}-0": 1 for index in range(replicas)}
    world.fleet.tick()
    await world.looks(10)
    before = list(world.fleet.api.writes)
    await world.looks(10)
    new = world.fleet.api.writes[len(before) :]
    assert new == [], (len(new), new[:6])


async def test_edit_without_a_place_does_not_list_the_cluster_at_each_look() -> None:
    world = await world_of(2)
    fleet = world.fleet
    change(fleet, scheduling={"nodeSelector": {"example.org/room": "none"}})
    await world.looks(10)
    listed: list[str] = []
    old = type(fleet.api).list

    async def list_(kind: Any, **options: Any) -> Any:
        if options.get("namespace") is None:
            listed.append(kind.kind)
        return await old(fleet.api, kind, **options)

    fleet.api.list = list_  # type: ignore[method-assign]
    await world.looks(50)
    assert len(listed) <= 20, f"{len(listed)} lists of the whole cluster in 50 looks (100 s)"


# 5. Claims ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("edit", ["plan", "fewer"])
async def test_pod_whose_evidence_could_not_be_stored_is_not_deleted_by_another_way_out(edit: str) -> None:
    world = await world_of(3)
    fleet = world.fleet
    refuse(fleet, QUOTA, ("ConfigMap", "-evidence-"))
    uid = world.pod("a-2-0")["metadata"]["uid"]
    fleet.answers["a-2-0"] = 1
    fleet.tick()
    await world.looks(3)
    change(fleet, **({"model": MODEL} if edit == "plan" else {"replicas": 2}))
    await world.looks(30)
    left = world.pod("a-2-0")
    assert records(fleet, "evidence") or (left is not None and left["metadata"]["uid"] == uid)


@pytest.mark.parametrize("fails", [False, True])
async def test_delivery_does_not_wait_for_a_deletion(*, fails: bool) -> None:
    fleet = fleet_with()
    await settle(fleet)
    delete = type(fleet.api).delete

    async def delete_(kind: Any, *args: Any, **options: Any) -> Any:
        if fails and kind.kind == "ConfigMap":
            raise ForbiddenError("403", status=403, words="admission webhook: ConfigMaps are not deleted here")
        return await delete(fleet.api, kind, *args, **options)

    fleet.api.delete = delete_  # type: ignore[method-assign]
    for number in range(2):
        fleet.api.nodes[0]["metadata"]["labels"]["huawei.com/driver.version"] = f"25.{number}"
        change(fleet, topology={"driverVersion": f"25.{number}"})
        fleet.hardware |= {f"a-{index}-0": {"driver": f"25.{number}"} for index in range(2)}
        for pod in fleet.pods():
            fleet.restart(pod["metadata"]["name"])
        for _ in range(80):
            await reconcile(fleet)
            fleet.tick()
    assert len(serving(fleet)) == 2, status(fleet)["replicaStates"]


# 6. States ---------------------------------------------------------------------------------------------------------


async def test_resource_that_another_ones_finalizer_holds_is_still_watched() -> None:
    world = await world_of(2)
    fleet = world.fleet
    held = copied(fleet.api.objects[RESOURCE_KEY])
    held["metadata"] |= {"finalizers": ["example.org/backup"], "deletionTimestamp": "2027-01-15T08:00:00Z"}
    fleet.api.objects[RESOURCE_KEY] = held
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await world.looks(5)
    assert "a-1-0" not in serving(fleet)


async def test_divergence_of_what_scales_to_0_is_told() -> None:
    world = await world_of(2)
    fleet = world.fleet
    change(fleet, replicas=0)
    fleet.answers |= {"a-0-0": 1, "a-1-0": 1}
    fleet.tick()
    for _ in range(3):
        await look(world)
        assert condition(fleet, "OutputsInvariant")["status"] == "False", condition(fleet, "OutputsInvariant")


# 7. Words ----------------------------------------------------------------------------------------------------------


async def test_replica_that_diverges_while_it_drains_is_not_said_to_serve_on() -> None:
    world = await world_of(1)
    fleet = world.fleet
    change(fleet, model=MODEL)
    await world.looks(2)
    assert serving(fleet) == []
    fleet.answers["a-0-0"] = 1
    fleet.tick()
    await look(world)
    said = condition(fleet, "OutputsInvariant")["message"]
    assert "goes on serving" not in said, said
    assert "Stalled" not in {item["type"] for item in status(fleet)["conditions"]}


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


# 8. More -----------------------------------------------------------------------------------------------------------


async def test_replica_whose_report_comes_every_second_time_is_isolated() -> None:
    """Its probe needs more than two seconds for every other answer."""
    world = await world_of(2)
    fleet = world.fleet
    report, turns = fleet.report, [0]

    async def fetch(pod: dict[str, Any]) -> Any:
        if pod["metadata"]["name"] == "a-1-0":
            turns[0] += 1
            if turns[0] % 2 == 0:
                return None
        return report(pod)

    fleet.fetch = fetch  # type: ignore[method-assign]
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await world.looks(30)
    assert "a-1-0" not in serving(fleet)


@pytest.mark.parametrize("kind", ["Event", "ConfigMap"])
async def test_isolation_does_not_wait_for_a_request_that_times_out(kind: str) -> None:
    world = await world_of(2)
    fleet = world.fleet
    create = type(fleet.api).create

    async def create_(manifest: dict[str, Any]) -> Any:
        if manifest["kind"] == kind:
            fleet.now += 30.0
            raise ClusterError("timed out")
        return await create(fleet.api, manifest)

    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await look(world)  # its peers are asked
    fleet.api.create = create_  # type: ignore[method-assign]
    if kind == "ConfigMap":
        for name in records(fleet, "evidence"):
            fleet.api.remove("ConfigMap", NAMESPACE, name)
    since = fleet.now
    left: list[float] = []
    apply = type(fleet.api).apply

    async def apply_(manifest: dict[str, Any]) -> Any:
        if manifest["kind"] == "Pod" and manifest["metadata"]["labels"][names.LABEL_SERVING] == "false":
            left.append(fleet.now - since)
        return await apply(fleet.api, manifest)

    fleet.api.apply = apply_  # type: ignore[method-assign]
    await world.looks(4)
    assert left
    assert left[0] <= 10, f"it left the Service {left[0]} s after its peers had passed"


async def test_fewer_replicas_keep_who_drains_where_the_kept_one_dies() -> None:
    world = await world_of(2)
    fleet = world.fleet
    change(fleet, replicas=1)
    await world.looks(2)
    fleet.gating.add("a-0-0")
    fleet.restart("a-0-0")
    fleet.tick()
    await world.looks(3)
    assert serving(fleet), status(fleet)["replicaStates"]


async def test_policy_of_a_spec_that_cannot_be_read_is_not_made_up() -> None:
    """An older controller does not know a value in spec and lastValid; the owner had said Report."""
    world = await world_of(2, quarantine={"policy": "Report"})
    fleet = world.fleet
    newer = copied(fleet.api.objects[RESOURCE_KEY])
    newer["spec"]["probe"] = {"mode": "Tomorrow"}
    newer["status"]["lastValid"]["spec"]["probe"] = {"mode": "Tomorrow"}
    fleet.api.put(newer)
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await world.looks(5)
    assert condition(fleet, "SpecValid")["status"] == "False"
    assert "a-1-0" in serving(fleet), "policy Report, and it was isolated"


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


async def test_refused_record_is_tried_less_and_less_often() -> None:
    world = await world_of(2)
    fleet = world.fleet
    tried: list[str] = []
    create = type(fleet.api).create

    async def create_(manifest: dict[str, Any]) -> Any:
        tried.append(manifest["kind"])
        if manifest["kind"] == "ConfigMap":
            raise QUOTA
        return await create(fleet.api, manifest)

    fleet.api.create = create_  # type: ignore[method-assign]
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await world.looks(50)
    assert len(tried) <= 20, f"{len(tried)} creates in 100 s"


@pytest.mark.parametrize("replicas", [3])
async def test_isolated_replica_whose_label_a_hand_removes_while_its_peers_load_stays_out(replicas: int) -> None:
    world = await world_of(replicas)
    fleet = world.fleet
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await world.looks(3)
    assert "a-1-0" not in serving(fleet)
    for index in (0, 2):
        fleet.gating.add(f"a-{index}-0")
        fleet.restart(f"a-{index}-0")
    fleet.tick()
    pod = copied(world.pod("a-1-0"))
    del pod["metadata"]["labels"][names.LABEL_DIVERGED_BOOT]
    fleet.api.put(pod)
    await world.looks(2)
    assert "a-1-0" not in serving(fleet)


async def test_kind_that_cannot_be_listed_for_long_is_told_and_one_look_is_nobodys_alarm() -> None:
    world = await world_of(2)
    unlist(world.fleet, AWAY, "Service")
    await world.looks(2)
    assert condition(world.fleet, "Ready")["status"] == "True"
    await world.looks(2)
    assert condition(world.fleet, "Ready")["reason"] == "ChildrenUnread"
    assert "etcdserver" in condition(world.fleet, "Ready")["message"]
    world.fleet.api.list = type(world.fleet.api).list.__get__(world.fleet.api)  # type: ignore[method-assign]
    await world.looks(2)
    assert condition(world.fleet, "Ready")["status"] == "True"
