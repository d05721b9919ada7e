"""The official release downloads: checked against the published SHA-256, continued where they broke off, never half.

Kubernetes' programs come from ``BASE/VERSION/bin/linux/ARCH/NAME`` with ``NAME.sha256`` beside them, etcd from
``BASE/VERSION/etcd-VERSION-linux-ARCH.tar.gz`` with ``SHA256SUMS``. ``DETINF_KUBERNETES_RELEASES`` and
``DETINF_ETCD_RELEASES`` name other bases, a mirror's for instance.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import platform
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import stamina
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from detinf_cluster.build import VERSION
from detinf_cluster.cache import ClusterError, cache_dir, locked, say

KUBERNETES = ("DETINF_KUBERNETES_RELEASES", "https://dl.k8s.io")
ETCD = ("DETINF_ETCD_RELEASES", "https://github.com/etcd-io/etcd/releases/download")
ETCD_VERSION = "v3.6.8"  # the one that Kubernetes' Go modules bring along, see kube/go.mod
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
STALL_SECONDS = 30.0
"""A connection over which nothing came for so long is given up."""
ATTEMPTS = 5
PROGRESS_SECONDS = 5.0
_PATIENCE = {"attempts": ATTEMPTS, "timeout": None, "wait_initial": 1.0, "wait_max": 15.0}
_CHUNK = 1 << 18
_OPENER = urllib.request.build_opener()


class InterruptedDownloadError(Exception):
    """Something that may go better the next time."""


def _say_retry(details: RetryDetails) -> None:
    say(f"  {details.caused_by}; try {details.retry_num + 1} of {ATTEMPTS} in {details.wait_for:.0f} s")


set_on_retry_hooks([_say_retry])


def program(name: str) -> Path:
    """Return a program of the release, downloaded now if it is not in the cache.

    Raises:
        ClusterError: where it cannot be had, or is not what its checksum says.
    """
    architecture = ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise ClusterError(f"there are no releases for {platform.machine()}; build from Go modules instead")
    if name == "etcd":
        folder = f"etcd-{ETCD_VERSION}-linux-{architecture}"
        base = f"{_base(ETCD)}/{ETCD_VERSION}"
        url, sums = f"{base}/{folder}.tar.gz", f"{base}/SHA256SUMS"
        version, member = ETCD_VERSION, f"{folder}/etcd"
    else:
        url = f"{_base(KUBERNETES)}/{VERSION}/bin/linux/{architecture}/{name}"
        version, sums, member = VERSION, f"{url}.sha256", ""
    target = cache_dir() / "releases" / f"{version}-{architecture}" / name
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_suffix(".lock"), f"another process is downloading {name}; waiting for it"):
        if not target.is_file():
            part = target.with_suffix(".part")
            try:
                download(url, part, checksum(sums, url.rpartition("/")[2]))
            except InterruptedDownloadError as error:
                raise ClusterError(f"{error}; given up after {ATTEMPTS} tries; what came is kept") from None
            if member:
                _extract(part, member)
            part.chmod(0o755)
            part.rename(target)
    return target


def _base(variable: tuple[str, str]) -> str:
    name, default = variable
    base = os.environ.get(name) or default
    if urlsplit(base).scheme not in {"http", "https"}:
        raise ClusterError(f"{name}: {base!r} is no http(s) address; the default is {default}")
    return base.rstrip("/")


def checksum(url: str, name: str) -> str:
    """Return the SHA-256 of a file from a published list: ``SUM`` alone, or a line ``SUM  NAME``.

    Raises:
        ClusterError: where the list does not exist, or does not name the file.
        InterruptedDownloadError: where every try broke off.
    """
    text = ""
    for attempt in stamina.retry_context(on=InterruptedDownloadError, **_PATIENCE):
        with attempt, _open(url) as response:
            text = _read(response.read, url).decode("ascii", errors="replace")
    for line in text.splitlines():
        words = line.split()
        if words and re.fullmatch("[0-9a-f]{64}", words[0]) and (words[1:] in ([], [name], [f"*{name}"])):
            return words[0]
    raise ClusterError(f"{url} holds no SHA-256 of {name}; is it the right address?")


def download(url: str, part: Path, digest: str) -> None:
    """Download into a file until it has this SHA-256; what is there already is continued.

    Raises:
        ClusterError: where the file does not exist, or is another one.
        InterruptedDownloadError: where every try broke off.
    """
    for attempt in stamina.retry_context(on=InterruptedDownloadError, **_PATIENCE):
        with attempt:
            _continue(url, part, digest)


def _continue(url: str, part: Path, digest: str) -> None:
    """Fetch what a file lacks, and check the whole."""
    if _size(part) and _sha256(part) == digest:
        return  # killed between its last byte and its name
    with _open(url, part) as response:
        resumed = response.status == 206
        have = _size(part) if resumed else 0
        total = have + int(response.headers.get("Content-Length") or 0)
        say(f"downloading {url}, {have >> 20} of {total >> 20} MiB are there")
        progress = _Progress(url.rpartition("/")[2], have, total)
        try:
            with part.open("ab" if resumed else "wb") as file:
                while data := _read(lambda: response.read1(_CHUNK), url):
                    file.write(data)
                    have += len(data)
                    progress.tell(have)
        except OSError as error:  # the disk's: the network's has another name
            raise ClusterError(f"{part}: {error.strerror}") from None
    if have < total:
        raise InterruptedDownloadError(f"{url} broke off at {have >> 20} of {total >> 20} MiB")
    found = _sha256(part)
    if found == digest:
        return
    part.unlink()
    message = f"{url} has the SHA-256 {found}, but {digest} is published; nothing of it is kept"
    if resumed:
        raise InterruptedDownloadError(message)  # its beginning may have been of another file
    raise ClusterError(message)


def _open(url: str, part: Path | None = None) -> http.client.HTTPResponse:
    start = _size(part) if part else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})  # noqa: S310 - see _base
    try:
        response: http.client.HTTPResponse = _OPENER.open(request, timeout=STALL_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and part:
            part.unlink()  # longer than the file is
        if error.code in {408, 416, 429} or error.code >= 500:
            raise InterruptedDownloadError(f"{url} answered {error.code}") from None
        raise ClusterError(f"{url} answered {error.code} {error.reason}; see --help for the other sources") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise InterruptedDownloadError(f"{url}: {reason}") from None
    return response


def _read(read: Callable[[], bytes], url: str) -> bytes:
    try:
        return read()
    except (OSError, http.client.HTTPException) as error:
        raise InterruptedDownloadError(f"{url} broke off: {error}") from None


class _Progress:
    """A line every few seconds: how much is there, and how long the rest takes."""

    def __init__(self, name: str, have: int, total: int) -> None:
        self.name, self.start, self.total = name, have, total
        self.began = self.told = time.monotonic()

    def tell(self, have: int) -> None:
        """Print the line where it is time for it."""
        now = time.monotonic()
        if now - self.told < PROGRESS_SECONDS:
            return
        self.told = now
        left = max(self.total - have, 0) * (now - self.began) / (have - self.start)
        say(f"  {self.name}: {have >> 20} of {self.total >> 20} MiB, about {left:.0f} s left")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _extract(archive: Path, member: str) -> None:
    """Put one file of an archive in the archive's own place."""
    draft = archive.with_suffix(".draft")
    try:
        with tarfile.open(archive) as tar, draft.open("wb") as file:
            shutil.copyfileobj(_regular(tar, member), file)
    except (KeyError, tarfile.TarError):
        archive.unlink()
        draft.unlink(missing_ok=True)
        raise ClusterError(f"the archive of etcd's release has no {member}; is it the right address?") from None
    draft.rename(archive)


def _regular(tar: tarfile.TarFile, member: str) -> IO[bytes]:
    file = tar.extractfile(member)
    if file is None:
        raise KeyError(member)
    return file
