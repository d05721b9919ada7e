"""The probe's process: one server for its whole life, and one lifetime at a time behind it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path

import structlog
from aiohttp import web
from prometheus_client import disable_created_metrics, generate_latest

from detinf.documents import Again, DocumentError, Phase, PodIdentity, ProbeSettings, Report
from detinf.guard import layout
from detinf.guard.attestation import is_held
from detinf.probe.again import read_asked
from detinf.probe.attested import Attested, present, read_attested
from detinf.probe.client import EngineClient
from detinf.probe.delivery import Delivery
from detinf.probe.exported import Exported
from detinf.probe.lifetime import POLL_SECONDS, Lifetime
from detinf.probe.metrics import Series
from detinf.probe.readiness import Files, not_ready
from detinf.probe.server import ProbeServer
from detinf.probe.trace import Trace

log = structlog.get_logger()


class Probe:
    """What the process knows: its files, and the lifetime that runs now."""

    def __init__(
        self,
        *,
        files: Files,
        settings: Path,
        delivery: Path,
        engine_url: str,
        pod: PodIdentity,
        node: str | None = None,
    ) -> None:
        """Keep the paths; nothing is read yet."""
        self.files = files
        self.settings_path = settings
        self.delivery = Delivery(delivery)
        self.engine_url = engine_url
        self.pod = pod
        self.node = node
        self.exported = Exported()
        self.lifetime: Lifetime | None = None
        self.waiting_for: list[str] = []

    def read_settings(self) -> ProbeSettings:
        """Return the settings as they are mounted now.

        Raises:
            DocumentError: where they cannot be read.
        """
        try:
            return ProbeSettings.parse(self.settings_path.read_bytes())
        except OSError as error:
            raise DocumentError(
                f"probe-settings: {self.settings_path}: {error.strerror}; mount the ConfigMap"
            ) from error

    def report(self) -> Report:
        """Return the report as of now."""
        reasons = not_ready(self.files)
        lifetime = self.lifetime
        if lifetime is None:
            return Report(
                pod=self.pod,
                phase=Phase.WAITING_FOR_ATTESTATION,
                ready=not reasons,
                reasons=reasons or self.waiting_for,
                cells=[],
            )
        return Report(
            pod=self.pod,
            boot=lifetime.attested.boot,
            boot_started_unix_ms=lifetime.attested.boot_started_unix_ms,
            guard_runs=is_held(self.files.shared) or None,
            plan_digest=lifetime.attested.plan_digest,
            fingerprint=lifetime.attested.fingerprint,
            references_digest=lifetime.books.references_digest,
            baseline_digest=lifetime.books.baseline_digest,
            phase=lifetime.phase,
            ready=not reasons,
            reasons=[*lifetime.problems, *reasons] if reasons else [],
            proposal=lifetime.proposal,
            candidate=lifetime.candidate,
            cells=lifetime.books.ledger.listed(),
            evidence=lifetime.books.evidence,
            further=lifetime.books.further or None,
            hint=lifetime.books.hint(),
            hardware=lifetime.attested.hardware,
            identity=lifetime.attested.identity,
            overridden=lifetime.attested.overridden,
            model=lifetime.attested.model,
            replies=lifetime.books.replies_to(self.asked()) or None,
        )

    def asked(self) -> list[Again]:
        """Return what the controller asks again as of now; a broken annotation asks nothing, and the watch says so."""
        with contextlib.suppress(ValueError):
            return read_asked(self.files.podinfo)
        return []

    def metrics(self, now: int) -> bytes:
        """Return the metrics page as of now."""
        self.exported.show_attested(present(self.files.plan, self.files.shared))
        if self.lifetime is not None:
            with contextlib.suppress(DocumentError):
                stale_after = self.read_settings().schedule.stale_after_seconds
                ready = not not_ready(self.files)
                self.exported.refresh(self.lifetime.books.ledger, now=now, stale_after=stale_after, ready=ready)
        return generate_latest(self.exported.registry)

    async def run(self) -> None:
        """Follow the boots: a lifetime begins with a complete attestation and ends when it is no longer that boot's."""
        while True:
            attested = read_attested(self.files.plan, self.files.shared)
            if not isinstance(attested, Attested):
                self.waiting_for = attested
                await asyncio.sleep(POLL_SECONDS)
                continue
            try:
                settings = self.read_settings()
            except DocumentError as error:
                self.waiting_for = [str(error)]
                await asyncio.sleep(POLL_SECONDS)
                continue
            log.info("lifetime", boot=attested.boot, fingerprint=attested.fingerprint)
            series = Series.named(settings.metrics)
            name = settings.served_model_name
            async with EngineClient(self.engine_url, name, boot=attested.boot, series=series) as client:
                await self.live(attested, client)

    async def live(self, attested: Attested, client: EngineClient) -> None:
        """Run one lifetime until its attestation is gone or another's."""
        self.lifetime = Lifetime(
            attested=attested,
            pod=self.pod,
            client=client,
            delivery=self.delivery,
            state=self.files.state,
            podinfo=self.files.podinfo,
            trace=Trace(self.files.shared / layout.TRACE_NAME, attested.boot),
            read_settings=self.read_settings,
            exported=self.exported,
            node=self.node,
        )
        task = asyncio.create_task(self.lifetime.run())
        try:
            while read_attested(self.files.plan, self.files.shared) == attested:
                done, _ = await asyncio.wait([task], timeout=POLL_SECONDS)
                if done:
                    # It never returns; an error in it is ours, and the kubelet restarts the probe.
                    task.result()
        finally:
            task.cancel()
            await asyncio.wait([task])  # and not the task itself: our own cancellation would look like its
            with contextlib.suppress(asyncio.CancelledError):
                task.result()
            self.lifetime = None
            self.exported.gate.set(0)


async def serve(options: argparse.Namespace, listener: socket.socket) -> None:
    """Answer at a port that is held, and follow the engine until SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    files = Files(options.plan, options.shared_dir, options.state_dir, options.podinfo_dir)
    pod = PodIdentity(
        namespace=os.environ.get("POD_NAMESPACE", ""),
        name=os.environ.get("POD_NAME", ""),
        uid=os.environ.get("POD_UID", ""),
    )
    probe = Probe(
        files=files,
        settings=options.settings,
        delivery=options.delivery_dir,
        engine_url=options.engine_url,
        pod=pod,
        node=os.environ.get("NODE_NAME") or None,
    )
    server = ProbeServer(not_ready=lambda: not_ready(files), report=probe.report, refresh_metrics=probe.metrics)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    # Before anybody is answered: the first report has what a probe before this one left on the books.
    following = asyncio.create_task(probe.run())
    await web.SockSite(runner, listener).start()
    log.info("listening", port=options.port)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([following, stopping], return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
    finally:
        for task in (following, stopping):
            task.cancel()
        await asyncio.gather(following, stopping, return_exceptions=True)
        await runner.cleanup()


def main(options: argparse.Namespace, listener: socket.socket) -> int:
    """Run the probe with its command line's options (``port.parser``) and a socket that listens."""
    # As many series again, of which nobody has a use.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )
    asyncio.run(serve(options, listener))
    return 0
