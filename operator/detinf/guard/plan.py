"""Reading the plan with the standard library; ``detinf.documents.Plan`` is the same document for everyone else."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detinf.guard import hubs
from detinf.guard.canonical import CanonicalError, digest_bytes, encode
from detinf.guard.errors import RefusedError
from detinf.guard.layout import SERVING_FLAGS
from detinf.guard.requests import Rules

SCHEMA = 1


@dataclass(frozen=True)
class Download:
    """One commit of a repository of a hub."""

    hub: str
    repository: str
    revision: str

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.repository} at {self.revision} from {hubs.HUBS[self.hub].title}"


@dataclass(frozen=True)
class Plan:
    """The parts of the plan that the guard verifies, and all of it as ``document``."""

    digest: str
    document: dict[str, Any]

    @property
    def model_path(self) -> str:
        """Folder of the model."""
        return str(self.document["model"]["path"])

    @property
    def download(self) -> Download | None:
        """What has to be downloaded into the folder of the model; None for files that are there."""
        wanted = self.document["model"].get("download")
        return Download(wanted["hub"], wanted["repository"], wanted["revision"]) if wanted else None

    @property
    def arguments(self) -> list[str]:
        """What must follow ``vllm serve <model>``."""
        return list(self.document["arguments"])

    @property
    def variables(self) -> dict[str, str]:
        """Variables that the engine must see."""
        return dict(self.document["environment"]["set"])

    @property
    def unset(self) -> list[str]:
        """Variables that must not be there."""
        return list(self.document["environment"].get("unset", []))

    @property
    def unrecorded(self) -> list[str]:
        """Variables outside the fingerprint, as ``detinf.guard.variables.unrecorded`` reads them."""
        return list(self.document["environment"].get("unrecorded") or [])

    @property
    def scripts(self) -> list[str]:
        """Shell scripts to source before the variables are set."""
        return list(self.document["environment"].get("scripts") or [])

    @property
    def attestation(self) -> dict[str, Any]:
        """Who has to attest, and to what; ``detinf.documents.PlanAttestation`` tells its fields."""
        return dict(self.document["attestation"])

    @property
    def processes(self) -> list[str]:
        """Names of the attestations that make a complete set."""
        return list(self.attestation["processes"])

    @property
    def worker(self) -> str | None:
        """``module:Class`` of the engine's workers."""
        return self.attestation.get("worker")

    @property
    def initialiser(self) -> str | None:
        """``module:function`` that switches batch invariance on in a worker."""
        return self.attestation.get("initialiser")

    @property
    def symbols(self) -> list[dict[str, Any]]:
        """What names must be in a worker."""
        return list(self.attestation.get("symbols") or [])

    @property
    def configuration(self) -> dict[str, str]:
        """JSON text by path of the engine's effective configuration."""
        return dict(self.attestation.get("configuration") or {})

    @property
    def files(self) -> dict[str, str]:
        """Files whose digests enter the fingerprint, by name."""
        return dict(self.attestation.get("files") or {})

    @property
    def packages(self) -> dict[str, list[str]]:
        """Versions by distribution, one of which must be installed."""
        return dict(self.attestation.get("packages") or {})

    @property
    def manifest_digest(self) -> str | None:
        """Digest of the model's manifest, where other weights are to be refused."""
        digest: str | None = self.document["model"].get("manifestDigest")
        return digest

    @property
    def fingerprint_in_answers(self) -> bool:
        """Whether the engine is to return the expected fingerprint as ``system_fingerprint``."""
        return bool(self.attestation.get("fingerprintInAnswers"))

    @property
    def failure_lines(self) -> list[dict[str, str]]:
        """Records of the engine's log, by source file and text, that mean that it must not go on."""
        return list(self.attestation.get("failureLines") or [])

    @property
    def requests(self) -> dict[str, Any] | None:
        """Which requests are served (``detinf.guard.requests``); None where the engine serves all."""
        found: dict[str, Any] | None = self.document.get("requests")
        return found

    @property
    def topology(self) -> dict[str, Any]:
        """What the device tree must be."""
        return dict(self.document["topology"])


def read_plan(path: Path) -> Plan:
    """Read and check the plan.

    Raises:
        RefusedError: where it is missing, malformed, or of another schema.
    """
    try:
        data = path.read_bytes()
        document = json.loads(data)
    except OSError as error:
        raise RefusedError(f"plan: {path}: {error.strerror}; mount the plan's ConfigMap there") from error
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"plan: {path} is no JSON ({error}); apply the resource again") from error
    problem = (
        _problem(document)
        or _download_problem(document["model"])
        or _requests_problem(document.get("requests"))
        or _without_identity(document)
    )
    if problem:
        raise RefusedError(f"plan: {path}: {problem}; use an operator and a guard of one release")
    return Plan(digest_bytes(data), document)


def _problem(document: Any) -> str | None:
    if not isinstance(document, dict):
        return "it is no object"
    if document.get("schema") != SCHEMA or isinstance(document["schema"], bool):
        return f"schema is {document.get('schema')!r}, this guard reads {SCHEMA}"
    model, environment, topology = (document.get(key) for key in ("model", "environment", "topology"))
    if not isinstance(model, dict) or not isinstance(model.get("path"), str):
        return "model.path is missing"
    if not _is_strings(document.get("arguments")):
        return "arguments is no list of strings"
    if not isinstance(environment, dict) or not isinstance(environment.get("set"), dict):
        return "environment.set is missing"
    if not _is_strings(list(environment["set"].values())) or not _is_strings(environment.get("unset", [])):
        return "environment holds something that is no string"
    for name, value in environment["set"].items():
        if not name or "=" in name or "\0" in name + value:
            return f"environment.set: {name!r} = {value!r} is a variable that no process can have"
    devices = topology.get("devices") if isinstance(topology, dict) else None
    if not isinstance(devices, int) or isinstance(devices, bool) or devices < 0:
        return "topology.devices is no number of devices"
    return _attestation_problem(document.get("attestation")) or _scripts_problem(environment)


