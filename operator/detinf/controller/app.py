"""kopf, which is informer, login and lifecycle of the watches here, and nothing else.

Its ``on.event`` handlers only add a key to our queue: they are not retried and their errors are swallowed (kopf's own
design), while the queue's are. No index, daemon, timer or state-changing handler is used, so that kopf writes nothing
on any object and no finalizer waits for us.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import aiohttp
import kopf
import structlog

from detinf.api import names
from detinf.cluster.port import (
    CONFIG_MAP,
    POD,
    POD_DISRUPTION_BUDGET,
    RESOURCE,
    SERVICE,
    STATEFUL_SET,
    ClusterApi,
    ClusterError,
    Kind,
)
from detinf.controller.health import Health
from detinf.controller.pods import label
from detinf.controller.queue import KeyQueue

Key = tuple[str, str]
"""(namespace, name)"""
RESYNC_SECONDS = 120.0
"""Every resource is looked at again at least this often: a watch that lost an event heals here."""
PATIENCE_SECONDS = 60.0
"""How long a start waits for an API server that does not answer as it will."""
REMEDIES = {
    401: "the service account's token is not accepted; look at the API server's issuer and clock",
    403: "grant the rights of the chart's role; with one namespace to watch, set the chart's watchNamespace",
    404: "install the CustomResourceDefinition: the chart's crds.enabled, or crds/ of this release",
}
ANY_REMEDY = "look at the API server; this process ends, and Kubernetes starts it again"
CHILD_KINDS = (STATEFUL_SET, SERVICE, CONFIG_MAP, POD, POD_DISRUPTION_BUDGET)
EXIT_SECONDS = 25.0
"""How long kopf may take to end before it is killed; shorter than the pod's grace period of 30 s.

Where one watch dies, others wait for a login that nobody makes any more (kopf 1.45.2, measured), and the process would
live on, deaf.
"""
WATCH_SECONDS = 1.0
"""At least so long between two watches of one kind, and between a watch that was told 410 and the next list."""
SELECTOR = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"

log = structlog.get_logger()


def owner_key(body: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the key of the resource that a child belongs to."""
    name = label(body, names.LABEL_NAME)
    return (str(body["metadata"]["namespace"]), name) if name else None


class Patience:
    """Seconds between the attempts of one request of kopf's, without an end.

    With an end, an API server that is away for longer would end the watches, and with them the process.
    """

    def __iter__(self) -> Iterator[float]:
        """Return the seconds of one request."""
        return itertools.chain([1, 1, 2, 3, 5], itertools.repeat(10))


def kopf_settings(settings: kopf.OperatorSettings) -> None:
    """Set what kopf would otherwise do beyond informing us."""
    settings.scanning.disabled = True  # no rights on CRDs and namespaces
    settings.peering.standalone = True  # a stray peering object must not pause us
    settings.posting.enabled = False
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = Patience()
    settings.process.ultimate_exiting_timeout = EXIT_SECONDS
    settings.watching.chunk_size = 500
    settings.watching.reconnect_backoff = WATCH_SECONDS
    for kind in CHILD_KINDS:
        settings.watching.label_selectors[kind.group, kind.version, kind.plural] = SELECTOR


SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def in_cluster_login() -> kopf.ConnectionInfo | None:
    """Return the service account's login, at the address that the kubelet names; None outside a cluster.

    kopf's own asks for ``kubernetes.default.svc``, and so needs a DNS that works before we do.
    """
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    token = SERVICE_ACCOUNT / "token"
    if not host or not port or not token.is_file():
        return None
    return kopf.ConnectionInfo(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ca_path=str(SERVICE_ACCOUNT / "ca.crt"),
        scheme="Bearer",
        token=token.read_text(encoding="utf-8").strip(),  # read again where a request is answered 401
    )


