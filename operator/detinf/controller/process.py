"""The controller's process: it reads its settings, sees that it could work, waits for the lease, works, and ends.

Of what runs at the same time the first part that ends ends all of it: a lease that is renewed for workers that died, or
workers without a lease, are worse than a process that Kubernetes starts again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import uuid
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import yaml

from detinf.cluster.adapter import load_configuration
from detinf.cluster.lease_api import FencedApi, LeaseApi
from detinf.cluster.port import ClusterApi, ClusterError
from detinf.controller.app import ANY_REMEDY, EXIT_SECONDS, REMEDIES, Informer, configure_log, first_list, resync
from detinf.controller.exported import Exported
from detinf.controller.gather import HttpReports
from detinf.controller.health import Health
from detinf.controller.lease import Elector, LeaseLostError, Timings
from detinf.controller.reconcile import Reconciler
from detinf.controller.settings import OperatorSettings, SettingsError, parse
from detinf.guard.addresses import EVERY

WORKERS = 8
WORKERS_END_SECONDS = 10.0
LEASE_REMEDY = "grant the rights of the chart's Role in the namespace of --lease-namespace"

log = structlog.get_logger()


def read_settings(path: Path) -> OperatorSettings:
    """Return the chart's settings.

    Raises:
        SettingsError: where the file is missing or wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--config: {path}: {error.strerror}; mount the chart's settings there") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"--config: {path} is no YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise SettingsError(f"--config: {path} is no mapping; see the chart's deployment.yaml")
    return parse(content)


class StartError(Exception):
    """Why this process could not work; the message names what is missing and the remedy."""


