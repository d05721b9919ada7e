"""``ClusterApi`` over ``kubernetes.aio``: plain dicts, server-side apply, and errors by what they mean.

The typed client parses pods twenty times slower and drops fields that are newer than itself (measured), so only its
transport and its credentials are used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from detinf.api.names import FIELD_MANAGER
from detinf.cluster.port import (
    KINDS,
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    Kind,
    Manifest,
    NamespaceEndsError,
    TakenError,
)

REQUEST_SECONDS = 30
APPLY = "application/apply-patch+yaml"
JSON = "application/json"
NO_VERSION = "1"
"""A version that no object of ours has: an apply with it makes an object, or answers 409 (1.36.3, measured)."""


async def load_configuration(kubeconfig: str | None) -> Configuration:
    """Return the credentials of a kubeconfig, or of the pod that we run in."""
    configuration = Configuration()
    if kubeconfig is None:
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    return configuration


class KubernetesApi:
    """The port on a real API server; use it with ``async with``."""

    def __init__(
        self, configuration: Configuration, count: Callable[[str, str], None] = lambda _code, _method: None
    ) -> None:
        """Keep the credentials.

        Args:
            configuration: host and credentials.
            count: told the status code and the method of every request, for the metrics.
        """
        self.configuration = configuration
        self.count = count
        self.client: ApiClient | None = None

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        self.client = ApiClient(self.configuration)
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close the connection pool."""
        if self.client is not None:
            await self.client.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """Return the object, or None."""
        return await self._request("GET", _path(kind, namespace, name), missing_ok=True)

    async def list(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Manifest]:
        """Return objects with all of the labels and fields; items carry their kind, as single objects do."""
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        query = [
            (selector, ",".join(f"{key}={value}" for key, value in wanted.items()))
            for selector, wanted in selectors.items()
            if wanted
        ]
        answer = await self._request("GET", _path(kind, namespace, None), query=query)
        head = {"apiVersion": kind.api_version, "kind": kind.kind}
        return [head | item for item in (answer or {}).get("items") or []]

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply with force, to the object of that uid or under a free name."""
        metadata = manifest["metadata"]
        if "uid" in metadata:
            return await self._apply(manifest, "") or {}
        try:
            return await self._apply(manifest | {"metadata": metadata | {"resourceVersion": NO_VERSION}}, "") or {}
        except ConflictError as error:
            if f'"{metadata["name"]}"' not in error.words:
                raise  # of something else, such as a quota that is being counted
            raise TakenError(str(error), status=error.status, words=error.words) from error

    async def apply_status(self, manifest: Manifest) -> Manifest | None:
        """Server-side apply of the status; None where the object is gone."""
        return await self._apply(manifest, "/status", missing_ok=True)

    async def create(self, manifest: Manifest) -> Manifest | None:
        """Create; None where the name is taken."""
        kind, metadata = KINDS[manifest["kind"]], manifest["metadata"]
        try:
            return await self._request("POST", _path(kind, metadata["namespace"], None), body=manifest)
        except ConflictError as error:
            if "already exists" not in error.words:
                raise  # of something else, such as a quota that is being counted
            return None

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> bool:
        """Delete that very object; False where it is gone or another uid has taken its name."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        try:
            answer = await self._request("DELETE", _path(kind, namespace, name), body=body, missing_ok=True)
        except ConflictError:
            return False
        return answer is not None

    async def _apply(self, manifest: Manifest, subresource: str, *, missing_ok: bool = False) -> Manifest | None:
        kind, metadata = KINDS[manifest["kind"]], manifest["metadata"]
        path = _path(kind, metadata["namespace"], metadata["name"]) + subresource
        query = [("fieldManager", FIELD_MANAGER), ("force", "true")]
        return await self._request("PATCH", path, query=query, body=manifest, content=APPLY, missing_ok=missing_ok)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Any = None,
        content: str = JSON,
        missing_ok: bool = False,
    ) -> Manifest | None:
        if self.client is None:
            raise RuntimeError("KubernetesApi is used outside `async with`")
        headers = {"Accept": JSON, "Content-Type": content}
        method, url, headers, body, _ = await self.client.param_serialize(
            method, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        try:
            response = await self.client.call_api(method, url, headers, body, _request_timeout=REQUEST_SECONDS)
            text = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self.count("<error>", method)
            raise ClusterError(f"{method} {path}: {type(error).__name__}: {error}") from error
        self.count(str(response.status), method)
        if 200 <= response.status < 300:
            return parsed_answer(method, path, text)
        if response.status == 404 and missing_ok:
            return None
        raise error_of(method, path, response.status, text, response.headers.get("Retry-After"))


def _path(kind: Kind, namespace: str | None, name: str | None) -> str:
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    where = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{where}/{kind.plural}" + (f"/{name}" if name else "")


def parsed_answer(method: str, path: str, text: bytes) -> Manifest:
    """Return what a server says that did what was asked.

    Raises:
        ClusterError: where that is no JSON object: something on the way cut it short, or it is no API server.
    """
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise ClusterError(f"{method} {path}: the answer is no JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ClusterError(f"{method} {path}: the answer is no JSON object but {type(parsed).__name__}")
    return parsed


def error_of(method: str, path: str, status: int, text: bytes, retry_after: str | None) -> ClusterError:
    """Return the error that an answer means; the API server's own words are in its message."""
    try:
        answer = json.loads(text)
        words = str(answer.get("message") or text.decode())
        details = answer.get("details") or {}
    except (ValueError, AttributeError):
        words, details = text.decode(errors="replace"), {}  # right after a CRD is made, 404s are plain text
    message = f"{method} {path}: {status}: {words[:1000]}"
    wait = float(retry_after) if retry_after and retry_after.isdigit() else None
    if status == 422 and "metadata.uid" in words:
        # Another object of that name: some kinds answer 409 to that, and others call the uid immutable (measured).
        return ConflictError(message, status=status)
    causes = {cause.get("reason") for cause in details.get("causes") or []}
    if (status == 403 and "NamespaceTerminating" in causes) or (status == 404 and details.get("kind") == "namespaces"):
        return NamespaceEndsError(message, status=status)
    malformed = status == 500 and "failed to create typed patch object" in words
    kinds: dict[int, type[ClusterError]] = {
        400: InvalidError,
        422: InvalidError,
        403: ForbiddenError,
        409: ConflictError,
    }
    return kinds.get(status, InvalidError if malformed else ClusterError)(
        message, status=status, retry_after=wait, words=words
    )
