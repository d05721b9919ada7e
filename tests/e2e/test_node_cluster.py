"""The node-size cluster itself: what it offers, that two do not meet, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from detinf_cluster.cache import ClusterError
from detinf_cluster.lifecycle import Cluster
from detinf_cluster.node import LABELS, cgroup_roots
from detinf_cluster.processes import is_alive
from kubectl import Kubectl

pytestmark = pytest.mark.e2e


def the_node(cluster: Cluster) -> dict[str, dict[str, dict[str, str]]]:
    kubectl = Kubectl(cluster.kubectl, cluster.kubeconfig, "default")
    return dict(json.loads(kubectl.run("get", "node", "node1", "-o", "json")))


def test_node_is_an_atlas_a2_with_eight_npus(node: Cluster) -> None:
    seen = the_node(node)
    assert LABELS.items() <= seen["metadata"]["labels"].items()
    assert seen["status"]["allocatable"]["huawei.com/Ascend910"] == "8"


def test_second_cluster_lives_beside_the_first_and_leaves_nothing(node: Cluster) -> None:
    other = Cluster("e2e-two")
    other.up()
    state = other.state()
    try:
        assert the_node(other)["metadata"]["uid"] != the_node(node)["metadata"]["uid"]
        other.up()  # already up: nothing happens
        assert other.state() == state
    finally:
        other.down()
    assert not other.folder.exists()
    assert not is_alive(state["inside"])
    assert not is_alive(state["relay"])
    assert not any((root / other.cgroup).exists() for root in cgroup_roots())
    assert str(other.folder) not in Path("/proc/self/mounts").read_text(encoding="utf-8")
    assert the_node(node)["status"]["allocatable"]["huawei.com/Ascend910"] == "8"


def test_up_after_a_crash_cleans_what_the_crash_left() -> None:
    cluster = Cluster("e2e-crash")
    cluster.up()
    try:
        inside = cluster.state()["inside"]
        os.kill(inside, signal.SIGKILL)
        os.waitpid(inside, 0)
        assert not cluster.is_up()
        cluster.up()
        assert cluster.is_up()
    finally:
        cluster.down()
    assert not cluster.folder.exists()


def test_broken_archive_is_refused_by_name(node: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="is no file"):
        node.load_image(tmp_path / "none.tar")
