"""The pod of a replica, as in docs/design.md, *The pods*."""

from __future__ import annotations

from typing import Any

from detinf.api import names
from detinf.api.amounts import completed
from detinf.api.placement import Toleration
from detinf.api.types import ModelSource, Spec
from detinf.cluster.port import Manifest
from detinf.controller.builders.parts import Resource, name_of
from detinf.controller.builders.probe_settings import served_name
from detinf.controller.builders.quantity import canonical_quantity, parse
from detinf.controller.builders.verbatim import verbatim
from detinf.controller.settings import OperatorSettings
from detinf.documents import Plan
from detinf.engines.plan import mount_path, revision_of
from detinf.engines.profile import PodVariable, Profile
from detinf.guard import layout
from detinf.guard.addresses import EVERY
from detinf.guard.hubs import HUBS
from detinf.guard.users import FILES
from detinf.topology.expected import node_labels

USER = 65532
"""The user of all containers; the engine image need not know it."""
STARTUP_PERIOD_SECONDS = 2

GUARD, SHARED, STATE, TMP, PROBE_TMP = "guard", "shared", "state", "tmp", "probe-tmp"
USERS, WORK = "users", "work"
PLAN, SETTINGS, DELIVERY, PODINFO, MODEL, SHM = "plan", "probe-settings", "baselines", "podinfo", "model", "shm"


def pod_spec(resource: Resource, spec: Spec, plan: Plan, settings: OperatorSettings) -> Manifest:
    """Return the pod's spec."""
    profile = settings.profiles[plan.profile]
    scheduling = spec.scheduling
    # A new claim belongs to root: its group becomes ours, once, where its driver can do that.
    group = {"fsGroup": USER, "fsGroupChangePolicy": "OnRootMismatch"} if spec.model.source.hub else {}
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
            **group,
        },
        "initContainers": [guard_install(settings), probe(settings), users(plan, settings)],
        "containers": [engine(resource, spec, plan, profile, settings)],
        "volumes": volumes(resource, spec, plan, profile),
    }
    if profile.supplemental_groups:
        pod["securityContext"]["supplementalGroups"] = list(profile.supplemental_groups)
    optional: dict[str, Any] = {
        "imagePullSecrets": [{"name": secret} for secret in settings.image_pull_secrets],
        "nodeSelector": dict(scheduling.node_selector)
        | (node_labels(spec, settings.node_labels) if profile.uses_devices else {}),
        "tolerations": [_toleration(item) for item in scheduling.tolerations],
        "schedulerName": scheduling.scheduler_name,
        "runtimeClassName": scheduling.runtime_class_name,
        "priorityClassName": scheduling.priority_class_name,
    }
    return pod | {key: value for key, value in optional.items() if value}


def _toleration(toleration: Toleration) -> dict[str, Any]:
    # An empty text is left out: the API server does not store it, and the manifest would never equal what it reads.
    return {key: value for key, value in toleration.model_dump(by_alias=True, exclude_none=True).items() if value != ""}


def _container_security() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _pod_variable(variable: PodVariable) -> dict[str, Any]:
    if variable.field is not None:
        return _field(variable.name, variable.field)
    return {"name": variable.name, "value": verbatim(variable.value or "")}


def _identity() -> list[dict[str, Any]]:
    return [
        _field("POD_NAMESPACE", "metadata.namespace"),
        _field("POD_NAME", "metadata.name"),
        _field("POD_UID", "metadata.uid"),
        _field("NODE_NAME", "spec.nodeName"),
    ]


def _mount(volume: str, path: str, *, read_only: bool = True) -> dict[str, Any]:
    mount: dict[str, Any] = {"name": volume, "mountPath": path}
    return mount | {"readOnly": True} if read_only else mount


def guard_install(settings: OperatorSettings) -> Manifest:
    """Return the init container that copies the guard to where the engine's image can run it."""
    return {
        "name": names.GUARD_INSTALL_CONTAINER,
        "image": settings.probe_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python3", "-m", "detinf.guard", "install", layout.GUARD_DIR],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": _container_security(),
        "volumeMounts": [_mount(GUARD, layout.GUARD_DIR, read_only=False)],
    }


