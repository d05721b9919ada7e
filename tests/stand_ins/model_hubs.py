"""Stand-ins for the two hubs' HTTP APIs on loopback, as far as their own libraries use them to download a commit.

Answers, headers and error codes are those that the libraries' code reads (huggingface_hub 0.36 and 2.4: ``hf_api.py``,
``file_download.py``, ``utils/_http.py``; modelscope-hub 0.1 and 0.5: ``_legacy_api.py``, ``_download.py``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 1000
"""Bytes from which a file is kept outside git, and named by its sha256."""


@dataclass
class Hub:
    """What a hub holds, and how it behaves."""

    repository: str
    revision: str
    files: dict[str, bytes]
    token: str | None = None
    """Where given, what every request has to carry."""
    before: Callable[[str], int | None] = lambda _path: None
    """Called with the path of each request for a file; a status that it returns is the answer."""
    served: list[str] = field(default_factory=list)
    """Files whose bytes were sent."""
    asked: list[str] = field(default_factory=list)
    """Paths of all requests."""
    url: str = ""


def sha256(data: bytes) -> str:
    """Return how a hub names a large file."""
    return hashlib.sha256(data).hexdigest()


def git_name(data: bytes) -> str:
    """Return how git names a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class Answer(BaseHTTPRequestHandler):
    """What both hubs have in common."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self.answer()

    def do_GET(self) -> None:
        """Answer."""
        self.answer()

    def answer(self) -> None:
        """Answer a request."""
        raise NotImplementedError

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def say(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

    def say_json(self, status: int, value: Any, **headers: str) -> None:
        """Send JSON."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        self.say(status, json.dumps(value).encode(), {"Content-Type": "application/json", **named})

    def say_file(self, name: str, data: bytes, headers: dict[str, str]) -> None:
        """Send a file, or the part of it that is asked for."""
        start, status = 0, 200
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, status = int(found[1]), 206
            end = min(int(found[2] or len(data) - 1), len(data) - 1)
            headers = headers | {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
            data = data[: end + 1]
        if self.command == "GET":
            self.hub.served.append(name)
        self.say(status, data[start:], headers | {"Accept-Ranges": "bytes"})

    def allowed(self) -> bool:
        """Return whether the request carries the token."""
        return self.hub.token in {None, self.headers.get("Authorization", "").removeprefix("Bearer ")}


class HuggingFace(Answer):
    """huggingface.co."""

    def answer(self) -> None:
        """Answer a request."""
        path = unquote(urlsplit(self.path).path)
        hub = self.hub
        hub.asked.append(path)
        found = re.fullmatch(r"/(api/models/)?([^/]+/[^/]+)/(revision|tree|resolve)/([^/]+)(?:/(.*))?", path)
        if not self.allowed() or not found or found[2] != hub.repository:
            # The hub does not tell a stranger which of both it is.
            said = {"X_Error_Code": "RepoNotFound", "X_Error_Message": "Repository not found"}
            return self.say_json(401, {"error": "Repository not found"}, **said)
        kind, revision, name = found[3], found[4], found[5] or ""
        if revision != hub.revision:
            return self.say_json(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        if kind == "revision":
            siblings = [{"rfilename": item} for item in hub.files]
            return self.say_json(200, {"id": hub.repository, "sha": hub.revision, "siblings": siblings})
        if kind == "tree":
            return self.say_json(200, [self.entry(item, data) for item, data in hub.files.items()])
        if (status := hub.before(name)) is not None:
            return self.say_json(status, {"error": "as asked for"})
        if name not in hub.files:
            return self.say_json(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        data = hub.files[name]
        etag = sha256(data) if len(data) >= LARGE else git_name(data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": hub.revision}
        if len(data) >= LARGE:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        return self.say_file(name, data, headers)

    @staticmethod
    def entry(name: str, data: bytes) -> dict[str, Any]:
        """Return a file in the listing."""
        entry: dict[str, Any] = {"type": "file", "oid": git_name(data), "size": len(data), "path": name}
        if len(data) >= LARGE:
            entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
        return entry


class ModelScope(Answer):
    """modelscope.cn."""

    def answer(self) -> None:
        """Answer a request."""
        url = urlsplit(self.path)
        hub, path = self.hub, unquote(url.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        hub.asked.append(path)
        if path not in {f"/api/v1/models/{hub.repository}/repo/files", f"/api/v1/models/{hub.repository}/repo"}:
            return self.say_json(404, {"Code": 10010205001, "Message": "not found", "Success": False})
        if not self.allowed():
            return self.say_json(401, {"Code": 10010303001, "Message": "unauthorized", "Success": False})
        if asked.get("Revision") != hub.revision:
            return self.say_json(404, {"Code": 10010205002, "Message": "no such revision", "Success": False})
        if path.endswith("/files"):
            files = [
                {"Path": name, "Name": name, "Type": "blob", "Size": len(data), "Sha256": sha256(data)}
                for name, data in hub.files.items()
            ]
            return self.say_json(200, {"Code": 200, "Data": {"Files": files}, "Success": True})
        name = asked["FilePath"]
        if (status := hub.before(name)) is not None:
            return self.say_json(status, {"Code": status, "Message": "as asked for", "Success": False})
        return self.say_file(name, hub.files[name], {"ETag": f'"{sha256(hub.files[name])}"'})


KINDS: dict[str, type[Answer]] = {"huggingFace": HuggingFace, "modelScope": ModelScope}


@contextlib.contextmanager
def serving(kind: str, hub: Hub) -> Iterator[Hub]:
    """Serve a hub on loopback for as long as the block lasts."""
    handler = type("Handler", (KINDS[kind],), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
