"""The controller's process. kopf is informer, login and lifecycle here, and nothing else.

Its ``on.event`` handlers only add a key to our queue: they are not retried and their errors are swallowed (kopf's own
design), while the queue's are. No index, daemon, timer or state-changing handler is used, so that kopf writes nothing
on any object and no finalizer waits for us.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import aiohttp
import kopf
import structlog
import yaml
from aiohttp import web
from prometheus_client import generate_latest

from detinf.api import names
from detinf.cluster.adapter import KubernetesApi, load_configuration
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
from detinf.controller.exported import Exported
from detinf.controller.gather import HttpReports
from detinf.controller.pods import label
from detinf.controller.reconcile import Reconciler
from detinf.controller.settings import OperatorSettings, SettingsError, parse

WORKERS = 8
RESYNC_SECONDS = 120.0
"""Every resource is looked at again at least this often: a watch that lost an event heals here."""
MAX_RESYNC_AGE = 3 * RESYNC_SECONDS
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


def read_settings(path: Path) -> OperatorSettings:
    """Return the chart's settings.

    Raises:
        SettingsError: where the file is missing or wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--config: {path}: {error.strerror}; mount the chart's ConfigMap there") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"--config: {path} is no YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise SettingsError(f"--config: {path} is no mapping; see the chart's configmap.yaml")
    return parse(content)


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


def build_registry(reconciler: Reconciler) -> kopf.OperatorRegistry:
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
        reconciler.queue.add((str(body["metadata"]["namespace"]), str(body["metadata"]["name"])))

    def watch(kind: Kind) -> None:
        @kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=kind.plural)
        def child_event(body: Mapping[str, Any], **_: Any) -> None:
            if key := owner_key(body):
                reconciler.queue.add(key)

    for kind in CHILD_KINDS:
        watch(kind)
    return registry


class Health:
    """What the kubelet may know: that the loop turns, and that the resources were listed lately."""

    def __init__(self, exported: Exported) -> None:
        """Start with nothing listed."""
        self.exported = exported
        self.listed: float | None = None

    def problem(self) -> str | None:
        """Return why we are not well, or None."""
        if self.listed is None:
            return "the resources were not listed yet"
        age = time.monotonic() - self.listed
        return f"the resources were last listed {age:.0f} s ago" if age > MAX_RESYNC_AGE else None

    async def answer(self, _request: web.Request) -> web.Response:
        """Answer the kubelet."""
        problem = self.problem()
        return web.Response(text=f"{problem or 'ok'}\n", status=503 if problem else 200)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Answer Prometheus."""
        content_type = "text/plain; version=0.0.4; charset=utf-8"
        return web.Response(body=generate_latest(self.exported.registry), headers={"Content-Type": content_type})

    def application(self) -> web.Application:
        """Return the application."""
        app = web.Application()
        app.router.add_get("/healthz", self.answer)
        app.router.add_get("/readyz", self.answer)
        app.router.add_get("/metrics", self.metrics)
        return app


async def resync(api: KubernetesApi, reconciler: Reconciler, health: Health, namespace: str | None) -> None:
    """List the resources and queue them all, for ever; jitter keeps them from coming together."""
    while True:
        try:
            listed = await api.list(RESOURCE, namespace=namespace)
        except ClusterError as error:
            log.warning("resync failed", error=str(error))
        else:
            health.listed = time.monotonic()
            for resource in listed:
                key = (resource["metadata"]["namespace"], resource["metadata"]["name"])
                reconciler.queue.add(key, after=random.uniform(0, 5))  # noqa: S311 - jitter
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


async def run(options: argparse.Namespace, settings: OperatorSettings) -> int:
    """Run the controller until a signal; return its exit code."""
    exported = Exported()
    health = Health(exported)
    identity = os.environ.get("POD_ID") or os.environ.get("HOSTNAME") or "detinf-controller"
    configuration = await load_configuration(options.kubeconfig)
    runner = web.AppRunner(health.application(), access_log=None, shutdown_timeout=1)
    async with KubernetesApi(configuration, exported.requested) as api, HttpReports() as reports:
        try:
            await first_list(api, options.namespace)
        except ClusterError as error:
            log.error("cannot list the resources", error=str(error), remedy=REMEDIES.get(error.status or 0, ANY_REMEDY))  # noqa: TRY400 - no bug of ours
            return 1
        reconciler = Reconciler(api, reports, settings, exported, instance=identity)
        await runner.setup()
        await web.TCPSite(runner, options.host, options.port).start()
        ticker = asyncio.create_task(resync(api, reconciler, health, options.namespace))
        try:
            async with reconciler.running(WORKERS):
                await kopf.operator(
                    registry=build_registry(reconciler),
                    # Without one it asks for a user name, and dies where the uid has none.
                    identity=cast(Any, identity),
                    standalone=True,
                    clusterwide=options.namespace is None,
                    namespaces=[options.namespace] if options.namespace else [],
                )
        finally:
            ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticker
            await runner.cleanup()
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(prog="detinf.controller", description="The controller.")
    top.add_argument("--config", type=Path, default=Path("/etc/detinf/config.yaml"), help="the chart's settings")
    top.add_argument("--namespace", default=None, help="watch this namespace only")
    top.add_argument("--kubeconfig", default=None, help="outside a cluster")
    top.add_argument("--host", default="0.0.0.0")  # noqa: S104 - the kubelet and Prometheus come from outside
    top.add_argument("--port", type=int, default=8080)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run the controller."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )
    options = parser().parse_args(arguments)
    if options.kubeconfig:
        os.environ["KUBECONFIG"] = options.kubeconfig  # kopf's own login reads it
    try:
        settings = read_settings(options.config)
    except SettingsError as error:
        print(f"detinf controller: {error}", file=sys.stderr)  # noqa: T201 - before there is a log
        return 2
    kopf.configure(log_format=kopf.LogFormat.JSON)
    return asyncio.run(run(options, settings))
