"""The port's contract: one table, held against the fake and against the real API server."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from cluster_api import FakeClusterApi, copied

from detinf.api import names
from detinf.cluster.adapter import KubernetesApi, error_of, load_configuration, parsed_answer
from detinf.cluster.port import (
    CONFIG_MAP,
    KINDS,
    POD,
    STATEFUL_SET,
    ClusterApi,
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    Manifest,
    NamespaceEndsError,
    TakenError,
)

STALE = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.cluster)])
async def port(request: pytest.FixtureRequest) -> AsyncIterator[tuple[ClusterApi, str]]:
    """The port and a namespace in it."""
    if request.param == "fake":
        yield FakeClusterApi(), "ns"
        return
    control_plane: Any = request.getfixturevalue("control_plane")
    request.getfixturevalue("definition")
    namespace: str = request.getfixturevalue("namespace")
    async with KubernetesApi(await load_configuration(str(control_plane.kubeconfig))) as api:
        yield api, namespace


def config_map(namespace: str, name: str = "a", **changes: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "x"}},
        "data": {"one": "1", "two": "2"},
    } | changes


def resource(namespace: str, **parts: Any) -> dict[str, Any]:
    source = {"persistentVolumeClaim": {"claimName": "models"}}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": "a", "namespace": namespace},
    } | (parts or {"spec": {"model": {"source": source}}})


def of(made: Manifest | None, manifest: Manifest) -> Manifest:
    """Return a manifest for the very object that was made."""
    assert made is not None
    return manifest | {"metadata": manifest["metadata"] | {"uid": made["metadata"]["uid"]}}


async def test_missing_object_is_none(port: tuple[ClusterApi, str]) -> None:
    api, namespace = port
    assert await api.get(CONFIG_MAP, namespace, "none") is None


async def test_apply_creates_and_a_second_one_changes_nothing(port: tuple[ClusterApi, str]) -> None:
    api, namespace = port
    first = await api.apply(config_map(namespace))
    second = await api.apply(of(first, config_map(namespace)))
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]
    assert first["metadata"]["uid"] == second["metadata"]["uid"]


OTHERS: dict[str, dict[str, Any]] = {
    "ConfigMap": {"apiVersion": "v1", "data": {"theirs": "1"}},
    "Service": {"apiVersion": "v1", "spec": {"selector": {"their": "pods"}, "ports": [{"port": 80}]}},
    "PodDisruptionBudget": {
        "apiVersion": "policy/v1",
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"their": "pods"}}},
    },
    "StatefulSet": {
        "apiVersion": "apps/v1",
        "spec": {
            "replicas": 0,
            "serviceName": "s",
            "selector": {"matchLabels": {"their": "pods"}},
            "template": {
                "metadata": {"labels": {"their": "pods"}},
                "spec": {"containers": [{"name": "c", "image": "none"}]},
            },
        },
    },
}


@pytest.mark.parametrize("kind", OTHERS)
async def test_apply_without_a_uid_to_a_taken_name_is_told_and_changes_nothing(
    port: tuple[ClusterApi, str], kind: str
) -> None:
    """By an object of somebody else, and by one of ours: which one it is has to be looked at first."""
    api, namespace = port
    manifest = OTHERS[kind] | {"kind": kind, "metadata": {"name": "a", "namespace": namespace}}
    theirs = await api.create(copy.deepcopy(manifest))
    assert theirs is not None
    ours = manifest | {"metadata": manifest["metadata"] | {"labels": {"ours": "true"}}}
    with pytest.raises(TakenError):
        await api.apply(ours)
    found = await api.get(KINDS[kind], namespace, "a")
    assert found is not None
    assert "labels" not in found["metadata"]
    assert found.get("spec") == theirs.get("spec")
    assert found.get("data") == theirs.get("data")
    assert (await api.apply(of(theirs, ours)))["metadata"]["labels"] == {"ours": "true"}


async def test_object_is_found_by_its_name_whatever_its_labels(port: tuple[ClusterApi, str]) -> None:
    api, namespace = port
    await api.create(config_map(namespace, "a"))
    await api.create(config_map(namespace, "b"))
    listed = await api.list(CONFIG_MAP, namespace=namespace, fields={"metadata.name": "b"})
    assert [item["metadata"]["name"] for item in listed] == ["b"]


async def test_field_that_is_left_out_is_removed(port: tuple[ClusterApi, str]) -> None:
    api, namespace = port
    made = await api.apply(config_map(namespace))
    await api.apply(of(made, config_map(namespace, data={"one": "1"})))
    found = await api.get(CONFIG_MAP, namespace, "a")
    assert found is not None
    assert found["data"] == {"one": "1"}


async def test_apply_with_a_stale_uid_is_a_conflict(port: tuple[ClusterApi, str]) -> None:
    api, namespace = port
    await api.apply(config_map(namespace))
    stale = config_map(namespace)
    stale["metadata"]["uid"] = STALE
    with pytest.raises(ConflictError):
        await api.apply(stale)


@pytest.mark.parametrize("kind", ["ConfigMap", "Pod"])
async def test_apply_with_a_uid_to_what_is_gone_is_a_conflict_and_makes_nothing(
    port: tuple[ClusterApi, str], kind: str
) -> None:
    """A pod that went between the look and the label: it must not be made anew by its label."""
    api, namespace = port
    metadata = {"name": "a", "namespace": namespace, "uid": STALE, "labels": {"serving": "true"}}
    with pytest.raises(ConflictError):
        await api.apply({"apiVersion": "v1", "kind": kind, "metadata": metadata})
    assert await api.list(KINDS[kind], namespace=namespace, labels={"serving": "true"}) == []


async def test_status_of_what_is_missing_is_none_and_reaches_a_namesake(port: tuple[ClusterApi, str]) -> None:
    """The API server does not look at the uid of a status (1.36.3, measured): its next pass puts it right."""
    api, namespace = port
    assert await api.apply_status(resource(namespace, status={"replicas": 1})) is None
    made = await api.apply(resource(namespace))
    stale = resource(namespace, status={"replicas": 1})
    stale["metadata"]["uid"] = STALE
    assert await api.apply_status(stale) is not None
    right = resource(namespace, status={"replicas": 1})
    right["metadata"]["uid"] = made["metadata"]["uid"]
    told = await api.apply_status(right)
    again = await api.apply_status(right)
    assert told is not None
    assert again is not None
    assert told["metadata"]["resourceVersion"] == again["metadata"]["resourceVersion"]
    assert told["metadata"]["generation"] == made["metadata"]["generation"]  # a status is no change of the spec


@pytest.fixture(params=["terminating", "gone"])
async def ending(request: pytest.FixtureRequest, port: tuple[ClusterApi, str]) -> AsyncIterator[str]:
    """A namespace that terminates and still holds the ConfigMap ``a``, or one that is not there."""
    api, namespace = port
    if request.param == "gone":
        if isinstance(api, FakeClusterApi):
            api.ends["nowhere"] = 404
        yield "nowhere"
        return
    held = config_map(namespace)
    if isinstance(api, FakeClusterApi):
        await api.create(held)
        api.ends[namespace] = 403
        yield namespace
        return
    kubectl: Any = request.getfixturevalue("administrator")
    ends = f"{namespace}-ends"
    kubectl("create", "namespace", ends)
    held["metadata"] |= {"namespace": ends, "finalizers": ["example.org/held"]}
    await api.create(held)
    kubectl("delete", "namespace", ends, "--wait=false")
    kubectl("wait", "--for=jsonpath={.status.phase}=Terminating", f"namespace/{ends}", "--timeout=60s")
    yield ends
    kubectl("patch", "configmap", "a", "-n", ends, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')


async def test_nothing_can_be_made_in_a_namespace_that_ends(port: tuple[ClusterApi, str], ending: str) -> None:
    api, _ = port
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "e", "namespace": ending},
        "eventTime": "2027-01-01T00:00:00.000000Z",
        "reportingController": "x",
        "reportingInstance": "x",
        "action": "x",
        "reason": "x",
        "type": "Normal",
    }
    for ask in (api.create(config_map(ending, "new")), api.apply(config_map(ending, "new")), api.create(event)):
        with pytest.raises(NamespaceEndsError):
            await ask


async def test_what_is_in_a_namespace_that_ends_can_be_read_changed_and_deleted(
    port: tuple[ClusterApi, str], ending: str
) -> None:
    api, _ = port
    listed = await api.list(CONFIG_MAP, namespace=ending, labels={"app": "x"})
    if not listed:
        assert ending == "nowhere"
        assert await api.delete(CONFIG_MAP, ending, "a", uid=STALE) is False
        assert await api.apply_status(resource(ending, status={"replicas": 1})) is None
        return
    changed = await api.apply(of(listed[0], config_map(ending, data={"one": "other"})))
    assert changed["data"]["one"] == "other"
    assert await api.delete(CONFIG_MAP, ending, "a", uid=listed[0]["metadata"]["uid"]) is True


async def test_immutable_record_cannot_be_changed(port: tuple[ClusterApi, str]) -> None:
    api, namespace = port
    made = await api.create(config_map(namespace, immutable=True))
    with pytest.raises(InvalidError, match="immutable"):
        await api.apply(of(made, config_map(namespace, immutable=True, data={"one": "other"})))


async def test_create_of_a_taken_name_is_none_and_changes_nothing(port: tuple[ClusterApi, str]) -> None:
    api, namespace = port
    assert await api.create(config_map(namespace)) is not None
    assert await api.create(config_map(namespace, data={"other": "3"})) is None
    found = await api.get(CONFIG_MAP, namespace, "a")
    assert found is not None
    assert found["data"] == {"one": "1", "two": "2"}


async def test_delete_means_that_very_object(port: tuple[ClusterApi, str]) -> None:
    api, namespace = port
    made = await api.create(config_map(namespace))
    assert made is not None
    assert await api.delete(CONFIG_MAP, namespace, "a", uid=STALE) is False
    assert await api.get(CONFIG_MAP, namespace, "a") is not None
    assert await api.delete(CONFIG_MAP, namespace, "a", uid=made["metadata"]["uid"]) is True
    assert await api.delete(CONFIG_MAP, namespace, "a", uid=made["metadata"]["uid"]) is False


async def test_list_takes_all_of_the_labels(port: tuple[ClusterApi, str]) -> None:
    api, namespace = port
    await api.apply(config_map(namespace, "a"))
    both = config_map(namespace, "b")
    both["metadata"]["labels"]["more"] = "y"
    await api.apply(both)
    listed = await api.list(CONFIG_MAP, namespace=namespace, labels={"app": "x", "more": "y"})
    assert [(item["kind"], item["metadata"]["name"]) for item in listed] == [("ConfigMap", "b")]
    assert len(await api.list(CONFIG_MAP, namespace=namespace, labels={"app": "x"})) == 2


def merge(value: Any, patch: Any) -> Any:
    """Return a value after a JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, part in patch.items():
        result[key] = merge(result.get(key), part)
        if part is None:
            del result[key]
    return result


