"""The plan: how a replica is to run. Everything that can change outputs, and nothing else."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from detinf.documents.base import Document, Part


class PlanDownload(Part):
    """What the guard downloads into the folder before it starts the engine."""

    hub: str
    """``huggingFace`` or ``modelScope``."""
    repository: str
    """Owner and name."""
    revision: str
    """A full commit."""


class PlanModel(Part):
    """What is served."""

    path: str
    """Folder of the model in the engine container."""
    dtype: str
    max_model_len: int
    """Tokens, prompt and answer together."""
    max_num_seqs: int
    """Requests in one step."""
    download: PlanDownload | None = None
    """Absent where the files are there. Neither the claim nor the token is named: they cannot change outputs."""
    manifest_digest: str | None = None
    """Digest of the model's manifest (``detinf.guard.manifest``), where other weights are to be refused."""


class PlanEnvironment(Part):
    """Variables that the engine must see."""

    set_variables: dict[str, str] = Field(alias="set")
    """Name to value."""
    unset: list[str] = Field(default_factory=list)
    """Names that must not be there."""
    unrecorded: list[str] | None = None
    """Variables outside the fingerprint: ``NAME``, ``NAME=VALUE`` (with that value alone) or ``PREFIX*``. Every other
    one that an engine has is recorded in it."""
    scripts: list[str] | None = None
    """Shell scripts that the guard sources before it sets the variables, in order, such as CANN's ``set_env.sh``."""


class PlanTopology(Part):
    """What the guard must find. An absent item is recorded, not required."""

    devices: int
    """NPUs in the container; 0 where the profile uses none."""
    chip: str | None = None
    """SoC name as ``npu-smi`` prints it, such as ``910B3``."""
    hbm_gi_b: int | None = Field(default=None, alias="hbmGiB")
    driver_version: str | None = None
    firmware_version: str | None = None
    drift: str | None = None
    """``Warn`` where driver and firmware are only reported; absent where they are part of the identity."""
    link: str | None = None
    """What every pair of devices must be joined by in ``npu-smi info -t topo``, such as ``HCCS``."""


class PlanSymbol(Part):
    """What a name must be in a worker once the engine has started."""

    name: str
    """Dotted, from an imported module on; with ``()`` at its end the call's result."""
    same_as: str | None = None
    """The name of the very object that it must be."""
    values: list[str] | None = None
    """JSON texts, one of which its value must have."""


class PlanFailureLine(Part):
    """A record of the engine's log that means that it must not go on."""

    file: str
    """The source file that logs it, from the package's folder on, such as ``vllm_ascend/batch_invariant.py``."""
    text: str
    """A part of its text as it stands there, before its arguments are put in."""


class PlanAttestation(Part):
    """Who has to attest before the replica may serve, and to what."""

    processes: list[str]
    """Names of the expected attestations: ``guard``, ``api-server``, ``engine-core``, ``worker-<rank>``."""
    worker: str | None = None
    """``module:Class`` of the workers; they attest when its ``compile_or_warm_up_model`` has returned."""
    initialiser: str | None = None
    """``module:function`` that switches batch invariance on in a worker; the symbols are held against it at once."""
    symbols: list[PlanSymbol] | None = None
    configuration: dict[str, str] | None = None
    """What the effective ``VllmConfig`` must hold: JSON text by dotted path."""
    files: dict[str, str] | None = None
    """Files whose digest enters the fingerprint: path by name, with ``${VARIABLE}`` of the engine's environment."""
    packages: dict[str, list[str]] | None = None
    """Versions by distribution, one of which the engine's image must have."""
    fingerprint_in_answers: bool | None = None
    """Whether the engine is given the expected fingerprint, to return it as ``system_fingerprint``."""
    failure_lines: list[PlanFailureLine] | None = None


class PlanRule(Part):
    """What is known of routes, or of fields of requests."""

    names: list[str]
    """Routes as ``POST /v1/completions``, with FastAPI's ``{name}`` in paths; or fields."""
    kind: str
    """``Promised``, ``Unpromised``: served, but the answer is not promised; or ``Refused``."""
    routes: list[str] | None = None
    """Of a field: where it is known."""
    reason: str | None = None
    """Of what is refused."""
    remedy: str | None = None
    values: list[str] | None = None
    """JSON texts of values with which a field is as if it were not there."""


class PlanRequests(Part):
    """Which requests are served. Of two rules for one name the later one counts; what has none is refused."""

    middleware: str | None = None
    """What ``--middleware`` must name: who refuses inside the engine. Absent where the engine does it by itself."""
    routes: list[PlanRule]
    fields: list[PlanRule]
    """Of the routes whose bodies are looked at."""


class Plan(Document):
    """The plan of one revision; its ConfigMap is immutable and named by its digest."""

    KIND: ClassVar[str] = "plan"

    profile: str
    image: str
    model: PlanModel
    arguments: list[str]
    """What follows ``vllm serve <model path>``; the pod may add ``guard.layout.SERVING_FLAGS`` alone."""
    environment: PlanEnvironment
    topology: PlanTopology
    attestation: PlanAttestation
    requests: PlanRequests | None = None
    """Absent where everything is served that is asked."""
