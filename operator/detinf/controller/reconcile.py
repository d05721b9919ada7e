"""Workers: take a key, gather, decide, carry out; come back when the decision says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from detinf.api import names
from detinf.cluster.port import POD, RESOURCE, ClusterApi, ClusterError
from detinf.controller.actions import Apply, Create, Delete, Notice, Outcome
from detinf.controller.carry_out import carry_out
from detinf.controller.decide import SOON_SECONDS, Decision, decide
from detinf.controller.events import event
from detinf.controller.exported import Exported
from detinf.controller.gather import ReportSource, gather, with_places
from detinf.controller.observed import Observed, Places
from detinf.controller.pods import label
from detinf.controller.queue import KeyQueue
from detinf.controller.retries import Retries
from detinf.controller.settings import OperatorSettings
from detinf.documents import Evidence

Key = tuple[str, str]
"""(namespace, name)"""

log = structlog.get_logger()


FAILED = "the resource is not looked after until this is mended: kubectl logs of the controller has the place"
PLACES_SECONDS = 30.0
"""All nodes and all pods are much to read: while there is no place, they are read so often."""


@dataclass(frozen=True)
class KnownPlaces:
    """Nodes and pods, as they were when they had no place."""

    places: Places
    generation: int
    until: float


class Reconciler:
    """One level-triggered function, and what runs it."""

    def __init__(
        self,
        api: ClusterApi,
        reports: ReportSource,
        settings: OperatorSettings,
        exported: Exported,
        *,
        instance: str,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep the ports; nothing runs yet.

        Args:
            api: the cluster.
            reports: what the probes say.
            settings: the chart's settings.
            exported: our metrics.
            instance: who we are, for Events.
            now: Unix seconds.
            monotonic: seconds that only grow, for the queue.
        """
        self.api = api
        self.reports = reports
        self.settings = settings
        self.exported = exported
        self.instance = instance
        self.now = now
        self.queue: KeyQueue[Key] = KeyQueue(monotonic)
        self.retries = Retries(monotonic)
        self._places: dict[Key, KnownPlaces] = {}
        self._unread: dict[Key, int] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Bring one resource closer to what it asks for; return when to look again, in seconds.

        What is refused does not keep the probes from being asked: it is looked at again as soon as ever, and what was
        refused is tried less and less often (``retries.py``).

        Raises:
            ClusterError: where the API server did not answer, or took no status.
        """
        observed = await gather(self.api, self.reports, *key)
        if observed is None:
            self.exported.forget(*key)
            self.retries.keep(key, set())
            self._places.pop(key, None)
            self._unread.pop(key, None)
            return None
        self.exported.seen(*key)
        self._unread[key] = self._unread.get(key, 0) + 1 if observed.unread else 0
        observed = replace(observed, unread_looks=self._unread[key])
        now = self.now()
        decision = decide(observed, self.settings, now)
        if decision.wants_places:
            observed, decision = await self._with_places(key, observed, now)
        outcome = await carry_out(self.api, observed, decision, now=now, instance=self.instance, retries=self.retries)
        self._count(key, observed, outcome)
        if outcome.refused:
            self.exported.failed()
            return SOON_SECONDS
        return decision.requeue_seconds

    async def _with_places(self, key: Key, observed: Observed, now: float) -> tuple[Observed, Decision]:
        """Decide with the nodes: with those of a while ago only for as long as they are why somebody stays."""
        known = self._places.get(key)
        if known is not None and known.until > self.queue.clock() and known.generation == observed.generation:
            looked = replace(observed, places=known.places)
            if (decision := decide(looked, self.settings, now)).held:
                return looked, decision
        looked = await with_places(self.api, observed)
        decision = decide(looked, self.settings, now)
        self._places.pop(key, None)
        if decision.held and looked.places is not None:
            until = self.queue.clock() + PLACES_SECONDS
            self._places[key] = KnownPlaces(looked.places, observed.generation, until)
        return looked, decision

    def _count(self, key: Key, observed: Observed, outcome: Outcome) -> None:
        """Count what was done: it is on record when the pods that it was about are gone."""
        isolated = {item.index for item in observed.replicas if item.isolated_boot is not None}
        for action in outcome.done:
            match action:
                case Create(manifest) if label(manifest, names.LABEL_DOCUMENT) == Evidence.KIND:
                    self.exported.diverged(*key)
                case Apply(manifest) if label(manifest, names.LABEL_DIVERGED_BOOT) is not None:
                    if not any(manifest["metadata"]["name"] == names.pod_name(key[1], index) for index in isolated):
                        self.exported.isolated(*key)
                case Delete(kind) if kind == POD:
                    self.exported.replaced(*key)
        self.exported.conditions(*key, outcome.conditions)

    async def _say_failed(self, key: Key, error: Exception) -> None:
        """Tell on the resource that nobody looks after it: a status that is not written looks like a good one."""
        words = f"{type(error).__name__}: {error}"[:200]
        told = Notice("ReconcileFailed", f"{words}; {FAILED}", words, warning=True)
        try:
            resource = await self.api.get(RESOURCE, *key)
            if resource is not None:
                await self.api.create(event(Observed(resource), told, now=self.now(), instance=self.instance))
        except Exception as failed:  # noqa: BLE001 - the log has the first, and the next try comes
            log.warning("event lost", reason=told.reason, error=str(failed))

    async def work(self) -> None:
        """Work on keys for ever."""
        while True:
            key = await self.queue.get()
            with structlog.contextvars.bound_contextvars(namespace=key[0], name=key[1]):
                await self.work_on(key)
            self.exported.observe_queue(self.queue)

    async def work_on(self, key: Key) -> None:
        """Reconcile one key; an error is counted, logged and retried with back-off."""
        start = time.monotonic()
        try:
            again = await self.reconcile(key)
        except ClusterError as error:
            delay = self.queue.failed(key, at_least=error.retry_after or 0.0)
            self.exported.reconciled("error", time.monotonic() - start)
            log.warning("reconcile failed", error=str(error), again_in=round(delay, 1))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            delay = self.queue.failed(key)
            self.exported.reconciled("error", time.monotonic() - start)
            log.exception("reconcile failed", again_in=round(delay, 1))
            await self._say_failed(key, error)
        else:
            self.queue.done(key, again_after=again)
            self.exported.reconciled("success" if again is None else "requeue_after", time.monotonic() - start)
