"""A download site on loopback, with the faults that download sites have."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import IO


class Answer:
    """What the site does with one request: all of the file, or less."""

    def __init__(
        self, status: int = 0, *, cut: int | None = None, stall: bool = False, ranges: bool = True, location: str = ""
    ) -> None:
        self.status, self.cut, self.stall, self.ranges, self.location = status, cut, stall, ranges, location


class Site:
    """Files by path, answers to the next requests of a path, and the requests that came."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | Path] = {}
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, int]] = []
        self.stalled = threading.Event()
        """A request has got what it gets, and hangs."""
        self.closing = threading.Event()
        self.url = ""

    def asked(self, path: str) -> list[int]:
        """Return the first byte that each request of a path asked for."""
        return [start for asked, start in self.requests if asked == path]

    def publish(self, path: str, content: bytes | Path) -> None:
        """Add a file with its checksum beside it."""
        self.files[path] = content
        digest = hashlib.sha256(content if isinstance(content, bytes) else content.read_bytes()).hexdigest()
        self.files[f"{path}.sha256"] = digest.encode()

    def publish_etcd(self, version: str, program: bytes | Path, *, member: str = "etcd") -> str:
        """Add an etcd release; return the archive's path."""
        folder = f"etcd-{version}-linux-amd64"
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
            if isinstance(program, Path):
                tar.add(program.resolve(), f"{folder}/{member}")
            else:
                info = tarfile.TarInfo(f"{folder}/{member}")
                info.size = len(program)
                tar.addfile(info, io.BytesIO(program))
        path = f"/etcd/{version}/{folder}.tar.gz"
        self.files[path] = buffer.getvalue()
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        sums = [f"{'0' * 64}  etcd-{version}-darwin-amd64.zip", f"{digest}  {folder}.tar.gz", ""]
        self.files[f"/etcd/{version}/SHA256SUMS"] = "\n".join(sums).encode()
        return path


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "").removeprefix("bytes=").rstrip("-")
            site.requests.append((self.path, int(wanted or 0)))
            scripted = site.answers.get(self.path)
            answer = scripted.pop(0) if scripted else Answer()
            if answer.location:
                self.send_response(302)
                self.send_header("Location", answer.location)
                self.end_headers()
                return
            content = site.files.get(self.path)
            if answer.status or content is None:
                self.send_error(answer.status or 404)
                return
            start = int(wanted or 0) if answer.ranges else 0
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            if start and start >= size:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(size - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.end_headers()
            opened: IO[bytes] = io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
            with opened as file:
                file.seek(start)
                left = size - start if answer.cut is None else answer.cut
                with contextlib.suppress(ConnectionError):  # whoever asked may have been killed
                    while left and (data := file.read(min(left, 1 << 18))):
                        self.wfile.write(data)
                        left -= len(data)
            if answer.stall:
                site.stalled.set()
                site.closing.wait(60)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
