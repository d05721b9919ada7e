"""The model hubs: how their libraries are called and told, and where a snapshot of theirs lies in the cache claim.

The controller mounts and names by this, the guard looks there, and ``detinf.guard.fetch`` downloads into it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from detinf.guard.layout import MODEL_DIR

REPOSITORY = "[0-9A-Za-z_]([0-9A-Za-z_.-]{0,94}[0-9A-Za-z_])?"
"""Owner, and name, of a repository; both hubs' libraries refuse more, and make folder names of it."""

COMMIT = "[0-9a-f]{40}"
"""A full commit of git: what both hubs keep repositories in."""


@dataclass(frozen=True)
class Hub:
    """One hub."""

    title: str
    """Its name for people."""
    folder: str
    """Mount path of the cache claim: the library's own cache folder."""
    cache_variable: str
    """By which the library finds that folder."""
    token_variable: str
    """In which the library looks for a token."""
    library: str
    """Module of the library, which the engine's image has to bring."""
    source: str
    """What to install to have it."""
    snapshots: str
    """Where the library keeps what is below ``folder``; its own layout, so that a claim may be shared with others."""


HUBS = {
    "huggingFace": Hub(
        title="Hugging Face",
        folder=f"{MODEL_DIR}/huggingface",
        cache_variable="HF_HOME",
        token_variable="HF_TOKEN",  # noqa: S106 - the variable's name
        library="huggingface_hub",
        source="huggingface-hub, which vLLM itself needs",
        snapshots="hub/models--{owner}--{name}/snapshots/{revision}",
    ),
    "modelScope": Hub(
        title="ModelScope",
        folder=f"{MODEL_DIR}/modelscope",
        cache_variable="MODELSCOPE_CACHE",
        token_variable="MODELSCOPE_API_TOKEN",  # noqa: S106 - the variable's name
        library="modelscope_hub",
        source="modelscope 1.38 or newer: older ones take no commit",
        snapshots="models/{owner}--{name}/snapshots/{revision}",
    ),
}
"""By the name of the source in the resource. huggingface_hub 0.36 and 2.4; modelscope-hub 0.5, which modelscope 1.38
and newer use: older ones take branches and tags alone (modelscope issue 1386)."""


def problem(hub: str, repository: str, revision: str) -> tuple[str, str, str] | None:
    """Return (member, value, remedy) for what no hub can have under that name, or None."""
    if hub not in HUBS:
        return "hub", hub, f"use one of {', '.join(HUBS)}"
    if (
        not re.fullmatch(f"{REPOSITORY}/{REPOSITORY}", repository)
        or "--" in repository
        or ".." in repository
        or repository.endswith(".git")
    ):
        return "repository", repository, "use OWNER/NAME, such as Qwen/Qwen3-8B"
    if not re.fullmatch(COMMIT, revision):
        return "revision", revision, "use a full commit, 40 hexadecimal digits in lower case: a branch or a tag moves"
    return None


def snapshot_path(hub: str, repository: str, revision: str) -> str:
    """Return where the files of one commit lie, below the hub's folder."""
    owner, _, name = repository.partition("/")
    return HUBS[hub].snapshots.format(owner=owner, name=name, revision=revision)
