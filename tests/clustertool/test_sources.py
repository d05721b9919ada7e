"""Where Kubernetes' programs come from; a control plane runs from each source."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest
from detinf_cluster import releases
from detinf_cluster.build import VERSION, binary
from detinf_cluster.cache import ClusterError
from detinf_cluster.control_plane import ControlPlane
from detinf_cluster.sources import CONTROL_PLANE, programs
from download_site import Site
from tool_environment import release_environment

pytestmark = pytest.mark.cluster

KUBEBUILDER = ("etcd", "kube-apiserver", "kubectl")  # what its own downloads hold


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what kubebuilder installs; nothing else says where programs come from."""
    monkeypatch.delenv("DETINF_KUBERNETES", raising=False)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    for name in KUBEBUILDER:
        (tmp_path / name).symlink_to(binary("kube"))
    return tmp_path


def version(cluster: ControlPlane) -> str:
    kubectl = [str(cluster.bin / "kubectl"), "--kubeconfig", str(cluster.kubeconfig)]
    return subprocess.run([*kubectl, "version"], check=True, capture_output=True, text=True).stdout


def test_folder_without_controllers_is_refused_by_their_names(folder: Path) -> None:
    with pytest.raises(ClusterError) as told:
        programs(CONTROL_PLANE)
    assert f"KUBEBUILDER_ASSETS: {folder} has no program kube-controller-manager, kube-scheduler; put" in str(
        told.value
    )
    assert "DETINF_KUBERNETES=build" in str(told.value)
    assert "etcd" not in str(told.value).partition("; ")[0].removeprefix(str(folder))


def test_file_that_cannot_be_run_is_no_program(folder: Path) -> None:
    for name in ("kube-controller-manager", "kube-scheduler"):
        (folder / name).write_text("#!/bin/sh\n", encoding="utf-8")
    (folder / "kube-scheduler").chmod(0o755)
    with pytest.raises(ClusterError, match="has no program kube-controller-manager; put"):
        programs(CONTROL_PLANE)


def test_our_variable_goes_before_kubebuilders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETINF_KUBERNETES", "build")
    assert set(programs(CONTROL_PLANE).values()) == {binary("kube")}
    monkeypatch.setenv("DETINF_KUBERNETES", str(folder / "none"))
    with pytest.raises(ClusterError, match=r"DETINF_KUBERNETES: '.*/none' is no folder"):
        programs(CONTROL_PLANE)


def test_control_plane_runs_from_a_folder_and_another_version_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("kube-controller-manager", "kube-scheduler"):
        (folder / name).symlink_to(binary("kube"))
    apiserver = folder / "kube-apiserver"
    apiserver.unlink()
    script = f"""[ "$1" = --version ] && echo Kubernetes v1.33.1 || exec -a kube-apiserver {binary("kube")} "$@"\n"""
    apiserver.write_text(f"#!/bin/bash\n{script}", encoding="utf-8")
    apiserver.chmod(0o755)
    with ControlPlane() as cluster:
        assert f"{apiserver} is v1.33.1; tested is {VERSION}" in capsys.readouterr().out
        assert f"Server Version: {VERSION}" in version(cluster)


def test_control_plane_runs_from_a_release(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    kube = binary("kube")
    for name in CONTROL_PLANE:
        site.publish(f"/{VERSION}/bin/linux/amd64/{name}", kube)
    site.publish_etcd(releases.ETCD_VERSION, kube)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with tempfile.TemporaryDirectory(prefix="detinf-") as cache:  # not tmp_path, which stays: this gets large
        for name, value in release_environment(site, Path(cache)).items():
            monkeypatch.setenv(name, value)
        with ControlPlane() as cluster:
            assert f"Server Version: {VERSION}" in version(cluster)
            assert str(cluster.bin.joinpath("kube-scheduler").readlink()).startswith(f"{cache}/releases/{VERSION}-")
        assert f"/{VERSION}/bin/linux/amd64/etcd" not in [path for path, _ in site.requests]
