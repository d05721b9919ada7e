"""What the controller delivered: references and baselines, as sealed entries in a mounted ConfigMap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detinf.api.names import REFERENCES_KEY, baseline_key
from detinf.documents import Baseline, DocumentError, References, unseal


@dataclass(frozen=True)
class Delivery:
    """A folder of sealed entries. A broken entry counts as absent, and says why in ``problems``."""

    folder: Path

    def _entry(self, key: str, problems: list[str]) -> tuple[str, bytes] | None:
        path = self.folder / key
        try:
            return unseal(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, DocumentError) as error:
            problems.append(f"delivery entry {key}: {error}")
            return None

    def references(self, problems: list[str]) -> tuple[str, References] | None:
        """Return (digest, references), or None where there are none."""
        entry = self._entry(REFERENCES_KEY, problems)
        if entry is None:
            return None
        try:
            return entry[0], References.parse(entry[1])
        except DocumentError as error:
            problems.append(str(error))
            return None

    def baseline(self, fingerprint: str, references_digest: str, problems: list[str]) -> tuple[str, Baseline] | None:
        """Return (digest, baseline) for a fingerprint and the references, or None where there is none."""
        entry = self._entry(baseline_key(fingerprint, references_digest), problems)
        if entry is None:
            return None
        try:
            baseline = Baseline.parse(entry[1])
        except DocumentError as error:
            problems.append(str(error))
            return None
        if (baseline.fingerprint, baseline.references_digest) != (fingerprint, references_digest):
            problems.append("the delivered baseline belongs to another fingerprint or other references")
            return None
        return entry[0], baseline
