"""What was gathered about one resource: the only input of a decision, beside the clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from detinf.api import names
from detinf.cluster.port import Manifest
from detinf.controller import pods
from detinf.controller.builders.records import data_key
from detinf.documents import Baseline, Candidate, Document, DocumentError, Evidence, References, Report


@dataclass(frozen=True)
class Replica:
    """One replica: its StatefulSet, its pod, and what its probe reports; None where there is none."""

    index: int
    stateful_set: Manifest | None
    pod: Manifest | None
    report: Report | None
    """Only a report that can be trusted to be this pod's and this boot's."""
    ending: Manifest | None = None
    """Its pod that is being deleted, where there is no other one yet."""
    recorded: Sequence[Evidence] = ()
    """What is on record of the boot that runs now, the oldest first."""
    unlabelled: Manifest | None = None
    """What has its pod's name and is not its pod: one that lost its labels, or somebody else's."""

    @property
    def asked_about(self) -> str | None:
        """The uid of what Events are about: the pod, else the StatefulSet that has none."""
        regarding = self.pod or self.stateful_set
        return None if regarding is None else pods.uid_of(regarding)

    @property
    def ready(self) -> bool:
        """Whether the Service sends requests to it."""
        return self.pod is not None and pods.is_ready(self.pod)

    @property
    def started(self) -> bool:
        """Whether the engine's health check has answered once in this life of its container."""
        return self.pod is not None and bool(pods.container_status(self.pod, names.ENGINE_CONTAINER).get("started"))

    @property
    def isolated_boot(self) -> str | None:
        """The boot that was isolated, by label."""
        return None if self.pod is None else pods.label(self.pod, names.LABEL_DIVERGED_BOOT)

    @property
    def evidence(self) -> Evidence | None:
        """The first divergence of the boot that runs now."""
        return next(iter(self.pieces), None)

    @property
    def pieces(self) -> list[Evidence]:
        """Everything that the boot that runs now diverged on, the first divergence first.

        What is on record of it counts as well as what its probe reports: a probe may lose its books, or not be reached.
        """
        report = self.report
        told = [] if report is None else [report.evidence, *(report.further or ())]
        found = [item for item in told if item is not None and item.boot == (report and report.boot)]
        return found or list(self.recorded)

    @property
    def leaves(self) -> bool:
        """Whether its pod is out of the Service by its label."""
        return self.pod is not None and pods.label(self.pod, names.LABEL_SERVING) == "false"

    @property
    def revision(self) -> str | None:
        """The revision of the pod."""
        return None if self.pod is None else pods.label(self.pod, names.LABEL_REVISION)


@dataclass(frozen=True)
class Places:
    """What a place for a pod depends on; read only where a pod that serves is to go."""

    nodes: list[Manifest] = field(default_factory=list)
    pods: list[Manifest] = field(default_factory=list)
    """Of all namespaces."""
    unread: str | None = None
    """Why they could not be read."""


