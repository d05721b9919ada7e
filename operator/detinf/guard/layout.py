"""Where things lie in an engine pod: paths, ports, file names and environment names.

The controller mounts them, the guard writes them and the probe reads them; this is the one place that names them.
"""

from __future__ import annotations

GUARD_DIR = "/detinf/guard"
"""emptyDir; ``guard-install`` copies the guard here; a folder that ``python3`` can run."""

SHARED_DIR = "/detinf/shared"
"""emptyDir; written by the engine container (attestations), mounted read-only in the probe."""

STATE_DIR = "/detinf/state"
"""emptyDir; the probe's alone: which boot passed the gate, and its books."""

USERS_DIR = "/detinf/users"
"""emptyDir; the init container ``users`` writes the image's passwd and group there, with the pod's own user."""

WORK_DIR = "/detinf/work"
"""emptyDir; the engine's working folder: CANN compiles kernels there (``kernel_meta``), and writes
``fusion_result.json``."""

PLAN_PATH = "/detinf/plan/plan.json"
"""The plan's ConfigMap."""

SETTINGS_PATH = "/detinf/settings/probe-settings.json"
"""The probe-settings ConfigMap."""

DELIVERY_DIR = "/detinf/baselines"
"""The ``<name>-baselines`` ConfigMap: references and baselines as sealed entries."""

PODINFO_DIR = "/detinf/podinfo"
"""Downward API: ``labels`` and ``annotations``, in the kubelet's ``key="value"`` lines."""

MODEL_DIR = "/models"
"""Where the model source is mounted: read-only, but for the cache claim of a hub."""

TERMINATION_LOG = "/dev/termination-log"

ENGINE_PORT = 8000
PROBE_PORT = 9400

ATTESTATION_PREFIX = "attestation-"
"""``<SHARED_DIR>/attestation-<process>.json``, written whole and once; the guard's is ``attestation-guard.json``."""

BOOT_VARIABLE = "DETINF_BOOT"
"""The boot nonce, in the environment of every engine process."""

START_NAME = "start.json"
"""``<SHARED_DIR>/start.json``: what the guard knew before the engine started, for the engine's own processes."""

REFUSAL_PREFIX = "refusal-"
"""``<SHARED_DIR>/refusal-<process>``: why a process of the engine did not go on."""

PLAN_VARIABLE = "DETINF_PLAN"
SHARED_VARIABLE = "DETINF_SHARED"
"""Paths of the plan and of the shared folder, in the environment of every engine process."""

TRACE_VARIABLE = "DETINF_TRACE"
"""Path of the step trace, in the environment of every engine process."""

TRACE_NAME = "trace.ring"
"""``<SHARED_DIR>/trace.ring``: the step trace of the boot that its header names."""

BOOT_HEADER = "X-Detinf-Boot"
"""The boot nonce, in every answer of the engine."""

UNPROMISED_HEADER = "X-Detinf-Unpromised"
"""In an answer that is not promised: the fields of its request because of which it is not."""

SERVING_FLAGS = ("--host", "--port", "--served-model-name", "--middleware")
"""Flags that the pod's command line may carry beyond the plan's: they cannot change outputs."""

REFUSED_EXIT_CODE = 78
"""sysexits' EX_CONFIG: the guard did not start the engine."""


def attestation_path(process: str, shared_dir: str = SHARED_DIR) -> str:
    """Return the path of one process' attestation."""
    return f"{shared_dir}/{ATTESTATION_PREFIX}{process}.json"
