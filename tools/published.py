"""The published source of an engine's package, as data: fetched once, its bytes pinned, nothing of it run or built.

What the operator believes about an engine is held against the engine's own files. A source distribution cannot be
fetched with pip, which prepares its metadata by running its ``setup.py``; so it comes from the index that pip uses.
"""

from __future__ import annotations

import hashlib
import html.parser
import io
import os
import subprocess
import sys
import tarfile
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "cluster"))

from detinf_cluster.cache import cache_dir, say

SECONDS = 120

KEPT = (".py", ".sh", ".md", "Dockerfile", "pyproject.toml", "requirements.txt")
"""What is kept of an archive; the cache's folder is named for this choice, too (``-2``)."""


class PublishedError(Exception):
    """A package that cannot be had; the message says which, why and what to do."""


@dataclass(frozen=True)
class Package:
    """One source distribution."""

    name: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The archive's name on every index."""
        return f"{self.name.replace('-', '_')}-{self.version}.tar.gz"


VLLM_ASCEND = Package("vllm-ascend", "0.23.0.post1", "a3b9f4a5dd7aa50c37e03d1f35937c4ae5aeacc49b734cac74d59ce5757738e1")
VLLM_ASCEND_RC = Package("vllm-ascend", "0.26.0rc1", "647533d9ae77ae765c2c4b88eaa8f2cfcde56cc7621e393e3be63bfb7303d6b3")
VLLM_ASCEND_27 = Package("vllm-ascend", "0.27.1rc1", "6fa8b357b624df4c8810c445da24082a9147009d8fe1db33eff815c8ab9805f0")
VLLM_ASCEND_28 = Package("vllm-ascend", "0.28.0rc1", "bde8bf4207d225df86d8f3b7d9b2bd89ff5e5e56af0cbe4bf8b5b691b98bbe95")
VLLM_ASCEND_29 = Package("vllm-ascend", "0.29.0rc1", "680f58f98b8a8a4d92380f77a5d3949107da6db0b7cfc17834898d32fdfcdfd1")
VLLM_ASCEND_30 = Package("vllm-ascend", "0.30.0rc2", "05cb51448c0cd174ea338b16ebbfc8e215f44b373ea2a0d65f1314523a01152f")
# The vLLM that each of them is made for; 0.23.0 also has 0.23.0.post1.
VLLM = Package("vllm", "0.23.0", "760269db3d9611e12e524681df1bca0977d5d2f5fcb4481cc34d33efc4ae7ff5")
VLLM_RC = Package("vllm", "0.26.0", "23e9fa19d7e20ce7dcc1c074d41503e2116d23f19e688f5d5ea91b741f958502")
VLLM_27 = Package("vllm", "0.27.1", "eec2d54d137ac1e59cb4c39226dfee1943eefc8f4788f5821d7300d6acbdb646")
VLLM_28 = Package("vllm", "0.28.0", "ac96dd0ec5be9c13f2aa4bfb50498c4727110406f6e4980b58a4097e4d18634a")
VLLM_29 = Package("vllm", "0.29.0", "c03feb07943ecae9e69e7dc424d7c5569ecf8d1292513aef2a4de67af381cd97")
VLLM_30 = Package("vllm", "0.30.0", "5f8f4e890c042ffa1c3e103f81c35e2d96f60a0a175ac43a4adbae7006bef62b")


class _Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def index_url() -> str:
    """Return the simple index that pip would ask."""
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        if value := os.environ.get(name):
            return value
    ask = "from pip._internal.configuration import Configuration as C\nfrom pip._internal.models.index import PyPI\n"
    ask += "c = C(isolated=False)\nc.load()\nvalues = dict(c.items())\n"
    ask += "print(values.get('global.index-url') or PyPI.simple_url)\n"
    base = getattr(sys, "_base_executable", sys.executable)
    done = subprocess.run([base, "-c", ask], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PublishedError(f"pip does not say which index it uses: {done.stderr.strip()[-300:]}; set PIP_INDEX_URL")
    return done.stdout.strip()


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:  # noqa: S310 - the user's own index
        return bytes(answer.read())


def listed(name: str) -> list[str]:
    """Return the addresses of a package's files on the index, as its page has them.

    Raises:
        PublishedError: where the index cannot be reached.
    """
    page = f"{index_url().rstrip('/')}/{name}/"
    links = _Links()
    try:
        links.feed(_get(page).decode())
    except OSError as error:
        raise PublishedError(f"{name}: {error}; is the package index reachable?") from error
    return [urllib.parse.urljoin(page, link.partition("#")[0]) for link in links.found]


def fetch(package: Package) -> bytes:
    """Return the archive's bytes.

    Raises:
        PublishedError: where the index does not have it, cannot be reached, or has other bytes.
    """
    say(f"{package.file_name}: fetching (some MB, once)")
    wanted = [
        link for link in listed(package.name) if urllib.parse.urlsplit(link).path.endswith(f"/{package.file_name}")
    ]
    if not wanted:
        raise PublishedError(f"{package.file_name}: the index does not list it; set PIP_INDEX_URL to one that does")
    try:
        data = _get(wanted[0])
    except OSError as error:
        raise PublishedError(f"{package.file_name}: {error}; is the package index reachable?") from error
    seen = hashlib.sha256(data).hexdigest()
    if seen != package.sha256:
        raise PublishedError(
            f"{package.file_name}: sha256 is {seen}, expected {package.sha256}; do not trust that index"
        )
    return data


def source(package: Package) -> Path:
    """Return the folder of a package's Python source; fetched now where it is not in the cache.

    Raises:
        PublishedError: as ``fetch``.
    """
    target = cache_dir() / "published" / f"{package.name}-{package.version}-{package.sha256[:12]}-2"
    if target.is_dir():
        return target
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    draft.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(fetch(package))) as archive:
        for member in archive.getmembers():
            inside = member.name.partition("/")[2]
            if member.isfile() and inside.endswith(KEPT) and ".." not in inside.split("/"):
                content = archive.extractfile(member)
                path = draft / inside
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read() if content else b"")
    try:
        draft.rename(target)
    except OSError:  # somebody else was faster
        subprocess.run(["rm", "-rf", str(draft)], check=True)
    return target
