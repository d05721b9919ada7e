"""The families of released vllm-ascend images as data (``cann_families.yaml``), and a root in the shape of each.

What is in a root computes nothing on an NPU; it is what guard and plug-in meet on their way to an engine that serves.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DATA = Path(__file__).with_suffix(".yaml")
LIBRARY = "opp/vendors/batch_invariant/op_api/lib/libcust_opapi.so"
ATB = "/usr/local/Ascend/nnal/atb/set_env.sh"
TOOLKIT = "/usr/local/Ascend/ascend-toolkit/set_env.sh"


@dataclass(frozen=True)
class Family:
    """One family of images."""

    name: str
    cann: str
    environment: dict[str, str]
    """``ENV`` of the image."""
    scripts: tuple[str, ...]
    """Those of the entry point, in its order."""
    install_info: tuple[str, ...]
    """Names of the files that tell CANN's version."""
    users: tuple[str, ...]
    working_dir: str
    releases: tuple[str, ...]
    """Of vllm-ascend."""
    sources: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def home(self) -> str:
        """Folder of the toolkit."""
        return f"/usr/local/Ascend/cann-{self.cann}"


def read_families(path: Path = DATA) -> dict[str, Family]:
    """Return the families by name."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    shared = document["images"]
    return {item["name"]: _family(shared, item) for item in document["families"]}


def _family(shared: dict[str, Any], item: dict[str, Any]) -> Family:
    def filled(text: str) -> str:
        return text.replace("{home}", f"/usr/local/Ascend/cann-{item['cann']}").replace("{python}", item["python"])

    environment = shared["environment"] | item.get("environment", {})
    return Family(
        name=item["name"],
        cann=item["cann"],
        environment={name: filled(value) for name, value in environment.items()},
        scripts=tuple(map(filled, shared["scripts"])),
        install_info=tuple(item["installInfo"]),
        users=tuple(shared["users"]),
        working_dir=shared["workingDir"],
        releases=tuple(item["vllmAscend"]),
        sources=tuple(item["sources"]),
        unknown=tuple(item["unknown"]),
    )


def script_texts(family: Family) -> dict[str, str]:
    """Return set-up scripts that set what the real ones set, by path; ours, in the manner of theirs."""
    toolkit, compiler, atb = family.scripts
    exported = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH", "ASCEND_OPP_PATH", "ASCEND_AICPU_PATH", "TOOLCHAIN_HOME")
    # A search for the driver's library that may not read everything: it fails, and that is no failure.
    search = 'if [ -n "$ZSH_VERSION" ]; then :; fi\nhal=$(find /nowhere -name libascend_hal.so 2> /dev/null)\n'
    sync = [name for name in family.environment if name.startswith(("ATB_", "LCCL_")) and name != "ATB_HOME_PATH"]
    return {
        toolkit: search + "".join(f"export {name}={family.environment[name]}\n" for name in exported),
        compiler: f"export PATH={family.home}/share/info/ascendnpu-ir/bin:$PATH\n",
        atb: "".join(f'export {name}="{family.environment[name]}"\n' for name in sync if name != "ATB_CXX_ABI")
        + "export ATB_HOME_PATH=/usr/local/Ascend/nnal/atb/latest/atb/cxx_abi_1\n",
    }


def entry_point(family: Family) -> str:
    """Return the image's entry point as JSON: the scripts, one after another, then what the container is to run."""
    sourced = " && ".join(f"source {path}" for path in family.scripts)
    return json.dumps(["/bin/bash", "-c", f'{sourced} && exec "$@"', "--"])


def write_toolkit(root: Path, family: Family) -> None:
    """Write the toolkit, its scripts and the users of an image under a root."""
    home = family.home.lstrip("/")
    texts = {path.lstrip("/"): text for path, text in script_texts(family).items()}
    for name in family.install_info:
        texts[f"{home}/{platform.machine()}-linux/{name}"] = f"package_name=Ascend-cann\nversion={family.cann}\n"
    texts[f"{home}/{LIBRARY}"] = "no kernels\n"
    texts[f"{home}/share/info/ascendnpu-ir/bin/bishengir-compile"] = "#!/bin/sh\nexit 1\n"
    known = {"root": (0, "/root"), "daemon": (1, "/usr/sbin"), "bin": (2, "/bin"), "nobody": (65534, "/nonexistent")}
    rows = [(name, *known[name]) for name in family.users]
    texts["etc/passwd"] = "".join(f"{name}:x:{uid}:{uid}:{name}:{folder}:/bin/sh\n" for name, uid, folder in rows)
    texts["etc/group"] = "".join(f"{name}:x:{uid}:\n" for name, uid, _ in rows)
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    (root / home / "share/info/ascendnpu-ir/bin/bishengir-compile").chmod(0o755)
    (root / family.working_dir.lstrip("/")).mkdir(parents=True, exist_ok=True)


def as_markdown(path: Path = DATA) -> str:
    """Return ``docs/reference/images.md``."""
    shared = yaml.safe_load(path.read_text(encoding="utf-8"))["images"]
    families = list(read_families(path).values())
    lines = [
        "# What the released images are like",
        "",
        "Read in the Dockerfiles of CANN's and of vllm-ascend's images for Atlas A2 (910b, Ubuntu), which nobody here",
        "can pull; kept as data in `tests/stand_ins/cann_families.yaml`, which this page is generated from.",
        "The tests start the guard on a root in the shape of each (`tests/unit/detinf/guard/test_families.py`).",
        "",
        "| Family | CANN | vllm-ascend | tells its version in |",
        "|---|---|---|---|",
    ]
    for family in families:
        files = ", ".join(f"`{name}`" for name in family.install_info)
        lines.append(f"| {family.name} | {family.cann} | {', '.join(family.releases) or 'none yet'} | {files} |")
    scripts = [text.replace("{home}", "/usr/local/Ascend/cann-VERSION") for text in shared["scripts"]]
    lines += [
        "",
        "## What all have",
        "",
        f"- From `{shared['base']}`; the user is {shared['user']} ({shared['userSource']}).",
        f"- The working folder is `{shared['workingDir']}` ({shared['workingDirSource']}).",
        "- The entry point sources these scripts with `&&`, so that one that fails keeps the container from starting.",
        "  A pod's command takes the entry point's place; the guard sources them, from the profile's `scripts`:",
        *(f"  - `{text}`" for text in scripts),
        f"- A login shell's `.bashrc` alone has {' and '.join(shared['bashrc'])}: an engine in a pod has neither.",
        "",
        "## Variables",
        "",
        "What the plan sets or unsets is in effect over these ([decisions/0026](../decisions/0026-the-plan-wins.md)).",
        "",
        "| `ENV` | Value | Families |",
        "|---|---|---|",
    ]
    names = sorted({name for family in families for name in family.environment})
    for name in names:
        having = [family for family in families if name in family.environment]
        value = shared["environment"].get(name, having[0].environment[name])
        text = value.replace("{home}", "cann-VERSION").replace("{python}", "PY")
        where = "all" if len(having) == len(families) else ", ".join(family.name for family in having)
        lines.append(f"| `{name}` | `{text or '(empty)'}` | {where} |")
    lines += ["", "`PATH`, `LD_LIBRARY_PATH` and `PYTHONPATH` are shortened to the folders that matter here.", ""]
    lines += ["## Sources, and what is not known", ""]
    for family in families:
        lines += [f"- {family.name}: {'; '.join(family.sources)}."]
        lines += [f"  - Not known: {text}." for text in family.unknown]
    return "\n".join(lines) + "\n"