Somebody = Callable[..., Awaitable[None]]


@pytest.fixture
def somebody(request: pytest.FixtureRequest, port: tuple[ClusterApi, str]) -> Somebody:
    """Another field manager, who changes objects as ``kubectl edit`` does."""
    api, namespace = port

    async def change(manifest: Manifest, patch: Manifest, *options: str) -> None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if isinstance(api, FakeClusterApi):
            api.put(merge(await api.get(KINDS[kind], namespace, name), patch))
            return
        kubectl: Any = request.getfixturevalue("administrator")
        command = ("patch", KINDS[kind].plural, name, "-n", namespace, "--type=merge", "--field-manager=somebody")
        kubectl(*command, "-p", json.dumps(patch), *options)

    return change


def stateful_set(namespace: str) -> Manifest:
    """Return a StatefulSet without pods."""
    container = {"name": "c", "image": "none", "env": [{"name": "OURS", "value": "1"}, {"name": "OLD", "value": "1"}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "s", "namespace": namespace},
        "spec": {
            "replicas": 0,
            "serviceName": "s",
            "selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [container]}},
        },
    }


async def test_fields_of_another_manager_survive(port: tuple[ClusterApi, str], somebody: Somebody) -> None:
    api, namespace = port
    made = await api.apply(config_map(namespace))
    theirs = {"metadata": {"labels": {"team": "y"}, "annotations": {"note": "z"}}, "data": {"three": "3"}}
    await somebody(config_map(namespace), theirs)
    applied = await api.apply(of(made, config_map(namespace, data={"one": "other"})))
    assert applied["data"] == {"one": "other", "three": "3"}
    assert applied["metadata"]["labels"] == {"app": "x", "team": "y"}
    assert applied["metadata"]["annotations"] == {"note": "z"}
    again = await api.apply(of(made, config_map(namespace, data={"one": "other"})))
    assert again["metadata"]["resourceVersion"] == applied["metadata"]["resourceVersion"]