def _scripts_problem(environment: dict[str, Any]) -> str | None:
    unrecorded = environment.get("unrecorded") or []
    if not _is_strings(unrecorded) or not all(item.rstrip("*") and not item.startswith("=") for item in unrecorded):
        return "environment.unrecorded is no list of names: a family has a beginning"
    return None if _is_strings(environment.get("scripts") or []) else "environment.scripts is no list of paths"


def _attestation_problem(attestation: Any) -> str | None:
    if not isinstance(attestation, dict) or not _is_strings(attestation.get("processes")):
        return "attestation.processes is no list of names"
    if "guard" not in attestation["processes"]:
        return "attestation.processes is without guard: nobody would vouch for this engine"
    for key in ("worker", "initialiser"):
        name = attestation.get(key)
        if name is not None and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", str(name)):
            return f"attestation.{key} is {name!r}, expected module:name"
    for key in ("configuration", "files"):
        mapping = attestation.get(key) or {}
        if not isinstance(mapping, dict) or not _is_strings(list(mapping.values())):
            return f"attestation.{key} holds something that is no string"
    packages = attestation.get("packages") or {}
    if not isinstance(packages, dict) or not all(_is_strings(versions) for versions in packages.values()):
        return "attestation.packages holds something that is no list of versions"
    lines = attestation.get("failureLines") or []
    if not isinstance(lines, list) or not all(
        isinstance(line, dict) and _is_strings([line.get("file"), line.get("text")]) for line in lines
    ):
        return "attestation.failureLines is no list of files and texts"
    return _expectation_problem(attestation)


def _expectation_problem(attestation: dict[str, Any]) -> str | None:
    wrong = [text for text in (attestation.get("configuration") or {}).values() if not _is_json(text)]
    if wrong:
        return f"attestation.configuration: {wrong[0]!r:.120} is no JSON text"
    symbols = attestation.get("symbols") or []
    if not isinstance(symbols, list):
        return f"attestation.symbols is {symbols!r}, expected a list"
    for symbol in symbols:
        named = isinstance(symbol, dict) and isinstance(symbol.get("name"), str)
        if not named or not (isinstance(symbol.get("sameAs"), str) or _is_strings(symbol.get("values"))):
            return f"attestation.symbols: {symbol!r} needs a name, and sameAs or values"
    return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _download_problem(model: dict[str, Any]) -> str | None:
    download, path = model.get("download"), model["path"]
    if download is None:
        return None
    members = ("hub", "repository", "revision")
    if not isinstance(download, dict) or not _is_strings([download.get(name) for name in members]):
        return "model.download names no hub, repository and revision"
    hub, repository, revision = (download[name] for name in members)
    if found := hubs.problem(hub, repository, revision):
        return f"model.download.{found[0]} is {found[1]!r}: {found[2]}"
    if not path.endswith("/" + (snapshot := hubs.snapshot_path(hub, repository, revision))):
        return f"model.path is {path!r}, expected a folder that ends with {snapshot}"
    return None


def _requests_problem(requests: Any) -> str | None:
    if requests is None:
        return None
    try:
        Rules(requests)
        middleware = requests.get("middleware")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"requests: {type(error).__name__} ({error}): they are no lists of routes and fields"
    return None if middleware is None or isinstance(middleware, str) else "requests.middleware is no name"


def _without_identity(document: dict[str, Any]) -> str | None:
    # The fingerprint hashes the whole plan: what cannot be hashed must be known before the engine starts.
    try:
        data = encode(document)
    except CanonicalError as error:
        return str(error)
    return "it holds the character NUL, which no path and no argument can" if b"\\u0000" in data else None


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def check_command(plan: Plan, command: list[str]) -> None:
    """Hold the command line against the plan: ``vllm serve MODEL``, the plan's arguments, and serving flags alone.

    Raises:
        RefusedError: naming the argument that is missing, different or not allowed.
    """
    start = ["vllm", "serve", plan.model_path]
    if command[:3] != start:
        raise RefusedError(
            f"command: {' '.join(command[:3])!r}, expected {' '.join(start)!r}; let the operator write it"
        )
    rest = command[3:]
    expected = plan.arguments
    for position, wanted in enumerate(expected):
        found = rest[position] if position < len(rest) else "nothing"
        if found != wanted:
            raise RefusedError(
                f"command: argument {position + 1} is {found!r}, the plan says {wanted!r}; let the operator write it"
            )
    extra = rest[len(expected) :]
    middleware: list[str] = []
    while extra:
        flag = extra.pop(0)
        name, given, value = flag.partition("=")
        if name not in SERVING_FLAGS:
            raise RefusedError(f"command: {flag!r} is not in the plan; only {', '.join(SERVING_FLAGS)} may be added")
        if not given:
            value = extra.pop(0) if extra else ""
        if name == "--middleware":
            middleware.append(value)
    door = (plan.requests or {}).get("middleware")
    if door is not None and middleware != [door]:
        raise RefusedError(
            f"command: --middleware is {' and '.join(middleware) or 'not there'}, the plan says {door}, without which "
            "requests that change others' answers would be served; let the operator write it"
        )
