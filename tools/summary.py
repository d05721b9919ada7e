"""One line over all test reports: ``N passed, N failed, N skipped``."""

from __future__ import annotations

import sys
from pathlib import Path

from junitparser import JUnitXml


def main() -> int:
    """Print the line; return 1 where something failed or nothing ran."""
    passed = failed = skipped = 0
    for path in sys.argv[1:]:
        if not Path(path).is_file():
            continue
        report = JUnitXml.fromfile(path)
        bad = report.failures + report.errors
        passed += report.tests - bad - report.skipped
        failed += bad
        skipped += report.skipped
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
