"""What can change bits and no plan names, on the real kubelet: it is refused, or told as another engine.

Images in the shape of the released one, each with one thing changed (``tests/stand_ins/ascend_image.py``); the rows
that need no kubelet are in ``tests/unit/detinf/guard/test_what_can_differ.py``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from ascend_image import build_changed, build_stand_in, image_name
from detinf_cluster.lifecycle import Cluster
from kubectl import KubectlError
from place import NAMESPACE
from scenario import NAME, Scene

from detinf_sim.model import make_model
from published import VLLM_ASCEND

pytestmark = pytest.mark.e2e

SCRIPT = "/usr/local/Ascend/nnal/atb/set_env.sh"
PACKAGES = "/opt/stand-in"
TAG = "localhost/detinf/vllm-ascend-stand-in:tag"
"""A tag that names one image today and another one tomorrow."""
MODEL = "/var/lib/detinf/models/unseen"
CHAT = '{"chat_template": "{{ messages }}"}\n'


def manifest(scene: Scene, image: str, *, replicas: int = 1, **spec: Any) -> dict[str, Any]:
    found = copy.deepcopy(scene.engine.manifest)
    found["spec"] |= {"replicas": replicas, "parallelism": {"tensor": 2}, **spec}
    found["spec"]["engine"] |= {"profile": "vllm-ascend-0.23", "image": image}
    return found


def told(scene: Scene, kind: str, status: str, *parts: str, seconds: float = 180) -> str:
    """Wait until a condition has a status and says all of this."""

    def said() -> str | None:
        condition = scene.kubectl.condition("detinf", NAME, kind)
        words = f"{condition.get('reason')}: {condition.get('message')}"
        return words if condition.get("status") == status and all(part in words for part in parts) else None

    return scene.story.wait(f"{kind} to be {status}: {parts}", said, seconds=seconds)


def serves(scene: Scene) -> None:
    scene.story.wait("Ready", lambda: "yes" if scene.is_ready() else None, seconds=240)


def report(scene: Scene, index: int) -> dict[str, Any]:
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{NAME}-{index}-0:9400/proxy/v1/report"
    try:
        return dict(json.loads(scene.kubectl.get(path) or "{}"))
    except (KubectlError, ValueError):
        return {}


def attested(scene: Scene, index: int) -> dict[str, Any]:
    """Wait for a replica whose engine has attested, and return its report."""
    scene.story.wait(f"replica {index} to attest", lambda: report(scene, index).get("fingerprint"), seconds=180)
    return report(scene, index)


def load(node: Cluster, name: str, files: dict[str, str], **variables: str) -> str:
    image, archive = build_changed(VLLM_ASCEND, name, files, variables)
    node.load_image(archive)
    return image


def tag(node: Cluster, image: str) -> None:
    ctr = ("ctr", "--address", f"{node.folder}/containerd.sock", "--namespace", "k8s.io")
    node.inside(*ctr, "images", "tag", "--force", image, TAG)


@pytest.fixture(scope="module")
def image(node: Cluster) -> str:
    node.load_image(build_stand_in(VLLM_ASCEND))
    return image_name(VLLM_ASCEND)


@pytest.fixture
def model(node: Cluster) -> Iterator[Any]:
    folder = node.folder / "lib/detinf/models/unseen"
    make_model(folder)
    (folder / "tokenizer_config.json").write_text(CHAT, encoding="utf-8")
    yield folder
    for path in folder.iterdir():
        path.unlink()


def test_replica_of_a_tag_that_has_moved_is_told_apart_and_does_not_serve(
    without_resource: Scene, node: Cluster, image: str
) -> None:
    scene = without_resource
    tag(node, image)
    scene.kubectl.apply(manifest(scene, TAG))
    serves(scene)
    first = attested(scene, 0)
    # The other image differs in variables alone, which no plan names: no family that admission knows lists them.
    changed = load(node, "variables", {}, LCCL_PARALLEL="1", TORCHINDUCTOR_MAX_AUTOTUNE="1")
    tag(node, changed)
    scene.kubectl.apply(manifest(scene, TAG, replicas=2))
    second = attested(scene, 1)
    assert second["planDigest"] == first["planDigest"]
    assert second["fingerprint"] != first["fingerprint"]
    told(scene, "TopologyPinned", "False", "ImageDrift", "replica 1")
    rows = {row["index"]: row.get("imageID") for row in scene.resource()["status"]["replicaStates"]}
    assert rows[0]
    assert rows[1]
    assert rows[0] != rows[1]
    assert scene.endpoints() == [f"{NAME}-0-0"]


@pytest.mark.parametrize(
    ("name", "files", "parts"),
    [
        ("script", {SCRIPT: "export ATB_HOME_PATH=/x\nreturn 3\n"}, (SCRIPT, "line 2", "it returned 3")),
        ("command", {SCRIPT: "export A=1\nnot-there-at-all\n"}, (SCRIPT, "line 2", "not-there-at-all")),
        (
            "versions",
            {f"{PACKAGES}/vllm_ascend-0.22.0.dist-info/METADATA": "Name: vllm-ascend\nVersion: 0.22.0\n"},
            ("packages: vllm-ascend has no version",),
        ),
    ],
    ids=["a script that returns half-way", "a command that is missing", "a package that is there twice"],
)
def test_image_that_is_not_whole_is_refused_by_the_guard(
    without_resource: Scene, node: Cluster, name: str, files: dict[str, str], parts: tuple[str, ...]
) -> None:
    scene = without_resource
    scene.kubectl.apply(manifest(scene, load(node, name, files)))
    told(scene, "Ready", "False", "GuardRefused", *parts)
    assert not scene.endpoints()


def test_replica_with_another_chat_template_is_told_apart_and_does_not_serve(
    without_resource: Scene, image: str, model: Any
) -> None:
    scene = without_resource
    source = {"model": scene.engine.manifest["spec"]["model"] | {"source": {"hostPath": {"path": MODEL}}}}
    scene.kubectl.apply(manifest(scene, image, **source))
    serves(scene)
    (model / "tokenizer_config.json").write_text(CHAT.replace("{{ messages }}", "{{ messages[0] }}"), encoding="utf-8")
    scene.kubectl.apply(manifest(scene, image, replicas=2, **source))
    told(scene, "TopologyPinned", "False", "IdentityDrift", "replica 1", "tokenizer_config.json")
    assert scene.endpoints() == [f"{NAME}-0-0"]


def test_model_that_nobody_validated_observes_and_kubectl_says_so(without_resource: Scene, image: str) -> None:
    scene = without_resource
    scene.kubectl.apply(manifest(scene, image))
    serves(scene)
    assert scene.kubectl("get", "detinf", NAME, "-o", "jsonpath={.status.mode}") == "Observe"
    head, row = scene.kubectl("get", "detinf", NAME).splitlines()
    assert "MODE" in head.split()
    assert "Observe" in row.split()


def test_failure_line_that_a_user_has_written_into_the_engines_output_ends_no_engine(
    without_resource: Scene, image: str
) -> None:
    scene = without_resource
    scene.kubectl.apply(manifest(scene, image))
    serves(scene)
    boot = attested(scene, 0)["boot"]
    line = "WARNING 11-29 19:00:00 batch_invariant.py:99] Batch-invariant mode requested but Triton or AscendC"
    write = (
        "import glob, sys, urllib.request\n"
        "for path in glob.glob('/proc/[0-9]*/fd/[12]'):\n"
        "    try:\n        open(path, 'w').write(sys.argv[1] + '\\n')\n"
        "    except OSError as error:\n        print(path, error)\n"
        "for _ in range(20):\n    urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=10).read()\n"
    )
    asked = ("-n", NAMESPACE, "exec", f"{NAME}-0-0", "-c", "engine", "--", "python3", "-c", write, line)
    scene.kubectl.run(*asked)
    assert line in scene.kubectl("logs", f"{NAME}-0-0", "-c", "engine")
    assert report(scene, 0)["boot"] == boot
    status = scene.pod(0)["status"]["containerStatuses"]
    assert {item["restartCount"] for item in status} == {0}
    assert scene.endpoints() == [f"{NAME}-0-0"]


def test_request_that_changes_its_neighbours_answers_is_refused_at_the_door(serving: Scene) -> None:
    ask = (
        "import json, sys, urllib.error, urllib.request\n"
        "body = json.dumps(json.loads(sys.argv[2])).encode()\n"
        "head = {'Content-Type': 'application/json'}\n"
        "asked = urllib.request.Request('http://127.0.0.1:8000' + sys.argv[1], body, head)\n"
        "try:\n    answer = urllib.request.urlopen(asked, timeout=30)\n"
        "except urllib.error.HTTPError as error:\n    answer = error\n"
        "print(json.dumps([answer.status, json.loads(answer.read())]))\n"
    )

    def answer(path: str, **body: Any) -> tuple[int, Any]:
        asked = ("exec", f"{NAME}-0-0", "-c", "engine", "--", "python3", "-c", ask, path)
        status, said = json.loads(serving.kubectl(*asked, json.dumps({"model": "demo", **body})))
        return status, said

    status, said = answer("/generative_scoring", query="a", items=["b"], label_token_ids=[1])
    assert status == 403, said
    status, said = answer("/v1/completions", prompt=[5, 6], max_tokens=2, logprob_token_ids=[1])
    assert status == 400, said
    assert "logprob_token_ids" in json.dumps(said)
    assert answer("/v1/completions", prompt=[5, 6], max_tokens=2, seed=1)[0] == 200