async def pace(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request of kopf's; watches of one kind at most once a second.

    kopf 1.45.2 begins a watch that ended in order anew at once, and again: 930 a second where something on the way ends
    them all (measured).
    """
    if "watch" in request.url.query:
        now = time.monotonic()
        wait = max(0.0, _WATCHED.get(request.url.path, 0.0) + WATCH_SECONDS - now)
        _WATCHED[request.url.path] = now + wait
        await asyncio.sleep(wait)
    return await send(request)


_WATCHED: dict[str, float] = {}
"""When the last watch of a path began."""


@dataclass(frozen=True, kw_only=True)
class PacedSession(kopf.AiohttpSession):
    """kopf's session, paced. Two are the same where their login is: kopf gives up one that was refused."""

    login: kopf.ConnectionInfo
    aiohttp_session: aiohttp.ClientSession = field(compare=False)


def paced(login: kopf.ConnectionInfo) -> PacedSession:
    """Return a session with a login; kopf closes it."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=login.as_ssl_context()),
        headers=login.as_http_headers(),
        middlewares=(pace,),
    )
    namespace = login.default_namespace
    return PacedSession(server=login.server, default_namespace=namespace, login=login, aiohttp_session=session)


def build_registry(queue: KeyQueue[Key]) -> kopf.OperatorRegistry:
    """Return the handlers: each only adds a key."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**kwargs: Any) -> Any:
        found = in_cluster_login() or kopf.login_with_kubeconfig(**kwargs)
        return found and paced(found)

    @kopf.on.startup(registry=registry)
    def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        kopf_settings(settings)

    @kopf.on.event(RESOURCE.group, RESOURCE.version, RESOURCE.plural, registry=registry, id="resource")
    def resource_event(body: Mapping[str, Any], **_: Any) -> None:
        queue.add((str(body["metadata"]["namespace"]), str(body["metadata"]["name"])))

    def watch(kind: Kind) -> None:
        @kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=kind.plural)
        def child_event(body: Mapping[str, Any], **_: Any) -> None:
            if key := owner_key(body):
                queue.add(key)

    for kind in CHILD_KINDS:
        watch(kind)
    return registry


async def resync(
    api: ClusterApi, queue: KeyQueue[Key], health: Health, namespace: str | None, leading: asyncio.Event
) -> None:
    """List the resources for ever; who leads queues them all, and jitter keeps them from coming together."""
    while True:
        try:
            listed = await api.list(RESOURCE, namespace=namespace)
        except ClusterError as error:
            log.warning("resync failed", error=str(error))
        else:
            health.was_listed()
            keys = [(resource["metadata"]["namespace"], resource["metadata"]["name"]) for resource in listed]
            health.exported.forget_others(keys)
            for key in keys if leading.is_set() else ():
                queue.add(key, after=random.uniform(0, 5))  # noqa: S311 - jitter
        await asyncio.sleep(RESYNC_SECONDS)


async def first_list(api: ClusterApi, namespace: str | None) -> None:
    """List the resources once: kopf would wait in silence for a definition that is not there.

    An API server that is busy is asked again: right after a CRD was made it answers 429 for a moment (measured).

    Raises:
        ClusterError: where the answer will not change by waiting, or did not in ``PATIENCE_SECONDS``.
    """
    limit = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            await api.list(RESOURCE, namespace=namespace)
        except ClusterError as error:
            if error.status in REMEDIES or time.monotonic() > limit:
                raise
            log.info("the API server is not ready", error=str(error))
            await asyncio.sleep(error.retry_after or 1.0)
        else:
            return


class Informer:
    """kopf's watches: begun, waited for, ended."""

    def __init__(self, queue: KeyQueue[Key], identity: str, namespace: str | None) -> None:
        """Keep what is told to whom; nothing runs yet.

        Args:
            queue: gets the keys.
            identity: without one kopf asks for a user name, and dies where the uid has none.
            namespace: the one to watch; all where None.
        """
        self.queue = queue
        self.identity = identity
        self.namespaces = [namespace] if namespace else []
        self.end = asyncio.Event()
        self.tasks: Collection[asyncio.Task[Any]] = ()
        self.not_kopfs: Collection[asyncio.Task[Any]] = ()

    async def start(self) -> None:
        """Begin; every task that is begun later is kopf's, and ends with it. kopf takes the signals, too."""
        self.not_kopfs = asyncio.all_tasks()
        self.tasks = await kopf.spawn_tasks(
            registry=build_registry(self.queue),
            identity=cast(Any, self.identity),
            standalone=True,
            clusterwide=not self.namespaces,
            namespaces=self.namespaces,
            stop_flag=self.end,
        )

    async def ends(self) -> None:
        """Wait until one of kopf's parts ends: the others are of no use without it."""
        await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)

    async def stop(self) -> None:
        """End all of it, where it was begun.

        Raises:
            Exception: what one of its parts had ended with.
        """
        self.end.set()
        if self.tasks:
            await kopf.run_tasks(self.tasks, ignored=self.not_kopfs)


def configure_log() -> None:
    """Have kopf log in JSON, and only what went wrong of each event: a line for every event would bury ours."""
    kopf.configure(log_format=kopf.LogFormat.JSON)
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
