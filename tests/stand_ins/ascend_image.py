"""Images in the shape of vllm-ascend's: each is of a family of ``cann_families``, and has its variables and its files.

What is in one computes nothing on an NPU; it is what guard and plug-in meet on their way to an engine that serves.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
sys.path[:0] = [str(HERE), str(TESTS.parent / "tools"), str(TESTS.parent / "tools" / "cluster")]

from attesting_engine import ENGINE, write_engine  # noqa: E402 - found through the line above
from cann_families import DATA, Family, entry_point, read_families, write_toolkit  # noqa: E402 - as above
from images.build_base import buildah  # noqa: E402 - as above
from images.build_images import build, export, kept  # noqa: E402 - as above
from packages import installed  # noqa: E402 - as above

from published import Package  # noqa: E402 - as above

PARTS = (HERE / "vllm_ascend", ENGINE)
FAMILIES = read_families()
SITE = "usr/local/lib/python3.11/dist-packages"
LAUNCHER = '#!/bin/sh\nexec python3 /opt/stand-in/engine.py "$@"\n'


def image_name(package: Package, family: str = "9.1") -> str:
    """Return the name of the stand-in for a release of vllm-ascend on a family of CANN."""
    return f"localhost/detinf/vllm-ascend-stand-in:{package.version}-cann-{family}"


def build_stand_in(package: Package, family: str = "9.1") -> Path:
    """Return the archive of the stand-in for a release of vllm-ascend on a family of CANN.

    Raises:
        ClusterError: where it cannot be built.
    """
    base = build("simulated-engine")
    digest = hashlib.sha256(f"{base.name} {package.sha256} {family} ".encode() + Path(__file__).read_bytes())
    digest.update(DATA.read_bytes() + DATA.with_suffix(".py").read_bytes() + repr(installed(package)).encode())
    for path in sorted(file for part in PARTS for file in part.rglob("*") if file.suffix in {".py", ".sh"}):
        digest.update(str(path.relative_to(TESTS)).encode() + path.read_bytes())
    return kept(
        f"vllm-ascend-stand-in-{package.version}-cann-{family}",
        digest.hexdigest()[:16],
        lambda archive: _build(package, FAMILIES[family], base, archive),
    )


def build_changed(package: Package, name: str, files: dict[str, str], variables: dict[str, str]) -> tuple[str, Path]:
    """Return the name and the archive of a stand-in with other files and variables than the released image has.

    Args:
        package: the release of vllm-ascend.
        name: what the change is called.
        files: texts by absolute path.
        variables: of the image's ENV, beside what it has.

    Raises:
        ClusterError: where it cannot be built.
    """
    base = build_stand_in(package)
    image = f"{image_name(package)}-{name}"
    settings = [word for item in variables.items() for word in ("--env", "=".join(item))]

    def change(archive: Path) -> None:
        container = buildah("from", f"oci-archive:{base}")
        try:
            with tempfile.TemporaryDirectory() as root:
                for path, text in files.items():
                    target = Path(root) / path.lstrip("/")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_text(text, encoding="utf-8")
                buildah("add", "-q", container, root, "/")
            if settings:
                buildah("config", *settings, container)
            buildah("commit", "-q", container, image)
        finally:
            buildah("rm", container)
        export(image, archive)

    digest = hashlib.sha256(repr((base.name, sorted(files.items()), sorted(variables.items()))).encode()).hexdigest()
    return image, kept(f"vllm-ascend-stand-in-{package.version}-{name}", digest[:16], change)


def _build(package: Package, family: Family, base: Path, archive: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        write_root(root, package, family)
        container = buildah("from", f"oci-archive:{base}")
        try:
            buildah("add", "-q", container, str(root), "/")
            # The simulated engine's own python3 comes first on PATH.
            variables = family.environment | {"PATH": "${PATH}:" + family.environment["PATH"]}
            settings = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
            settings += ["--workingdir", family.working_dir, "--user", "root", "--entrypoint", entry_point(family)]
            buildah("config", *settings, container)
            buildah("commit", "-q", container, image_name(package, family.name))
        finally:
            buildah("rm", container)
    export(image_name(package, family.name), archive)


def write_root(root: Path, package: Package, family: Family) -> None:
    """Write what the image has beside the simulated engine."""
    stand_in = root / "opt/stand-in"
    write_toolkit(root, family)
    write_engine(stand_in, package)
    shutil.copyfile(PARTS[0] / "engine.py", stand_in / "engine.py")
    texts = {
        **{f"opt/stand-in/{name}": text for name, text in installed(package).items()},
        f"{SITE}/stand-in.pth": "/opt/stand-in\n",
        "usr/local/bin/vllm": LAUNCHER,
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / "usr/local/bin/vllm").chmod(0o755)
