"""The device tree: what the container really has, against what the plan says.

Formats are those of npu-smi 25.x and of the driver's own files. The parsers key on headers and values, tolerate other
columns and spacing, and return None for what they cannot read: unknown is never fine where the plan asks for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detinf.guard.errors import RefusedError
from detinf.guard.npu_smi import LONGEST, NpuSmi

UNKNOWN = {
    "driverVersion": "have the node's /usr/local/Ascend/driver/version.info in the container, for every user to read",
    "": "what npu-smi does not tell is not taken for right",
}
"""What to do about what could not be read, by the plan's name for it."""
FORMAT = "have an npu-smi of 25.x, or tell us of this one"
INSTALL_INFO = ("ascend_toolkit_install.info", "ascend_all_cann_install.info")
"""Where CANN says which release it is: the name until 9, and that of 9, which may lack the first (triton-ascend's
``ascend/backend/utils.py`` looks for them in this order)."""
FIRST_SLICE = 100
"""Numbers of slices (vNPUs) begin here, for the driver and in a container's ``/dev`` (``VDAVINCI_VDEV_OFFSET``)."""


@dataclass(frozen=True)
class Devices:
    """What was read; None where it could not be read."""

    physical_ids: tuple[int, ...]
    chip: str | None = None
    hbm_gib: int | None = None
    driver: str | None = None
    firmware: str | None = None
    link: str | None = None
    unhealthy: tuple[str, ...] = ()
    bus_ids: tuple[str, ...] = ()
    listed: bool = True
    """Whether npu-smi told of any NPU."""
    silent: tuple[str, ...] = ()
    """Why npu-smi told less than it was asked, a line for each question."""


@dataclass(frozen=True)
class Chip:
    """One row pair of ``npu-smi info``."""

    npu: int
    name: str
    health: str
    bus: str
    hbm_mb: int | None


def parse_info(text: str) -> list[Chip]:
    """Return the chips of ``npu-smi info``; an empty list where there are none to be read."""
    chips = []
    first: tuple[int, str, str] | None = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.strip().startswith("|") or len(cells) < 3:
            first = None
            continue
        head = re.fullmatch(r"([0-9]{1,9})\s+(\S*[A-Za-z]\S*)", cells[0])
        if head:
            first = (int(head[1]), head[2], cells[1])
        elif first and re.fullmatch(r"[\d\s]+", cells[0]) and ":" in cells[1]:
            # The last "used / total" pair of the second row is the HBM.
            totals = re.findall(r"[0-9]\s*/\s*([0-9]{1,9})\b", cells[2])
            chips.append(Chip(*first, cells[1], int(totals[-1]) if totals else None))
            first = None
    return chips


def parse_keys(text: str) -> dict[str, str]:
    """Return ``key : value`` lines, as ``npu-smi info -t board`` prints them."""
    pairs = (line.partition(" : ") for line in text.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon and key.strip()}


