"""The Lease that says which controller works: its contract, held against the fake and against the real API server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from lease_store import FakeLeases

from detinf.cluster.adapter import load_configuration
from detinf.cluster.lease_api import FencedApi, LeaseApi, Leases, NotLeadingError
from detinf.cluster.port import CONFIG_MAP
from detinf.controller.lease import Elector, Record, Timings, claim, released, wall_clock


def spec(holder: str = "me") -> dict[str, Any]:
    return claim(None, holder, Timings(), wall_clock()).spec()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.cluster)])
async def leases(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Leases, Leases]]:
    """One Lease, by two clients."""
    if request.param == "fake":
        server = FakeLeases()
        yield FakeLeases(server), FakeLeases(server)
        return
    control_plane: Any = request.getfixturevalue("control_plane")
    namespace: str = request.getfixturevalue("namespace")
    configuration = await load_configuration(str(control_plane.kubeconfig))
    async with LeaseApi(configuration, namespace, "lease") as one, LeaseApi(configuration, namespace, "lease") as two:
        yield one, two


async def test_lease_that_is_missing_is_none_and_is_made_once(leases: tuple[Leases, Leases]) -> None:
    one, two = leases
    assert await one.read() is None
    made = await one.make(spec("one"))
    assert made is not None
    assert await two.make(spec("two")) is None
    found = await two.read()
    assert found is not None
    assert found["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    assert Record.of(found) == Record.of(made)
    assert Record.of(found).holder == "one"


async def test_of_two_that_write_over_the_same_version_one_is_told_so(leases: tuple[Leases, Leases]) -> None:
    one, two = leases
    made = await one.make(spec("nobody"))
    assert made is not None
    written = await two.replace(made | {"spec": spec("two")})
    assert written is not None
    assert await one.replace(made | {"spec": spec("one")}) is None
    found = await one.read()
    assert found is not None
    assert found["spec"]["holderIdentity"] == "two"
    # What an answer gave can be written over again.
    assert await two.replace(written | {"spec": spec("two")}) is not None


async def test_lease_without_a_holder_is_taken_as_it_is(leases: tuple[Leases, Leases]) -> None:
    one, two = leases
    made = await one.make(spec("one"))
    assert made is not None
    assert await one.replace(made | {"spec": released(Record.of(made), wall_clock()).spec()}) is not None
    found = await two.read()
    assert found is not None
    assert Record.of(found).holder == ""


async def test_electors_hand_the_lease_on(leases: tuple[Leases, Leases]) -> None:
    first, second = (Elector(one, name) for one, name in zip(leases, ("first", "second"), strict=True))
    assert await first.attempt()
    assert not await second.attempt()
    assert await first.attempt()
    assert [first.leads(), second.leads()] == [True, False]
    await first.release()
    assert await second.attempt()
    assert [first.leads(), second.leads()] == [False, True]
    assert second.seen is not None
    assert second.seen.record.transitions == 1


@pytest.mark.cluster
async def test_lease_that_was_deleted_meanwhile_is_not_made_by_a_replacement(
    control_plane: Any, namespace: str, ask: Any
) -> None:
    configuration = await load_configuration(str(control_plane.kubeconfig))
    async with LeaseApi(configuration, namespace, "lease") as api:
        made = await api.make(spec())
        assert made is not None
        path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/lease"
        assert ask("DELETE", path)[0] == 200
        assert await api.replace(made | {"spec": spec()}) is None
        assert await api.read() is None


@pytest.mark.cluster
async def test_nothing_is_written_while_somebody_else_may_lead(control_plane: Any, namespace: str) -> None:
    leading = False
    configuration = await load_configuration(str(control_plane.kubeconfig))
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": namespace}}
    asked: list[tuple[str, str]] = []
    async with FencedApi(configuration, lambda: leading, lambda code, method: asked.append((code, method))) as api:
        for write in (api.apply, api.create, api.apply_status):
            with pytest.raises(NotLeadingError):
                await write(manifest)
        with pytest.raises(NotLeadingError):
            await api.delete(CONFIG_MAP, namespace, "a", uid="u")
        assert asked == []
        assert await api.get(CONFIG_MAP, namespace, "a") is None
        leading = True
        assert (await api.apply(manifest))["metadata"]["name"] == "a"
        assert asked == [("404", "GET"), ("201", "PATCH")]
