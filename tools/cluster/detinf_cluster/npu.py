"""The simulated device tree: driver files and an ``npu-smi`` in the documented formats (npu-smi 25.x, Atlas A2).

``npu-smi`` is a Python script, since what it runs in has Python; it shows the devices that its container has, and takes
everything else from ``/usr/local/dcmi/simulated.json``, so that a test changes a fact in one place.
"""

from __future__ import annotations

import json
from pathlib import Path

NPU_SMI = '''\
#!/usr/bin/env python3
"""A simulated npu-smi: prints the documented formats for the devices of this container."""
import json, pathlib, re, sys

FACTS = json.loads(pathlib.Path("/usr/local/dcmi/simulated.json").read_text())
NAMES = (re.fullmatch(r"davinci([0-9]+)", path.name) for path in pathlib.Path("/dev").glob("davinci*"))
IDS = sorted(int(name[1]) for name in NAMES if name)
LINE = "+---------------------------+---------------+----------------------------------------------------+"
DOUBLE = LINE.replace("-", "=")
ONE_NPU = ("board", "health", "ecc", "hccs")
COUNTERS = ("HBM Single Bit Error Count", "HBM Double Bit Error Count", "HBM Double Bit Aggregate Total Err Cnt")


def key(name, value):
    print("\\t%-30s : %s" % (name, value))


def table():
    print("+" + "-" * 96 + "+")
    print("| npu-smi %-18s Version: %-69s|" % (FACTS["smi"], FACTS["smi"]))
    print(LINE)
    print("| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|")
    print("| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |")
    print(DOUBLE)
    for npu in IDS:
        health = FACTS["health"].get(str(npu), "OK")
        rest = "94.8        36                0    / 0             |"
        print("| %-5d %-19s | %-13s | %s" % (npu, FACTS["chip"], health, rest))
        rest = "0           0    / 0          3407 / %-13d |" % FACTS["hbmMiB"]
        print("| 0                         | %-13s | %s" % (bus(npu), rest))
        print(DOUBLE)
    print(LINE)
    print("| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |")
    print(DOUBLE)
    for npu in IDS:
        print("| %-95s|" % ("No running processes found in NPU %d" % npu))


def bus(npu):
    return "0000:%02X:00.0" % (0xC1 + npu)


def topology():
    print("\\t   " + "".join("%-11s" % ("NPU%d" % npu) for npu in IDS) + "CPU Affinity")
    for row in IDS:
        cells = "".join("%-11s" % ("X" if row == column else FACTS["link"]) for column in IDS)
        print("%-11s%s144-167" % ("NPU%d" % row, cells))
    print("\\nLegend:\\n\\n  X    = Self\\n  HCCS = Connection traversing HCCS.\\n  NA   = Unknown relationship.")


def main(arguments):
    options = dict(zip(arguments[1::2], arguments[2::2]))
    if arguments == ["info"]:
        table()
    elif arguments == ["info", "-l"]:
        key("Total Count", len(IDS))
        for npu in IDS:
            print()
            key("NPU ID", npu)
            key("Chip Count", 1)
    elif arguments == ["info", "-m"]:
        print("\\t%-31s%-31s%-31s%s" % ("NPU ID", "Chip ID", "Chip Logic ID", "Chip Name"))
        for logic, npu in enumerate(IDS):
            print("\\t%-31d%-31d%-31d%s" % (npu, 0, logic, "Ascend " + FACTS["chip"]))
            print("\\t%-31d%-31d%-31s%s" % (npu, 1, "-", "Mcu"))
    elif arguments[:1] == ["info"] and options.get("-t") == "topo":
        topology()
    elif arguments[:1] == ["info"] and options.get("-t") in ONE_NPU and options.get("-i", "").isdigit():
        npu = int(options["-i"])
        if npu not in IDS:
            print("Invalid NPU ID.")
            return 1
        key("NPU ID", npu)
        if options["-t"] == "ecc":
            for name in COUNTERS:
                print("\\t%-40s : %d" % (name, 0))
            return 0
        if options["-t"] == "hccs":
            links = " ".join("%-20d" % 0 for _ in IDS[1:])
            print("\\t%-30s : OK\\n\\t%-30s : [%s]" % ("hccs health status", "hccs error count", links))
            return 0
        if options["-t"] == "health":
            key("Health", FACTS["health"].get(str(npu), "OK"))
            return 0
        key("Product Name", "IT21HMDC_Bin5")
        key("Model", "NA")
        key("Manufacturer", "Huawei")
        key("Software Version", FACTS["driver"])
        key("Firmware Version", FACTS["firmware"])
        key("Compatibility", "OK")
        key("PCIe Bus Info", bus(npu))
        key("Slot ID", npu)
        key("Chip Count", 1)
    else:
        print("This device does not support querying %s." % (options.get("-t") or " ".join(arguments)))
        return 1
    return 0


sys.exit(main(sys.argv[1:]))
'''

DRIVER_FILES = (
    "usr/local/bin/npu-smi",
    "usr/local/Ascend/driver/version.info",
    "usr/local/Ascend/driver/lib64",
    "usr/local/dcmi",
    "etc/ascend_install.info",
    "etc/hccn.conf",
)
"""What of the tree is where on a node, as in the device plug-in (``kube/npu/plugin.go``)."""

INSTALL_INFO = """\
UserName=HwHiAiUser
UserGroup=HwHiAiUser
Driver_Install_Type=full
Driver_Install_Path_Param=/usr/local/Ascend
Driver_Install_For_All=yes
Driver_Install_Mode=normal
Firmware_Install_Type=full
Firmware_Install_Path_Param=/usr/local/Ascend
"""


def write_tree(
    directory: Path,
    *,
    count: int = 8,
    chip: str = "910B3",
    hbm_gib: int = 64,
    driver: str = "25.5.1",
    firmware: str = "7.8.0.6.201",
    link: str = "HCCS",
) -> None:
    """Write the tree that the device plug-in hands out.

    Args:
        directory: where; its layout is that of a node's root.
        count: number of NPUs.
        chip: SoC name.
        hbm_gib: memory of one NPU in GiB.
        driver: driver version.
        firmware: firmware version.
        link: what every pair of NPUs is joined by.
    """
    for folder in ("usr/local/bin", "usr/local/Ascend/driver/lib64", "usr/local/dcmi", "etc", "health"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    facts = {
        "smi": driver,
        "chip": chip,
        "hbmMiB": hbm_gib * 1024,
        "driver": driver,
        "firmware": firmware,
        "link": link,
        "health": {},
    }
    (directory / "usr/local/dcmi/simulated.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    smi = directory / "usr/local/bin/npu-smi"
    smi.write_text(NPU_SMI, encoding="utf-8")
    smi.chmod(0o755)
    version = f"Version={driver}\nascendhal_version=7.35.23\naicpu_version=1.0\npackage_version={driver}\n"
    (directory / "usr/local/Ascend/driver/version.info").write_text(version, encoding="utf-8")
    (directory / "etc/ascend_install.info").write_text(INSTALL_INFO, encoding="utf-8")
    lines = "".join(f"address_{npu}=192.168.101.{npu + 1}\nnetmask_{npu}=255.255.255.0\n" for npu in range(count))
    (directory / "etc/hccn.conf").write_text(lines, encoding="utf-8")
    for npu in range(count):
        (directory / "health" / str(npu)).write_text("OK\n", encoding="utf-8")