async def test_list_entries_of_another_manager_survive(port: tuple[ClusterApi, str], somebody: Somebody) -> None:
    """A mesh's sidecar, a variable that somebody injects: such lists have one owner for each entry."""
    api, namespace = port
    wanted = stateful_set(namespace)
    made = await api.apply(wanted)
    containers = copied(made["spec"]["template"]["spec"]["containers"])
    containers[0]["env"].append({"name": "THEIRS", "value": "2"})
    containers.append({"name": "sidecar", "image": "other"})
    await somebody(wanted, {"spec": {"template": {"spec": {"containers": containers}}}})
    wanted["spec"]["template"]["spec"]["containers"][0]["env"].pop()
    applied = await api.apply(of(made, wanted))
    found = {item["name"]: item for item in applied["spec"]["template"]["spec"]["containers"]}
    assert {name: item["image"] for name, item in found.items()} == {"c": "none", "sidecar": "other"}
    assert {item["name"]: item["value"] for item in found["c"]["env"]} == {"OURS": "1", "THEIRS": "2"}


async def test_condition_of_another_manager_survives(port: tuple[ClusterApi, str], somebody: Somebody) -> None:
    api, namespace = port

    def condition(kind: str, reason: str) -> dict[str, Any]:
        head = {"type": kind, "status": "True", "reason": reason, "message": "", "observedGeneration": 1}
        return head | {"lastTransitionTime": "2027-01-01T00:00:00Z"}

    await api.apply(resource(namespace))
    await api.apply_status(resource(namespace, status={"conditions": [condition("Ready", "A"), condition("Old", "A")]}))
    live = await api.get(KINDS[names.KIND], namespace, "a")
    assert live is not None
    theirs = [*live["status"]["conditions"], condition("Theirs", "X")]
    await somebody(live, {"status": {"conditions": theirs}}, "--subresource=status")
    applied = await api.apply_status(resource(namespace, status={"conditions": [condition("Ready", "B")]}))
    assert applied is not None
    reasons = {item["type"]: item["reason"] for item in applied["status"]["conditions"]}
    assert reasons == {"Ready": "B", "Theirs": "X"}