class Process:
    """One controller, from its first request to its last."""

    def __init__(self, options: argparse.Namespace, settings: OperatorSettings) -> None:
        """Keep what it is told; nothing runs yet."""
        self.options = options
        self.settings = settings
        self.exported = Exported()
        self.health = Health(self.exported)
        self.signalled = asyncio.Event()
        self.leading = asyncio.Event()

    async def run(self) -> int:
        """Live until a signal, or until something ends that must not; return the exit code."""
        self.obey_signals()
        life = asyncio.create_task(self.live())
        signalled = asyncio.create_task(self.signalled.wait())
        await asyncio.wait({life, signalled}, return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        if self.signalled.is_set():
            log.info("ending, as a signal asks for")
            life.cancel()
        await asyncio.wait({life})
        if life.cancelled():
            return 0
        error = life.exception()
        if isinstance(error, StartError | LeaseLostError):
            log.error("ending", why=str(error))
        else:
            log.error("ending", why="what must not end has ended", exc_info=error)
        return 1

    def obey_signals(self) -> None:
        """Have signals end us in our order: the work, the lease, the watches."""
        for which in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(which, self.signalled.set)

    async def live(self) -> None:
        """See that we could work, wait for the lease, and work for as long as it is ours.

        Raises:
            Exception: what ended it.
        """
        options = self.options
        configuration = await load_configuration(options.kubeconfig)
        async with contextlib.AsyncExitStack() as opened:
            await opened.enter_async_context(self.health.served(options.host, options.port))
            elector = None
            if options.lease_namespace:
                leases = LeaseApi(configuration, options.lease_namespace, options.lease_name, self.exported.requested)
                elector = Elector(await opened.enter_async_context(leases), lease_identity(), timings(options))
            else:
                log.warning("no lease is held: another controller would work, too", remedy="give --lease-namespace")
            may_write = elector.leads if elector else lambda: True
            api = await opened.enter_async_context(FencedApi(configuration, may_write, self.exported.requested))
            reports = await opened.enter_async_context(HttpReports())
            await self.see_that_it_could_work(api, elector)
            lease = f"{options.lease_namespace}/{options.lease_name}" if options.lease_namespace else ""
            settings = replace(self.settings, lease=lease)
            reconciler = Reconciler(api, reports, settings, self.exported, instance=identity())
            listing = resync(api, reconciler.queue, self.health, options.namespace, self.leading)
            await self.lead(reconciler, elector, asyncio.create_task(listing, name="resync"))

    async def see_that_it_could_work(self, api: ClusterApi, elector: Elector | None) -> None:
        """List the resources, and read the Lease: whoever cannot must not end the one that works.

        Raises:
            StartError: where it cannot.
        """
        try:
            await first_list(api, self.options.namespace)
        except ClusterError as error:
            remedy = REMEDIES.get(error.status or 0, ANY_REMEDY)
            raise StartError(f"cannot list the resources: {error}; {remedy}") from error
        try:
            if elector:
                await elector.look()
        except ClusterError as error:
            remedy = LEASE_REMEDY if error.status == 403 else REMEDIES.get(error.status or 0, ANY_REMEDY)
            raise StartError(f"cannot read the lease: {error}; {remedy}") from error
        self.health.was_listed()
        self.health.ready = True

    async def lead(self, reconciler: Reconciler, elector: Elector | None, listing: asyncio.Task[None]) -> None:
        """Wait for the lease, and work until one of the parts ends.

        Raises:
            Exception: what ended it.
        """
        name = self.options.lease_name
        self.exported.leads(name, leading=False)
        parts = [listing]
        informer = Informer(reconciler.queue, identity(), self.options.namespace)
        try:
            if elector:
                await acquired(elector)
                parts.append(asyncio.create_task(elector.keep(), name="lease"))
            self.leading.set()
            self.exported.leads(name, leading=True)
            parts += [asyncio.create_task(reconciler.work(), name=f"worker {number}") for number in range(WORKERS)]
            await informer.start()
            self.obey_signals()  # kopf has taken them
            parts.append(asyncio.create_task(informer.ends(), name="watches"))
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            log.info("a part ended", parts=sorted(task.get_name() for task in done))
            for task in done:
                task.result()
        finally:
            # kopf's end may wait for what never comes (1.45.2, measured where one watch died).
            asyncio.get_running_loop().call_later(EXIT_SECONDS, os._exit, 1)
            self.exported.leads(name, leading=False)
            if await ended(parts) and elector:
                await elector.release()
            await informer.stop()


async def acquired(elector: Elector) -> None:
    """Wait until the lease is ours.

    Raises:
        StartError: where we have no right to it.
    """
    try:
        await elector.acquire()
    except ClusterError as error:
        raise StartError(f"cannot take the lease: {error}; {LEASE_REMEDY}") from error


async def ended(tasks: Collection[asyncio.Task[Any]]) -> bool:
    """End tasks, and return whether they have ended in time; what they raise is no longer of interest."""
    for task in tasks:
        task.cancel()
    _, pending = await asyncio.wait(tasks, timeout=WORKERS_END_SECONDS)
    if pending:
        log.warning("still running", parts=sorted(task.get_name() for task in pending))
    return not pending


def identity() -> str:
    """Return who we are, for people."""
    return os.environ.get("POD_ID") or os.environ.get("HOSTNAME") or "detinf-controller"


def lease_identity() -> str:
    """Return who we are, for the lease: two processes that run at once never have the same.

    A pod's containers run one after the other, so that the next one goes on with the lease at once.
    """
    return os.environ.get("POD_ID") or f"{identity()}_{uuid.uuid4().hex[:8]}"


def timings(options: argparse.Namespace) -> Timings:
    """Return how the lease is held.

    Raises:
        ValueError: where the numbers leave a gap.
    """
    return Timings(options.lease_duration, options.lease_renew_deadline, options.lease_retry_period)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(prog="detinf.controller", description="The controller.")
    top.add_argument("--config", type=Path, default=Path("/etc/detinf/config.yaml"), help="the chart's settings")
    top.add_argument("--check", action="store_true", help="say whether the settings are good, and end")
    top.add_argument("--namespace", default=None, help="watch this namespace only")
    top.add_argument("--kubeconfig", default=None, help="outside a cluster")
    top.add_argument("--host", default=EVERY)  # the kubelet and Prometheus come from outside
    top.add_argument("--port", type=int, default=8080)
    times = Timings()
    lease = top.add_argument_group("lease", "which of several controllers works; seconds, with client-go's defaults")
    lease.add_argument("--lease-namespace", default=None, help="where the Lease is; without one there is none")
    lease.add_argument("--lease-name", default="detinf", help="one for each installation")
    lease.add_argument("--lease-duration", type=int, default=times.duration)
    lease.add_argument("--lease-renew-deadline", type=float, default=times.renew_deadline)
    lease.add_argument("--lease-retry-period", type=float, default=times.retry)
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
        timings(options)
    except ValueError as error:  # SettingsError is one
        print(f"detinf controller: {error}", file=sys.stderr)  # noqa: T201 - before there is a log
        return 2
    if options.check:
        print("detinf controller: the settings are good")  # noqa: T201 - what was asked for
        return 0
    configure_log()

    async def run() -> int:
        return await Process(options, settings).run()

    return asyncio.run(run())
