"""What is in the images, and what must not be."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from images.build_images import build

pytestmark = pytest.mark.e2e

FORBIDDEN = (
    "bin/pip",
    "bin/pip3",
    "bin/gcc",
    "bin/cc",
    "site-packages/pip/",
    "dist-packages/pip/",
    "site-packages/setuptools/",
)


def contents(archive: Path) -> tuple[set[str], dict[str, object]]:
    """Return the files of an OCI archive's layers after white-outs, and its configuration."""
    with tarfile.open(archive) as tar:

        def blob(digest: str) -> bytes:
            member = tar.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}")
            assert member is not None
            return member.read()

        index = tar.extractfile("index.json")
        assert index is not None
        manifest = json.loads(blob(json.loads(index.read())["manifests"][0]["digest"]))
        config = json.loads(blob(manifest["config"]["digest"]))
        files: set[str] = set()
        for layer in manifest["layers"]:
            import io

            with tarfile.open(fileobj=io.BytesIO(blob(layer["digest"]))) as inner:
                for member in inner:
                    name = member.name.removeprefix("./")
                    folder, _, last = name.rpartition("/")
                    if last.startswith(".wh."):
                        gone = f"{folder}/{last.removeprefix('.wh.')}".lstrip("/")
                        files = {item for item in files if item != gone and not item.startswith(gone + "/")}
                    elif member.isfile() or member.issym():
                        files.add(name)
    return files, config["config"]


@pytest.mark.parametrize(
    ("target", "has", "lacks"),
    [
        (
            "controller",
            ("detinf/controller/app.py", "kopf/__init__.py"),
            ("detinf_sim/", "detinf/probe/", "detinf/cli/"),
        ),
        (
            "probe",
            ("detinf/probe/app.py", "detinf/guard/launch.py"),
            ("detinf_sim/", "kopf/", "kubernetes/", "detinf/controller/"),
        ),
        (
            "simulated-engine",
            ("detinf_sim/server.py", "detinf/guard/trace.py"),
            ("detinf/probe/", "detinf/controller/", "detinf/documents/", "kopf/", "kubernetes/"),
        ),
    ],
)
def test_image_has_its_own_layers_and_nothing_to_build_with(
    target: str, has: tuple[str, ...], lacks: tuple[str, ...]
) -> None:
    files, config = contents(build(target))
    assert config["User"] == "65532:65532"
    for wanted in has:
        assert any(item.endswith(wanted) for item in files), wanted
    own = {item for item in files if item.startswith("opt/detinf/")}
    for unwanted in lacks:
        assert not [item for item in own if f"/{unwanted.lstrip('/')}" in item.removeprefix("opt/detinf")], unwanted
    for forbidden in FORBIDDEN:
        assert not [item for item in files if forbidden in item], forbidden
