"""The simulated NPUs of a node."""

from __future__ import annotations

import re

from detinf_cluster import npu
from detinf_cluster.cache import HERE


def test_node_has_the_drivers_files_where_the_device_plugin_mounts_them() -> None:
    written = (HERE / "kube/npu/plugin.go").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^var mounts = \[\]string\{\n(.*?)^\}", written, re.MULTILINE | re.DOTALL)
    assert tuple(re.findall(r'"([^"]+)"', listed)) == npu.DRIVER_FILES