@dataclass(frozen=True)
class Observed:
    """A resource, its children by label, and its probes' reports by pod uid."""

    resource: Manifest
    stateful_sets: list[Manifest] = field(default_factory=list)
    services: list[Manifest] = field(default_factory=list)
    config_maps: list[Manifest] = field(default_factory=list)
    budgets: list[Manifest] = field(default_factory=list)
    pods: list[Manifest] = field(default_factory=list)
    reports: Mapping[str, Report] = field(default_factory=dict)
    events: Mapping[str, list[Manifest]] = field(default_factory=dict)
    """By uid: what the cluster said about a StatefulSet without a pod, or a pod whose containers are not created."""
    unlabelled: Mapping[str, Manifest] = field(default_factory=dict)
    """By name: pods that have the name of a replica's pod and not its labels."""
    places: Places | None = None
    """None where nobody has looked: then nothing that serves goes for another one."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Kinds of children that could not be listed, with the API server's words: nothing of them is applied."""
    unread_looks: int = 0
    """So many looks in a row."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """By name, records that were met and hold no document that can be read, and why; they count for nothing."""

    @property
    def name(self) -> str:
        """The resource's name."""
        return str(self.resource["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """The resource's namespace."""
        return str(self.resource["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        """The resource's uid."""
        return pods.uid_of(self.resource)

    @property
    def generation(self) -> int:
        """The resource's generation."""
        return int(self.resource["metadata"].get("generation", 0))

    @property
    def old_status(self) -> Mapping[str, Any]:
        """The status that is there."""
        return dict(self.resource.get("status") or {})

    @property
    def conditions(self) -> list[Mapping[str, Any]]:
        """The conditions of the status that is there."""
        return list(self.old_status.get("conditions") or [])

    def condition(self, kind: str) -> str | None:
        """Return what a condition of the status that is there says, or None."""
        return next((item.get("status") for item in self.conditions if item.get("type") == kind), None)

    @cached_property
    def _listed(self) -> list[Manifest]:
        return [*self.stateful_sets, *self.services, *self.config_maps, *self.budgets]

    @cached_property
    def children(self) -> dict[tuple[str, str], Manifest]:
        """Children that this resource controls, by kind and name."""
        return {
            (child["kind"], child["metadata"]["name"]): child
            for child in self._listed
            if pods.controlled_by(child, [self.uid])
        }

    @cached_property
    def strangers(self) -> list[Manifest]:
        """What has the labels of our children and no controller: nobody will collect it, and it counts for nothing."""
        return [
            child
            for child in self._listed
            if pods.controller_of(child) is None and not child["metadata"].get("deletionTimestamp")
        ]

    @cached_property
    def replicas(self) -> list[Replica]:
        """Replicas that have a StatefulSet or a pod, by index."""
        sets = {
            index: child
            for (kind, _), child in self.children.items()
            if kind == "StatefulSet" and (index := pods.index_of(child)) is not None
        }
        owners = [pods.uid_of(child) for child in sets.values()]
        found: dict[int, Manifest] = {}
        ending: dict[int, Manifest] = {}
        for pod in self.pods:
            index = pods.index_of(pod)
            if index is not None and pods.controlled_by(pod, owners):
                (ending if pods.is_terminating(pod) else found)[index] = pod
        return [
            Replica(
                index,
                sets.get(index),
                found.get(index),
                report := self._report(found.get(index)),
                None if index in found else ending.get(index),
                self._recorded(found.get(index), report),
                self.unlabelled.get(names.pod_name(self.name, index)),
            )
            for index in sorted({*sets, *found})
        ]

    def _recorded(self, pod: Manifest | None, report: Report | None) -> list[Evidence]:
        """Return the evidence on record of the boot that runs in a pod."""
        started = None if pod is None else pods.engine_started(pod)
        if pod is None or started is None:
            return []
        boot = None if report is None else report.boot
        first = not pods.engine_restarts(pod)
        return [
            item
            for _, item in self.evidence
            if item.pod.uid == pods.uid_of(pod)
            and (item.boot == boot if boot else first or item.detected_unix >= started)
        ]

    @cached_property
    def uncounted(self) -> list[tuple[Manifest, Report | None]]:
        """Pods that the Service sends users to and that are no replica of ours, with what their probes report.

        Their labels are ours and their StatefulSet is not, such as one that a hand took our owner reference from.
        """
        counted = {pods.uid_of(item.pod) for item in self.replicas if item.pod is not None}
        return [
            (pod, self._report(pod))
            for pod in self.pods
            if pods.uid_of(pod) not in counted
            and pods.is_ready(pod)
            and pods.label(pod, names.LABEL_SERVING) != "false"
        ]

    def _report(self, pod: Manifest | None) -> Report | None:
        """Return a pod's report where it counts: its uid, and a boot no older than the engine that runs now.

        A clock that steps back makes the present boot look older than its container. So times decide only where nothing
        else does: no engine ran before in this pod, or the probe knows that the boot's guard runs.
        """
        if pod is None:
            return None
        report = self.reports.get(pods.uid_of(pod))
        started = pods.engine_started(pod)
        if report is None or report.pod.uid != pods.uid_of(pod) or started is None:
            return None
        if report.guard_runs or not pods.engine_restarts(pod) or report.boot_started_unix_ms is None:
            return report
        return None if report.boot_started_unix_ms < started * 1000 else report

    def records(self, kind: type[Document]) -> list[tuple[Manifest, Document]]:
        """Return this resource's records of a kind that can be read, oldest first."""
        found = []
        for (child_kind, _), child in self.children.items():
            if child_kind != "ConfigMap" or pods.label(child, names.LABEL_DOCUMENT) != kind.KIND:
                continue
            try:
                found.append((child, kind.parse((child.get("data") or {}).get(data_key(kind), ""))))
            except DocumentError as error:
                # Somebody's hand; a record is replaced by its document, never trusted half.
                self.unreadable[child["metadata"]["name"]] = str(error)
        return sorted(found, key=lambda item: (item[0]["metadata"].get("creationTimestamp", ""), item[1].digest()))

    @cached_property
    def references(self) -> References | None:
        """The frozen references: the oldest record."""
        return next((document for _, document in self.records(References) if isinstance(document, References)), None)

    @cached_property
    def baselines(self) -> list[Baseline]:
        """The baselines on record."""
        return [document for _, document in self.records(Baseline) if isinstance(document, Baseline)]

    @cached_property
    def candidates(self) -> list[tuple[Manifest, Candidate]]:
        """The candidates on record."""
        return [(child, document) for child, document in self.records(Candidate) if isinstance(document, Candidate)]

    @cached_property
    def evidence(self) -> list[tuple[Manifest, Evidence]]:
        """The evidence on record."""
        return [(child, document) for child, document in self.records(Evidence) if isinstance(document, Evidence)]
