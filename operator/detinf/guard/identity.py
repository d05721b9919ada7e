"""The numeric identity (Tier N) and its fingerprint: the same fingerprint promises the same bits.

What is in: everything of the plan, and what was read of the hardware, the packages and the model. What is never in:
pod, node and address names, physical device numbers, times; those must not matter, and a difference across them is a
finding.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from detinf.guard.canonical import digest
from detinf.guard.devices import Devices
from detinf.guard.packages import Installed
from detinf.guard.plan import Plan

SCHEMA = 2
"""What Tier N holds: identities of two schemas are not compared key by key, since a newer guard reads more."""

INSTRUCTION_SETS = (
    "avx",
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "amx_bf16",
    "amx_int8",
    "fma",
    "asimd",
    "sve",
)
"""CPU features by which libraries choose a kernel; vLLM on CPU loads another library for AVX2 than for AVX-512."""


def instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Return those of ``INSTRUCTION_SETS`` that this machine has."""
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    flags = {
        word for line in lines if line.startswith(("flags", "Features")) for word in line.partition(":")[2].split()
    }
    return sorted(flags & set(INSTRUCTION_SETS))


def python_version() -> str:
    """Return the interpreter's version as far as it can change a number."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def package_items(packages: Installed) -> dict[str, Any]:
    """Return what of Tier N is about packages; each process of the engine reads them itself."""
    return {"packages": packages.versions, "builds": packages.builds}


def identity(
    plan: Plan,
    devices: Devices,
    *,
    model_config: str,
    packages: Installed,
    variables: dict[str, str] | None = None,
    files: dict[str, str] | None = None,
    toolkit: dict[str, str] | None = None,
    model_files: str | None = None,
    argument_files: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return Tier N.

    Args:
        plan: the plan, whole.
        devices: what the device tree says.
        model_config: digest of the model's config.json.
        packages: what is installed.
        variables: of the engine's environment, as they are recorded (``detinf.guard.variables``).
        files: digests by name of the files that the plan lists.
        toolkit: what else is installed: CANN's version.
        model_files: digest over all files of the model (``model_files.listed``).
        argument_files: digests of the files that arguments name, by name.
    """
    hardware: dict[str, Any] = {
        "devices": len(devices.physical_ids),
        "chip": devices.chip,
        "hbmGiB": devices.hbm_gib,
        "driver": devices.driver,
        "firmware": devices.firmware,
        "link": devices.link,
    }
    if plan.topology.get("drift") == "Warn":
        hardware = {key: value for key, value in hardware.items() if key not in ("driver", "firmware")}
    if not devices.physical_ids:
        # Without an accelerator the processor does the arithmetic.
        hardware["instructionSets"] = instruction_sets()
    tier_n = {
        "schema": SCHEMA,
        "plan": plan.document,
        "hardware": hardware,
        **package_items(packages),
        "python": python_version(),
        "modelConfig": model_config,
        "environment": variables or {},
    }
    optional = {
        "files": files,
        "toolkit": toolkit,
        "modelFiles": model_files,
        "argumentFiles": argument_files,
    }
    return tier_n | {key: value for key, value in optional.items() if value}


def fingerprint(tier_n: dict[str, Any]) -> str:
    """Return ``sha256:<hex>`` of Tier N's canonical bytes."""
    return digest(tier_n)


def placement(devices: Devices, node: str) -> dict[str, Any]:
    """Return Tier P: recorded, never hashed."""
    return {
        "node": node,
        "physicalIds": list(devices.physical_ids),
        "busIds": list(devices.bus_ids),
        "driver": devices.driver,
        "firmware": devices.firmware,
    }