def parse_assignments(text: str) -> dict[str, str]:
    """Return ``key=value`` lines, as ``version.info`` and ``ascend_install.info`` hold them."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, equals, value in pairs if equals and key.strip()}


def parse_links(text: str) -> set[str] | None:
    """Return the kinds of link between pairs in ``npu-smi info -t topo``; None where there is no matrix."""
    columns = 0
    kinds: set[str] = set()
    rows = 0
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        if not columns and all(re.fullmatch(r"NPU\d+", word) for word in words[:1]) and "X" not in words:
            columns = sum(1 for word in words if re.fullmatch(r"NPU\d+", word))
        elif columns and re.fullmatch(r"NPU\d+", words[0]) and len(words) > columns:
            rows += 1
            kinds.update(word for word in words[1 : columns + 1] if word != "X")
    return kinds if columns and rows == columns else None


def read_assignments(path: Path) -> dict[str, str]:
    """Return the ``key=value`` lines of a file; none where it is missing or not ours to read."""
    try:
        return parse_assignments(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return {}


def cann_version(environment: Mapping[str, str], root: Path = Path("/")) -> str | None:
    """Return the version of the CANN toolkit that set-up scripts have chosen; None where there is none to be read.

    Files that differ are told both: ``8.5.1 and 9.1.0`` is no version that a profile is for.

    Args:
        environment: of the engine, after the scripts.
        root: where absolute paths begin.

    Raises:
        RefusedError: where it is there and may not be read.
    """
    homes = (environment.get(name, "").strip("/") for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"))
    paths = (path for home in homes if home for name in INSTALL_INFO for path in root.glob(f"{home}/*-linux/{name}"))
    versions = {_told_version(path) for path in paths}
    return " and ".join(sorted(versions)) or None if "" not in versions else None


def _told_version(path: Path) -> str:
    if path.exists() and not os.access(path, os.R_OK):
        remedy = f"let user {os.getuid()} read it (chmod a+r in the image)"
        raise RefusedError(f"packages: cann: {path}: Permission denied; {remedy}")
    return read_assignments(path).get("version", "")


def _one(values: set[Any]) -> Any:
    """Return the one value that all devices share, or None."""
    return next(iter(values)) if len(values) == 1 else None


def observe(root: Path = Path("/"), ask: Callable[[list[str]], str | None] | None = None) -> Devices:
    """Read the device tree of this container.

    Args:
        root: where ``dev`` and ``usr`` are.
        ask: runs npu-smi with these arguments; npu-smi itself where absent.
    """
    npu_smi = NpuSmi()
    ask = ask or npu_smi
    names = (re.fullmatch(r"davinci([0-9]{1,9})", path.name) for path in (root / "dev").glob("davinci*"))
    ids = tuple(sorted(int(name[1]) for name in names if name))
    if not ids:
        return Devices(())
    told = ask(["info"])
    chips = parse_info(told or "")
    if told is not None and not chips:
        first = next((line.strip() for line in told.splitlines() if line.strip()), "")[:LONGEST]
        npu_smi.problems.append(f"devices: npu-smi info printed no table of NPUs, but {first!r}; {FORMAT}")
    boards = [parse_keys(ask(["info", "-t", "board", "-i", str(identifier)]) or "") for identifier in ids]
    links = parse_links(ask(["info", "-t", "topo"]) or "")
    driver = read_assignments(root / "usr/local/Ascend/driver/version.info")
    memory = _one({chip.hbm_mb for chip in chips})
    seen = {chip.npu for chip in chips}
    unhealthy = [f"NPU {chip.npu} is {chip.health}" for chip in chips if chip.health != "OK"]
    if chips:
        unhealthy += [f"NPU {identifier} is not listed by npu-smi info" for identifier in ids if identifier not in seen]
    return Devices(
        physical_ids=ids,
        chip=_one({chip.name for chip in chips}),
        hbm_gib=memory // 1024 if memory else None,
        driver=driver.get("package_version") or driver.get("Version") or None,
        firmware=_one({board.get("Firmware Version") for board in boards}),
        link=("-" if not links else _one(links)) if links is not None else None,
        unhealthy=tuple(unhealthy),
        bus_ids=tuple(chip.bus for chip in chips),
        listed=bool(chips),
        silent=tuple(npu_smi.problems),
    )


def check(topology: dict[str, Any], devices: Devices) -> None:
    """Hold the device tree against the plan's topology.

    Raises:
        RefusedError: naming each item that differs, with both values.
    """
    wanted = topology["devices"]
    found = []
    unknown = False
    if len(devices.physical_ids) != wanted:
        found.append(
            f"devices: {len(devices.physical_ids)} NPUs in /dev, the plan says {wanted}; "
            "request whole NPUs of one node (spec.parallelism.tensor, spec.scheduling.resourceName)"
        )
    elif wanted:
        unknown = not devices.listed
        found += [f"devices: {problem}; drain the node and repair or replace the NPU" for problem in devices.unhealthy]
        if unknown:
            found.append("devices: npu-smi info told of no NPU, so nobody knows whether they are well")
    found += [
        f"devices: /dev/davinci{identifier} is a slice of an NPU, on which collectives do not work; request whole NPUs "
        "(spec.scheduling.resourceName)"
        for identifier in devices.physical_ids
        if identifier >= FIRST_SLICE
    ]
    items = (
        ("chip", "chip", devices.chip),
        ("hbmGiB", "hbmGiB", devices.hbm_gib),
        ("driver version", "driverVersion", devices.driver),
        ("firmware version", "firmwareVersion", devices.firmware),
        # One device has no pair, and so no link to be wrong.
        ("link", "link", topology.get("link") if wanted == 1 else devices.link),
    )
    for words, key, value in items:
        expected = topology.get(key)
        if wanted and expected is not None and value != expected:
            unknown = unknown or (value is None and key != "driverVersion")
            remedy = UNKNOWN.get(key, UNKNOWN[""]) if value is None else "use a node of that kind"
            shown = "unknown" if value is None else repr(value)
            found.append(f"devices: {words} is {shown}, the plan says {expected!r}; {remedy}")
    if found:
        # What npu-smi did not tell has one reason, and that is what a person has to mend.
        raise RefusedError(*(devices.silent if unknown else ()), *found)
