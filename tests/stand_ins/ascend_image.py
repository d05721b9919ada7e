"""An image in the shape of vllm-ascend's: set-up scripts, toolkit and operator library where CANN has them.

What is in it computes nothing on an NPU; it is what guard and plug-in meet on their way to an engine that serves.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
sys.path[:0] = [str(HERE), str(TESTS.parent / "tools"), str(TESTS.parent / "tools" / "cluster")]

from attesting_engine import ENGINE, write_engine  # noqa: E402 - found through the line above
from images.build_base import buildah  # noqa: E402 - as above
from images.build_images import build, export, kept  # noqa: E402 - as above
from packages import installed  # noqa: E402 - as above

from published import Package  # noqa: E402 - as above

PARTS = (HERE / "vllm_ascend", ENGINE)
CANN = "usr/local/Ascend/cann-9.1.0"
SITE = "usr/local/lib/python3.11/dist-packages"
LAUNCHER = '#!/bin/sh\nexec python3 /opt/stand-in/engine.py "$@"\n'


def image_name(package: Package) -> str:
    """Return the name of the stand-in for a release of vllm-ascend."""
    return f"localhost/detinf/vllm-ascend-stand-in:{package.version}"


def build_stand_in(package: Package) -> Path:
    """Return the archive of the stand-in for a release of vllm-ascend.

    Raises:
        ClusterError: where it cannot be built.
    """
    base = build("simulated-engine")
    digest = hashlib.sha256(f"{base.name} {package.sha256} ".encode() + Path(__file__).read_bytes())
    for path in sorted(file for part in PARTS for file in part.rglob("*") if file.suffix in {".py", ".sh"}):
        digest.update(str(path.relative_to(TESTS)).encode() + path.read_bytes())
    return kept(
        f"vllm-ascend-stand-in-{package.version}",
        digest.hexdigest()[:16],
        lambda archive: _build(package, base, archive),
    )


def _build(package: Package, base: Path, archive: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        write_root(root, package)
        container = buildah("from", f"oci-archive:{base}")
        try:
            buildah("add", "-q", container, str(root), "/")
            buildah("commit", "-q", container, image_name(package))
        finally:
            buildah("rm", container)
    export(image_name(package), archive)


def write_root(root: Path, package: Package) -> None:
    """Write what the image has beside the simulated engine."""
    stand_in = root / "opt/stand-in"
    shutil.copytree(PARTS[0] / "root", root)
    write_engine(stand_in, package)
    shutil.copyfile(PARTS[0] / "engine.py", stand_in / "engine.py")
    texts = {
        **{f"opt/stand-in/{name}": text for name, text in installed(package).items()},
        f"{CANN}/{platform.machine()}-linux/ascend_toolkit_install.info": (
            "package_name=Ascend-cann-toolkit\nversion=9.1.0\n"
        ),
        f"{CANN}/opp/vendors/batch_invariant/op_api/lib/libcust_opapi.so": "no kernels\n",
        f"{SITE}/stand-in.pth": "/opt/stand-in\n",
        "usr/local/bin/vllm": LAUNCHER,
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / "usr/local/bin/vllm").chmod(0o755)