def users(plan: Plan, settings: OperatorSettings) -> Manifest:
    """Return the init container that gives the pod's user a name in the engine's image (``detinf.guard.users``)."""
    return {
        "name": names.USERS_CONTAINER,
        "image": plan.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python3", layout.GUARD_DIR, "users", layout.USERS_DIR],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": _container_security(),
        "terminationMessagePath": layout.TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "volumeMounts": [_mount(GUARD, layout.GUARD_DIR), _mount(USERS, layout.USERS_DIR, read_only=False)],
    }


def probe(settings: OperatorSettings) -> Manifest:
    """Return the native sidecar: it holds its port before the engine starts, and outlives it for the last pull.

    It has no startup probe: the kubelet would wait for it before it starts the engine that the probe waits for.
    """
    return {
        "name": names.PROBE_CONTAINER,
        "image": settings.probe_image,
        "imagePullPolicy": settings.image_pull_policy,
        "restartPolicy": "Always",
        "command": ["python3", "-m", "detinf.probe"],
        "env": [*_identity(), {"name": "PYTHONUNBUFFERED", "value": "1"}],
        "ports": [{"name": "probe", "containerPort": layout.PROBE_PORT, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "25m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": _container_security(),
        "volumeMounts": [
            _mount(SHARED, layout.SHARED_DIR),
            _mount(STATE, layout.STATE_DIR, read_only=False),
            _mount(PLAN, layout.PLAN_PATH.rpartition("/")[0]),
            _mount(SETTINGS, layout.SETTINGS_PATH.rpartition("/")[0]),
            _mount(DELIVERY, layout.DELIVERY_DIR),
            _mount(PODINFO, layout.PODINFO_DIR),
            _mount(PROBE_TMP, "/tmp", read_only=False),  # noqa: S108 - an emptyDir
        ],
    }


def engine_command(resource: Resource, spec: Spec, plan: Plan, profile: Profile) -> list[str]:
    """Return the engine container's command: the guard, and what it is to run."""
    # Both families; the guard gives the engine IPv4 alone where its kernel has no other.
    serving = ["--host", EVERY, "--port", str(layout.ENGINE_PORT)]
    serving += ["--served-model-name", served_name(resource, spec)]
    if profile.middleware:
        serving += ["--middleware", profile.middleware]
    guard = ["python3", layout.GUARD_DIR, "--plan", layout.PLAN_PATH, "--"]
    words = [*guard, "vllm", "serve", plan.model.path, *plan.arguments, *serving]
    return [verbatim(word) for word in words]


def engine(resource: Resource, spec: Spec, plan: Plan, profile: Profile, settings: OperatorSettings) -> Manifest:
    """Return the engine container.

    Its readiness is the probe's judgement. It sits here and not on the probe, so that a restart of this container
    resets it: an engine that nobody has gated is never ready. It has no liveness probe: the guard ends with its engine.
    """
    attempts = -(-spec.engine.startup_timeout_seconds // STARTUP_PERIOD_SECONDS)
    return {
        "name": names.ENGINE_CONTAINER,
        "image": plan.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": engine_command(resource, spec, plan, profile),
        "workingDir": layout.WORK_DIR,
        "env": [
            *_identity(),
            *(_pod_variable(item) for item in profile.pod_variables),
            *hub_variables(spec.model.source),
        ],
        "ports": [{"name": "http", "containerPort": layout.ENGINE_PORT, "protocol": "TCP"}],
        "resources": engine_resources(spec, profile),
        "startupProbe": {
            "httpGet": {"path": "/health", "port": "http"},
            "periodSeconds": STARTUP_PERIOD_SECONDS,
            "timeoutSeconds": 2,
            "failureThreshold": attempts,
        },
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": layout.PROBE_PORT},
            "periodSeconds": 1,
            "timeoutSeconds": 2,
            # A probe that its kubelet restarts is back within that time: its engine, whose pass is kept, serves on.
            "failureThreshold": 3,
        },
        "securityContext": _container_security(),
        "terminationMessagePath": layout.TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            _mount(GUARD, layout.GUARD_DIR),
            _mount(PLAN, layout.PLAN_PATH.rpartition("/")[0]),
            _mount(SHARED, layout.SHARED_DIR, read_only=False),
            _mount(MODEL, mount_path(spec.model.source), read_only=spec.model.source.hub is None),
            *(_mount(USERS, f"/etc/{name}") | {"subPath": name} for name in FILES),
            _mount(WORK, layout.WORK_DIR, read_only=False),
            _mount(TMP, "/tmp", read_only=False),  # noqa: S108 - an emptyDir
            _mount(SHM, "/dev/shm", read_only=False),  # noqa: S108 - an emptyDir in memory
            *(_mount(item.name, item.path) for item in profile.host_paths),
        ],
    }


def hub_variables(source: ModelSource) -> list[dict[str, Any]]:
    """Return where the hub's library caches, and its token; neither can change outputs, and no plan names them."""
    if source.hub is None:
        return []
    name, wanted = source.hub
    hub = HUBS[name]
    variables: list[dict[str, Any]] = [{"name": hub.cache_variable, "value": hub.folder}]
    if (secret := wanted.token_secret_ref) is not None:
        reference = {"secretKeyRef": {"name": secret.name, "key": secret.key}}
        variables.append({"name": hub.token_variable, "valueFrom": reference})
    return variables


def engine_resources(spec: Spec, profile: Profile) -> Manifest:
    """Return requests and limits: the resource's own, else the profile's requests, and the NPUs.

    A limit that is below the profile's request is the request: so Kubernetes has it where somebody gives a limit alone,
    and it takes no request above its limit.
    """
    asked = spec.engine.resources
    requests = {key: canonical_quantity(value) for key, value in asked.requests.items()}
    limits = {key: canonical_quantity(value) for key, value in asked.limits.items()}
    if not requests:
        defaults = {key: canonical_quantity(value) for key, value in profile.default_requests.items()}
        requests = {key: min(value, limits.get(key, value), key=parse) for key, value in defaults.items()}
    requests, limits = completed(requests, limits)
    if profile.uses_devices:
        devices = {spec.scheduling.resource_name: str(spec.parallelism.tensor)}
        requests, limits = requests | devices, limits | devices
    return {key: value for key, value in (("requests", requests), ("limits", limits)) if value}


def volumes(resource: Resource, spec: Spec, plan: Plan, profile: Profile) -> list[Manifest]:
    """Return the pod's volumes; ``detinf.guard.layout`` says what each is for."""
    name = name_of(resource)
    claim, folder = spec.model.source.persistent_volume_claim, spec.model.source.host_path
    if spec.model.source.hub is not None:
        model: Manifest = {"persistentVolumeClaim": {"claimName": spec.model.source.hub[1].cache_claim_name}}
    elif claim is not None:
        model = {"persistentVolumeClaim": {"claimName": claim.claim_name, "readOnly": True}}
    elif folder is not None:
        model = {"hostPath": {"path": folder.path, "type": "Directory"}}
    else:
        raise ValueError("spec.model.source has no member; validate the resource first")
    labels = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
    annotations = {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}}
    return [
        {"name": GUARD, "emptyDir": {"sizeLimit": "16Mi"}},
        # In memory: the scheduler stores into the trace in every step, and must not wait for a disk there.
        {"name": SHARED, "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
        {"name": STATE, "emptyDir": {"sizeLimit": "16Mi"}},
        {"name": PLAN, "configMap": {"name": names.plan_name(name, revision_of(plan))}},
        {"name": SETTINGS, "configMap": {"name": names.settings_name(name)}},
        {"name": DELIVERY, "configMap": {"name": names.delivery_name(name)}},
        {"name": PODINFO, "downwardAPI": {"items": [labels, annotations]}},
        {"name": MODEL, **model},
        {"name": USERS, "emptyDir": {"sizeLimit": "1Mi"}},
        {"name": WORK, "emptyDir": {}},
        {"name": TMP, "emptyDir": {}},
        {"name": PROBE_TMP, "emptyDir": {"sizeLimit": "16Mi"}},
        {"name": SHM, "emptyDir": {"medium": "Memory", "sizeLimit": profile.shared_memory}},
        *({"name": item.name, "hostPath": {"path": item.path, "type": item.type}} for item in profile.host_paths),
    ]
