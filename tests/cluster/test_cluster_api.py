"""The port's contract: one table, held against the fake and against the real API server."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cluster_api import FakeClusterApi

from detinf.cluster.adapter import KubernetesApi, error_of, load_configuration
from detinf.cluster.port import (
    CONFIG_MAP,
    POD,
    STATEFUL_SET,
    ClusterApi,
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidError,
)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.cluster)])
async def port(request: pytest.FixtureRequest) -> AsyncIterator[tuple[ClusterApi, str]]:
    """The port and a namespace in it."""
    if request.param == "fake":
        yield FakeClusterApi(), "ns"
        return
    control_plane: Any = request.getfixturevalue("control_plane")
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


async def test_missing_object_is_none(port: tuple[ClusterApi, str]) -> None:
    api, namespace = port
    assert await api.get(CONFIG_MAP, namespace, "none") is None


async def test_apply_creates_and_a_second_one_changes_nothing(port: tuple[ClusterApi, str]) -> None:
    api, namespace = port
    first = await api.apply(config_map(namespace))
    second = await api.apply(config_map(namespace))
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]
    assert first["metadata"]["uid"] == second["metadata"]["uid"]


async def test_field_that_is_left_out_is_removed(port: tuple[ClusterApi, str]) -> None:
    api, namespace = port
    await api.apply(config_map(namespace))
    await api.apply(config_map(namespace, data={"one": "1"}))
    found = await api.get(CONFIG_MAP, namespace, "a")
    assert found is not None
    assert found["data"] == {"one": "1"}


async def test_apply_with_a_stale_uid_is_a_conflict(port: tuple[ClusterApi, str]) -> None:
    api, namespace = port
    await api.apply(config_map(namespace))
    stale = config_map(namespace)
    stale["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
    with pytest.raises(ConflictError):
        await api.apply(stale)


async def test_immutable_record_cannot_be_changed(port: tuple[ClusterApi, str]) -> None:
    api, namespace = port
    await api.create(config_map(namespace, immutable=True))
    with pytest.raises(InvalidError, match="immutable"):
        await api.apply(config_map(namespace, immutable=True, data={"one": "other"}))


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
    other = "00000000-0000-0000-0000-000000000000"
    assert await api.delete(CONFIG_MAP, namespace, "a", uid=other) is False
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