async def test_field_that_another_manager_took_is_taken_back(port: tuple[ClusterApi, str], somebody: Somebody) -> None:
    api, namespace = port
    made = await api.apply(config_map(namespace))
    await somebody(config_map(namespace), {"data": {"one": "theirs", "two": None}})
    taken = await api.get(CONFIG_MAP, namespace, "a")
    assert taken is not None
    assert taken["data"] == {"one": "theirs"}
    applied = await api.apply(of(made, config_map(namespace)))
    assert applied["data"] == {"one": "1", "two": "2"}
    # And it is ours again: what we leave out now goes.
    assert (await api.apply(of(made, config_map(namespace, data={"two": "2"}))))["data"] == {"two": "2"}


async def test_field_that_another_manager_took_stays_where_we_leave_it_out(
    port: tuple[ClusterApi, str], somebody: Somebody
) -> None:
    api, namespace = port
    made = await api.apply(config_map(namespace))
    await somebody(config_map(namespace), {"data": {"one": "theirs"}})
    applied = await api.apply(of(made, config_map(namespace, data={"three": "3"})))
    assert applied["data"] == {"one": "theirs", "three": "3"}


async def test_selector_of_a_stateful_set_cannot_be_changed_and_its_template_can(port: tuple[ClusterApi, str]) -> None:
    api, namespace = port
    made = await api.apply(stateful_set(namespace))
    other = stateful_set(namespace)
    other["spec"]["selector"]["matchLabels"] = {"app": "y"}
    other["spec"]["template"]["metadata"]["labels"] = {"app": "y"}
    with pytest.raises(InvalidError, match=r"updates to statefulset spec .* are forbidden"):
        await api.apply(of(made, other))
    kept = await api.get(STATEFUL_SET, namespace, "s")
    assert kept is not None
    assert kept["spec"] == made["spec"]
    other = stateful_set(namespace)
    other["spec"]["template"]["spec"]["containers"][0]["image"] = "new"
    assert (await api.apply(of(made, other)))["metadata"]["generation"] == made["metadata"]["generation"] + 1


async def test_object_with_a_finalizer_ends_when_that_is_gone(port: tuple[ClusterApi, str], somebody: Somebody) -> None:
    api, namespace = port
    held = config_map(namespace)
    held["metadata"]["finalizers"] = ["example.org/held"]
    made = await api.create(held)
    assert made is not None
    uid = made["metadata"]["uid"]
    assert await api.delete(CONFIG_MAP, namespace, "a", uid=uid) is True
    ending = await api.get(CONFIG_MAP, namespace, "a")
    assert ending is not None
    assert ending["metadata"]["deletionTimestamp"]
    # Until then it can be changed, its name is taken, and a second delete is as good as the first.
    changed = await api.apply(of(made, config_map(namespace, data={"one": "other"})))
    assert changed["data"]["one"] == "other"
    assert changed["metadata"]["deletionTimestamp"] == ending["metadata"]["deletionTimestamp"]
    assert await api.create(config_map(namespace)) is None
    assert await api.delete(CONFIG_MAP, namespace, "a", uid=uid) is True
    await somebody(held, {"metadata": {"finalizers": None}})
    assert await api.get(CONFIG_MAP, namespace, "a") is None
    assert (await api.apply(config_map(namespace)))["metadata"]["uid"] != uid


