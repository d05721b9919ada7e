"""Gathering: the resource, its children by label, its pods, and what their probes report."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Protocol, Self

import aiohttp
import structlog

from detinf.api import names
from detinf.cluster.port import (
    CONFIG_MAP,
    EVENT,
    NODE,
    POD,
    POD_DISRUPTION_BUDGET,
    RESOURCE,
    SERVICE,
    STATEFUL_SET,
    ClusterApi,
    ClusterError,
    Kind,
    Manifest,
)
from detinf.controller import pods
from detinf.controller.observed import Observed, Places
from detinf.controller.trouble import waits_for_containers
from detinf.documents import DocumentError, Report
from detinf.documents.base import LARGEST_BYTES
from detinf.guard.layout import PROBE_PORT

REPORT_SECONDS = 2

log = structlog.get_logger()


class ReportSource(Protocol):
    """Where reports come from."""

    async def fetch(self, pod: Manifest) -> Report | None:
        """Return a pod's report, or None where it gives none."""


class HttpReports:
    """Reports of probes, polled by pod address, with ETags."""

    def __init__(self) -> None:
        """Start with nothing known."""
        self._session: aiohttp.ClientSession | None = None
        self._known: dict[str, tuple[str, Report]] = {}

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REPORT_SECONDS), trust_env=False)
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close the connection pool."""
        if self._session is not None:
            await self._session.close()

    async def fetch(self, pod: Manifest) -> Report | None:
        """Return a pod's report; one that cannot be read is none, and its reason is logged."""
        address = pod.get("status", {}).get("podIP")
        if not address or self._session is None:
            return None
        uid = pods.uid_of(pod)
        known = self._known.get(uid)
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._session.get(
                f"http://{host}:{PROBE_PORT}/v1/report", headers={"If-None-Match": known[0]} if known else {}
            ) as response:
                if response.status == 304 and known:
                    return known[1]
                if response.status != 200:
                    return None
                report = Report.parse(await _bounded(response))
                self._known[uid] = (response.headers.get("ETag", ""), report)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        except DocumentError as error:
            log.warning("report not read", pod=pod["metadata"]["name"], error=str(error))
            return None
        return report

    def forget(self, alive: set[str]) -> None:
        """Forget pods that are gone."""
        self._known = {uid: item for uid, item in self._known.items() if uid in alive}


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    """Return an answer's body; of one that is too large as much as shows that."""
    body = bytearray()
    async for part in response.content.iter_chunked(65536):
        body += part
        if len(body) > LARGEST_BYTES:
            break
    return bytes(body)


async def gather(api: ClusterApi, reports: ReportSource, namespace: str, name: str) -> Observed | None:
    """Return what there is about a resource; None where it is gone.

    Raises:
        ClusterError: where the resource, its pods, their StatefulSets or the records could not be read. What else could
            not be is unknown, and keeps nothing from being watched.
    """
    resource = await api.get(RESOURCE, namespace, name)
    if resource is None:
        return None
    labels = names.selector(name)
    unread: dict[str, str] = {}

    async def listed_(kind: Kind) -> list[Manifest]:
        try:
            return await api.list(kind, namespace=namespace, labels=labels)
        except ClusterError as error:
            if kind not in {SERVICE, POD_DISRUPTION_BUDGET}:
                raise
            unread[kind.kind] = error.words
            return []

    kinds = (STATEFUL_SET, SERVICE, CONFIG_MAP, POD_DISRUPTION_BUDGET, POD)
    listed = await asyncio.gather(*(listed_(kind) for kind in kinds))
    running = [pod for pod in listed[4] if pod.get("status", {}).get("podIP") and not pods.is_terminating(pod)]
    fetched = await asyncio.gather(*(reports.fetch(pod) for pod in running))
    found = {pods.uid_of(pod): report for pod, report in zip(running, fetched, strict=True) if report is not None}
    podless = [item for item in listed[0] if not any(pods.controlled_by(pod, [pods.uid_of(item)]) for pod in listed[4])]
    events = await _events(api, namespace, podless=podless, listed_pods=listed[4])
    unlabelled = await _unlabelled(api, namespace, podless=podless)
    return Observed(
        resource, listed[0], listed[1], listed[2], listed[3], listed[4], found, events, unlabelled, unread=unread
    )


async def with_places(api: ClusterApi, observed: Observed) -> Observed:
    """Return what was gathered, with all nodes and all pods on them, or why they could not be read."""
    try:
        nodes, everybody = await asyncio.gather(api.list(NODE), api.list(POD))
    except ClusterError as error:
        return replace(observed, places=Places(unread=error.words))
    return replace(observed, places=Places(nodes, everybody))


async def _or_nothing(asked: Awaitable[list[Manifest]]) -> list[Manifest]:
    """Return what explains a replica that does not run; nothing where that cannot be read: nothing depends on it."""
    try:
        return await asked
    except ClusterError as error:
        log.warning("not read", error=str(error))
        return []


async def _unlabelled(api: ClusterApi, namespace: str, *, podless: list[Manifest]) -> dict[str, Manifest]:
    """Return, by name, what has the name of a pod that a StatefulSet lacks: it keeps the StatefulSet from making it."""
    names_ = [f"{item['metadata']['name']}-0" for item in podless]
    found = await asyncio.gather(
        *(_or_nothing(api.list(POD, namespace=namespace, fields={"metadata.name": name})) for name in names_)
    )
    return {name: listed[0] for name, listed in zip(names_, found, strict=True) if listed}


async def _events(
    api: ClusterApi, namespace: str, *, podless: list[Manifest], listed_pods: list[Manifest]
) -> dict[str, list[Manifest]]:
    """Return the Events, by uid, about what says nothing itself: a pod that was refused, or waits for its volumes."""
    silent = podless + [pod for pod in listed_pods if not pods.is_terminating(pod) and waits_for_containers(pod)]
    uids = [pods.uid_of(item) for item in silent]
    found = await asyncio.gather(
        *(_or_nothing(api.list(EVENT, namespace=namespace, fields={"regarding.uid": uid})) for uid in uids)
    )
    return dict(zip(uids, found, strict=True))
