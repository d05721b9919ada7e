"""What is generated must be what is committed: compare it, or write it again with ``--write``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "operator"), str(ROOT / "tests/stand_ins")]


def generated() -> dict[Path, str]:
    """Return every generated file of the repository with its content."""
    import cann_families

    import chart
    import differences
    from detinf.api import crd
    from detinf.documents import generate

    name = f"{crd.FILE_NAME}"
    files = {Path("crds") / name: crd.render(), Path("charts/deterministic-inference/files/crd.yaml"): crd.render()}
    files |= {Path("docs/reference/schemas") / file: text for file, text in generate.render().items()}
    files[Path("docs/reference/images.md")] = cann_families.as_markdown()
    files[Path("docs/reference/what-can-differ.md")] = differences.render()
    return files | chart.generated()


def main() -> int:
    """Return 0 where nothing differs (or everything was written), else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    stale = []
    for path, text in generated().items():
        target = ROOT / path
        if target.is_file() and target.read_text(encoding="utf-8") == text:
            continue
        if write:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
        else:
            stale.append(str(path))
    if stale:
        print(f"drift: {', '.join(stale)} differ from what the code generates; run `make generate` and commit")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