async def test_child_goes_with_its_owner(port: tuple[ClusterApi, str]) -> None:
    api, namespace = port
    owner = await api.create(config_map(namespace, "owner"))
    assert owner is not None
    uid = owner["metadata"]["uid"]
    child = config_map(namespace, "child")
    child["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid, "controller": True}
    ]
    await api.apply(child)
    await api.delete(CONFIG_MAP, namespace, "owner", uid=uid)
    async with asyncio.timeout(60):
        while await api.get(CONFIG_MAP, namespace, "child") is not None:
            await asyncio.sleep(0.1)


async def test_labels_on_somebody_elses_pod_come_and_go(port: tuple[ClusterApi, str]) -> None:
    api, namespace = port
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": namespace, "labels": {"serving": "true"}},
        "spec": {"containers": [{"name": "c", "image": "none", "imagePullPolicy": "Never"}]},
    }
    made = None
    async with asyncio.timeout(60):
        while made is None:
            try:
                made = await api.create(copy.deepcopy(pod))
            except ForbiddenError:
                await asyncio.sleep(0.1)  # the namespace's service account comes a moment after it
    head = {"name": "p", "namespace": namespace, "uid": made["metadata"]["uid"]}
    labels = {"serving": "false", "boot": "b"}
    await api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": head | {"labels": labels}})
    await api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": head | {"labels": {"serving": "true"}}})
    found = await api.get(POD, namespace, "p")
    assert found is not None
    assert found["metadata"]["labels"] == {"serving": "true"}
    assert found["spec"]["containers"][0]["image"] == "none"


@pytest.mark.cluster
async def test_malformed_manifest_is_invalid_and_not_a_server_error(control_plane: Any, namespace: str) -> None:
    container = {"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "s", "namespace": namespace},
        "spec": {
            "serviceName": "s",
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}},
        },
    }
    async with KubernetesApi(await load_configuration(str(control_plane.kubeconfig))) as api:
        with pytest.raises(InvalidError):
            await api.apply(manifest)
        assert await api.get(STATEFUL_SET, namespace, "s") is None


@pytest.mark.cluster
async def test_server_that_is_gone_is_a_cluster_error_without_a_status(control_plane: Any) -> None:
    configuration = await load_configuration(str(control_plane.kubeconfig))
    configuration.host = "https://127.0.0.1:1"
    async with KubernetesApi(configuration) as api:
        with pytest.raises(ClusterError) as caught:
            await api.get(CONFIG_MAP, "default", "a")
    assert caught.value.status is None


@pytest.mark.parametrize(
    ("status", "text", "retry", "kind", "wait"),
    [
        (409, b'{"message": "uid mismatch"}', None, ConflictError, None),
        (422, b'{"message": "metadata.uid: field is immutable"}', None, ConflictError, None),
        (403, b'{"message": "no"}', None, ForbiddenError, None),
        (403, b'{"details": {"causes": [{"reason": "NamespaceTerminating"}]}}', None, NamespaceEndsError, None),
        (404, b'{"message": "not found", "details": {"kind": "namespaces"}}', None, NamespaceEndsError, None),
        (404, b'{"message": "not found", "details": {"kind": "pods"}}', None, ClusterError, None),
        (422, b'{"message": "bad"}', None, InvalidError, None),
        (500, b'{"message": "failed to create typed patch object"}', None, InvalidError, None),
        (500, b'{"message": "etcd is away"}', None, ClusterError, None),
        (429, b"slow down", "7", ClusterError, 7.0),
        (404, b"404 page not found", None, ClusterError, None),
    ],
)
def test_answer_is_an_error_of_its_kind(
    status: int, text: bytes, retry: str | None, kind: type[ClusterError], wait: float | None
) -> None:
    error = error_of("GET", "/x", status, text, retry)
    assert type(error) is kind
    assert (error.status, error.retry_after) == (status, wait)


@pytest.mark.parametrize("text", [b"", b'{"kind": "Pod', b"<html>", b"[]", b"null"])
def test_answer_that_was_cut_short_or_is_of_something_else_is_a_cluster_error(text: bytes) -> None:
    with pytest.raises(ClusterError, match="GET /x: the answer is no JSON"):
        parsed_answer("GET", "/x", text)
