"""An in-memory ``ClusterApi``: the one fake of the tests, of our own port.

It promises what the contract tests (``tests/cluster/test_cluster_api.py``) hold both it and the real API server to:
uids, resource versions, generations, ownership of fields by our one manager and by everybody else, finalizers, and
garbage collection by owner.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from detinf.cluster.port import KINDS, NODE, ConflictError, InvalidError, Kind, Manifest, NamespaceEndsError, TakenError
from detinf.controller.pods import format_time

Key = tuple[str, str, str]
PARTS = ("", "status")
"""What has a manager's fields of its own: the object, and its status."""


def copied(value: Any) -> Any:
    """Return a deep copy of JSON, many times as fast as ``copy.deepcopy``."""
    return pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))  # noqa: S301 - written the moment before


LIST_KEYS = {
    **dict.fromkeys(("containers", "initContainers", "env", "volumes"), "name"),
    "volumeMounts": "mountPath",
    "conditions": "type",
    "ownerReferences": "uid",
}
"""Lists whose entries have owners of their own, by this key (``x-kubernetes-list-map-keys``); others are one value."""

STATEFUL_SET_MUTABLE = {
    *("replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit", "minReadySeconds"),
    "persistentVolumeClaimRetentionPolicy",
}

_GONE = object()


def by_key(name: str, *values: Any) -> list[dict[str, Any]] | None:
    """Return lists of entries with a key as dicts of entries; None where they are something else."""
    key = LIST_KEYS.get(name)
    if key is None or not all(value is None or isinstance(value, list) for value in values):
        return None
    return [{item[key]: item for item in value or []} for value in values]


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """Return the keys whose values differ."""
    return {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def merged(live: Any, owned: Any, wanted: Any, name: str = "") -> Any:
    """Return the live value after an apply: wanted wins, and what we owned and no longer want is removed."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        before = owned if isinstance(owned, dict) else {}
        result = {}
        for key, value in live.items():
            if key in wanted:
                result[key] = merged(value, before.get(key), wanted[key], key)
            elif (rest := without(value, before[key], key) if key in before else value) is not _GONE:
                result[key] = rest
        return result | {key: copied(value) for key, value in wanted.items() if key not in live}
    if isinstance(wanted, list) and isinstance(live, list) and (entries := by_key(name, live, owned, wanted)):
        return list(merged(*entries).values())
    return copied(wanted)


def without(live: Any, owned: Any, name: str) -> Any:
    """Return what remains of a live value that we no longer want: what is not ours."""
    if isinstance(live, dict) and isinstance(owned, dict):
        rest = merged(live, owned, {})
        return rest or _GONE
    if isinstance(live, list) and (entries := by_key(name, live, owned)):
        return list(merged(*entries, {}).values()) or _GONE
    return _GONE


def untouched(owned: Any, old: Any, new: Any, name: str = "") -> Any:
    """Return what remains ours after somebody else's write: not what it changed or removed."""
    if isinstance(owned, dict) and isinstance(old, dict) and isinstance(new, dict):
        parts = {key: untouched(value, old.get(key), new.get(key), key) for key, value in owned.items()}
        return {key: part for key, part in parts.items() if part is not _GONE}
    if isinstance(owned, list) and old != new and (entries := by_key(name, owned, old, new)):
        return list(untouched(*entries).values())
    return owned if old == new else _GONE


class FakeClusterApi:
    """The port in memory."""

    def __init__(self, now: Callable[[], float] = lambda: 1_800_000_000.0) -> None:
        """Start empty."""
        self.objects: dict[Key, Manifest] = {}
        self.owned: dict[tuple[Key, str], Any] = {}
        self.writes: list[str] = []
        self.ends: dict[str, int] = {}
        """Namespaces that terminate (403) or are gone (404): nothing can be made in them."""
        self.now = now
        self.numbers = 0
        self.nodes: list[Manifest] = []
        """They have no namespace, and nobody here writes them."""

    # The port ------------------------------------------------------------------------------------------------------

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """Return a copy of the object, or None."""
        found = self.objects.get((kind.kind, namespace, name))
        return copied(found)

    async def list(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Manifest]:
        """Return copies of the objects with all of the labels and fields."""
        if kind == NODE:
            return copied(self.nodes)

        def field(item: Any, path: str) -> Any:
            for part in path.split("."):
                item = item.get(part, {})
            return item

        return [
            copied(item)
            for (of_kind, of_namespace, _), item in sorted(self.objects.items())
            if of_kind == kind.kind
            and namespace in {None, of_namespace}
            and all(item["metadata"].get("labels", {}).get(key) == value for key, value in (labels or {}).items())
            and all(field(item, path) == value for path, value in (fields or {}).items())
        ]

    async def apply(self, manifest: Manifest) -> Manifest:
        """Apply with our one field manager, by force, to the object of that uid or under a free name."""
        key = self._key(manifest)
        if "uid" not in manifest["metadata"] and key in self.objects:
            raise TakenError(f"{key}: the name is taken", status=409)
        return self._apply(manifest, "") or {}

    async def apply_status(self, manifest: Manifest) -> Manifest | None:
        """Apply the status of an object that is there."""
        return self._apply(manifest, "status")

    async def create(self, manifest: Manifest) -> Manifest | None:
        """Create; None where the name is taken."""
        key = self._key(manifest)
        self._open(key)
        if key in self.objects:
            return None
        self.writes.append(f"create {key[0]} {key[2]}")
        return self._store(key, copied(manifest))

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> bool:
        """Delete that very object, and what it owns; one with a finalizer begins to end."""
        key = (kind.kind, namespace, name)
        found = self.objects.get(key)
        if found is None or found["metadata"]["uid"] != uid:
            return False
        self.writes.append(f"delete {kind.kind} {name}")
        self._remove(key)
        return True

    # What a cluster does by itself -----------------------------------------------------------------------------------

    def put(self, manifest: Manifest) -> Manifest:
        """Store an object as somebody else would: a user, the kubelet, a StatefulSet's controller."""
        key = self._key(manifest)
        old = self.objects.get(key)
        if old is None:
            return self._store(key, copied(manifest))
        for part in PARTS:
            if (key, part) in self.owned:
                self.owned[key, part] = untouched(self.owned[key, part], old, manifest)
        if old.get("spec") != manifest.get("spec"):
            manifest["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1
        return self._store(key, copied(manifest), old)

    def collect(self) -> None:
        """Remove what was made for an owner that is gone, as the garbage collector does."""
        uids = {item["metadata"]["uid"] for item in self.objects.values()}
        for key, item in list(self.objects.items()):
            owners = item["metadata"].get("ownerReferences", [])
            if key in self.objects and owners and not any(owner["uid"] in uids for owner in owners):
                self._remove(key)

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object as somebody else would, and what it owns."""
        self._remove((kind, namespace, name))

    def _remove(self, key: Key) -> None:
        metadata = self.objects[key]["metadata"]
        if metadata.get("finalizers"):
            if "deletionTimestamp" not in metadata:
                ending = copied(self.objects[key])
                ending["metadata"]["deletionTimestamp"] = format_time(self.now())
                self._store(key, ending, self.objects[key])
            return
        gone = self.objects.pop(key)
        for part in PARTS:
            self.owned.pop((key, part), None)
        uid = gone["metadata"]["uid"]
        owned = [
            other
            for other, item in self.objects.items()
            if any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences", []))
        ]
        for other in owned:
            if other in self.objects:
                self._remove(other)

    def _key(self, manifest: Manifest) -> Key:
        if manifest["kind"] not in KINDS:
            raise InvalidError(f"{manifest['kind']} is no kind of ours")
        return manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"]

    def _open(self, key: Key) -> None:
        """Refuse to make anything in a namespace that ends."""
        if status := self.ends.get(key[1]):
            raise NamespaceEndsError(f"{key}: the namespace ends", status=status)

    def _apply(self, manifest: Manifest, subresource: str) -> Manifest | None:
        key = self._key(manifest)
        old = self.objects.get(key)
        wanted_uid = manifest["metadata"].get("uid")
        if old is None and (subresource or wanted_uid):
            if subresource:
                return None
            raise ConflictError(f"{key}: uid mismatch", status=409)
        if old is None:
            self._open(key)
        # A status reaches a namesake, whatever uid it names (measured).
        if old is not None and not subresource and wanted_uid not in {None, old["metadata"]["uid"]}:
            raise ConflictError(f"{key}: uid mismatch", status=409)
        part = (
            {"status": manifest["status"]}
            if subresource
            else {name: value for name, value in manifest.items() if name != "status"}
        )
        if old is None:
            stored = self._store(key, copied(part))
        else:
            if old.get("immutable") and part.get("data", old.get("data")) != old.get("data"):
                raise InvalidError(f"{key}: field is immutable when `immutable` is set", status=422)
            new = merged(old, self.owned.get((key, subresource), {}), part)
            if key[0] == "StatefulSet" and changed(old["spec"], new["spec"]) - STATEFUL_SET_MUTABLE:
                raise InvalidError(f"{key}: updates to statefulset spec for other fields are forbidden", status=422)
            if json.dumps(new, sort_keys=True) == json.dumps(old, sort_keys=True):
                self.owned[key, subresource] = copied(part)
                return copied(old)
            if new.get("spec") != old.get("spec"):
                new["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1
            stored = self._store(key, new, old)
        self.owned[key, subresource] = copied(part)
        self.writes.append(f"apply{'-status' if subresource else ''} {key[0]} {key[2]}")
        return stored

    def _number(self) -> int:
        self.numbers += 1
        return self.numbers

    def _store(self, key: Key, manifest: Manifest, old: Manifest | None = None) -> Manifest:
        metadata = manifest["metadata"]
        base = old["metadata"] if old else {}
        metadata["uid"] = base.get("uid") or f"uid-{self._number()}"
        metadata["creationTimestamp"] = base.get("creationTimestamp") or format_time(self.now())
        metadata.setdefault("generation", base.get("generation", 1))
        metadata["resourceVersion"] = str(self._number())
        self.objects[key] = manifest
        stored: Manifest = copied(manifest)
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            self._remove(key)
        return stored
