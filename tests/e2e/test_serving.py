"""A resource on the real kubelet: what serves was gated, what was killed is gated again, what is deleted is gone."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from audit import Audit, granted
from detinf_cluster.build import binary
from detinf_cluster.lifecycle import Cluster
from detinf_cluster.processes import free_port
from kubectl import KubectlError
from scenario import CLIENT, KILL_ENGINE, NAME, Scene, client, restarts

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def audit(node: Cluster) -> Audit:
    """The controller's requests, by the API server's own log."""
    return Audit(node.folder / "control" / "audit.log", "system:serviceaccount:detinf-system:detinf")


def start_client(scene: Scene) -> None:
    """Start the client that checks boots, in the place of the demo's user."""
    scene.kubectl("delete", "pod", CLIENT, "--ignore-not-found", "--wait=true", "--grace-period=1")
    service = scene.kubectl.object("services", NAME)
    script = (Path(__file__).parent / "boot_client.py").read_text(encoding="utf-8")
    config, pod = client(scene.engine, scene.kubectl.namespace, service["spec"]["clusterIP"], script)
    addresses = ",".join(scene.pod(index)["status"]["podIP"] for index in (0, 1))
    pod["spec"]["containers"][0]["env"].append({"name": "POD_IPS", "value": addresses})
    scene.kubectl.apply(config, pod)
    scene.story.wait("the client's first answer", lambda: "yes" if scene.seen().get("answered") else None, seconds=60)


def test_ready_resource_is_pleasant_to_look_at(serving: Scene) -> None:
    serving.kubectl("wait", "--for=condition=Ready", f"detinf/{NAME}", "--timeout=60s")
    header, row = serving.kubectl("get", "detinf").splitlines()
    assert header.split()[:3] == ["NAME", "READY", "REASON"]
    assert row.split()[:4] == [NAME, "True", "Ready", NAME]
    status = serving.resource()["status"]
    assert status["readyReplicas"] == 2
    assert status["baseline"]["lifetimes"] in {1, 2}  # both replicas may have offered before one was enough
    assert serving.endpoints() == [f"{NAME}-0-0", f"{NAME}-1-0"]
    assert serving.kubectl("describe", "detinf", NAME).count("RevisionQualified") == 1


def test_commands_that_the_charts_notes_print_work(serving: Scene, node: Cluster) -> None:
    """What helm prints after an installation, run as it stands: port-forward, a completion and a chat."""
    environment = os.environ | {
        "KUBECONFIG": str(node.kubeconfig),
        "PATH": f"{Path(node.kubectl).parent}:{os.environ['PATH']}",
    }
    helm = [str(binary("helm")), "get", "notes", "detinf", "--namespace", serving.operator.namespace]
    notes = subprocess.run(helm, env=environment, capture_output=True, text=True, check=True).stdout
    commands = notes[notes.index("NAME=qwen3-8b") : notes.index("kill $!")].replace("NAME=qwen3-8b", f"NAME={NAME}")
    # Somebody else on this machine may have the port.
    port = free_port()
    commands = commands.replace("8000:8000", f"{port}:8000").replace("localhost:8000", f"localhost:{port}")
    namespace = f"alias kubectl='kubectl --namespace {serving.kubectl.namespace}'\nshopt -s expand_aliases\n"
    done = subprocess.run(
        ["bash", "-c", f"{namespace}{commands}\nkill $!"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [item["object"] for item in answers] == ["text_completion", "chat.completion"], done.stdout + done.stderr
    assert done.stdout.count("HTTP/1.1 200 OK") == 2
    assert answers[1]["choices"][0]["message"]["content"]
    assert serving.resource()["status"]["url"] == f"http://{NAME}.{serving.kubectl.namespace}.svc:8000/v1"
    assert "{.status.url}" in notes
    # The way from an answer to its engine, as docs/operations/failures.md goes it.
    boots = set(re.findall(r"^X-Detinf-Boot: (\w+)", done.stdout, re.MULTILINE))
    path = f"/api/v1/namespaces/{serving.kubectl.namespace}/pods/{NAME}-%d-0:9400/proxy/v1/report"
    reports = [json.loads(serving.kubectl.get(path % index) or "") for index in (0, 1)]
    assert boots <= {report["boot"] for report in reports}
    assert len(boots) >= 1
    assert len({report["fingerprint"] for report in reports}) == 1


def test_pods_hold_only_the_devices_that_the_plan_says(serving: Scene) -> None:
    seen = [
        set(
            serving.kubectl(
                "exec", f"{NAME}-{index}-0", "-c", "engine", "--", "sh", "-c", "ls /dev | grep davinci[0-9]"
            ).split()
        )
        for index in (0, 1)
    ]
    assert [len(devices) for devices in seen] == [4, 4]
    assert not seen[0] & seen[1]


def test_killed_engine_answers_no_user_before_its_new_boot_is_gated(serving: Scene) -> None:
    start_client(serving)
    before = set(serving.seen()["ready"])
    assert len(before) == 2
    count = restarts(serving.pod(0))
    serving.kubectl("exec", f"{NAME}-0-0", "-c", "engine", "--", "python3", "-c", KILL_ENGINE)
    serving.story.wait(
        "the pod to leave the Service",
        lambda: "left" if f"{NAME}-0-0" not in serving.endpoints() else None,
        seconds=30,
        every=0.2,
    )
    serving.story.wait(
        "the new boot to serve a user",
        lambda: "yes" if (set(serving.seen()["answered"]) & set(serving.seen()["ready"])) - before else None,
        seconds=180,
    )
    assert restarts(serving.pod(0)) == count + 1
    seen: dict[str, Any] = serving.seen()
    for boot, answered in seen["answered"].items():
        assert boot in seen["ready"], f"boot {boot} answered and was never ready"
        assert seen["unready"].get(boot, 0) <= answered, f"boot {boot} answered before it was ready"
    [new] = set(seen["answered"]) - before
    assert new in seen["unready"], "nobody saw the new boot before it was ready"
    assert set(seen["answered"]) <= set(seen["ready"])


def test_nothing_is_written_while_all_is_well(serving: Scene, audit: Audit) -> None:
    serving.story.wait("Ready", lambda: "yes" if serving.is_ready() else None, seconds=120)
    before = audit.writes()
    assert before
    polls = reports_polled(serving)
    serving.story.wait(
        "six more looks of the controller",
        lambda: "yes" if reports_polled(serving) >= polls + 6 else None,
        seconds=120,
    )
    assert audit.writes() == before
    # A restarted controller finds all as it is wanted.
    serving.operator("rollout", "restart", "deployment")
    serving.operator("rollout", "status", "deployment", "--timeout=120s", timeout=150)
    serving.story.wait("the old one to end", lambda: "yes" if serving.controllers() == 1 else None, seconds=90)
    serving.story.wait(
        "six looks of the new controller", lambda: "yes" if reports_polled(serving) >= 6 else None, seconds=120
    )
    assert audit.writes() == before


def reports_polled(scene: Scene) -> int:
    """Return how often the controller has reconciled, by its own metrics."""
    name = scene.operator.objects("services")[0]["metadata"]["name"]
    path = f"/api/v1/namespaces/{scene.operator.namespace}/services/{name}:8080/proxy/metrics"
    try:
        page = scene.operator.get(path) or ""
    except KubectlError:
        return 0  # while it restarts there is nobody to ask
    lines = [line for line in page.splitlines() if line.startswith("controller_runtime_reconcile_total{")]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)


def test_fewer_replicas_and_more_again(serving: Scene) -> None:
    serving.kubectl("scale", f"detinf/{NAME}", "--replicas=1")
    serving.kubectl("wait", "--for=delete", f"pod/{NAME}-1-0", "--timeout=90s", timeout=120)
    assert serving.endpoints() == [f"{NAME}-0-0"]
    serving.kubectl("scale", f"detinf/{NAME}", "--replicas=2")
    serving.kubectl("wait", "--for=create", f"pod/{NAME}-1-0", "--timeout=60s", timeout=90)
    serving.story.wait("Ready", lambda: "yes" if serving.is_ready() else None, seconds=180)


def test_edit_that_no_node_takes_leaves_what_serves(serving: Scene) -> None:
    uids = [serving.pod(index)["metadata"]["uid"] for index in (0, 1)]
    nowhere = '{"spec": {"scheduling": {"nodeSelector": {"example.org/room": "none"}}}}'
    serving.kubectl("patch", "detinf", NAME, "--type=merge", "-p", nowhere)
    serving.kubectl(
        "wait", "--for=jsonpath={.status.conditions[?(@.type=='Stalled')].reason}=NoPlace", f"detinf/{NAME}"
    )
    assert "example.org/room=none" in serving.kubectl.condition("detinf", NAME, "Stalled")["message"]
    assert [serving.pod(index)["metadata"]["uid"] for index in (0, 1)] == uids
    anywhere = '{"spec": {"scheduling": {"nodeSelector": null}}}'
    serving.kubectl("patch", "detinf", NAME, "--type=merge", "-p", anywhere)
    serving.story.wait("Ready", lambda: "yes" if serving.is_ready() else None, seconds=60)
    assert [serving.pod(index)["metadata"]["uid"] for index in (0, 1)] == uids


def test_replica_that_diverges_is_replaced_and_serves_again(serving: Scene) -> None:
    uid = serving.pod(1)["metadata"]["uid"]
    switch = ("python3", "-m", "detinf_sim", "faults", "set", "F20")
    serving.kubectl("exec", f"{NAME}-1-0", "-c", "engine", "--", *switch)
    serving.story.wait(
        "another pod",
        lambda: "yes" if serving.pod(1).get("metadata", {}).get("uid", uid) != uid else None,
        seconds=120,
    )
    assert serving.evidence()["pod"]["name"] == f"{NAME}-1-0"
    serving.story.wait("Ready", lambda: "yes" if serving.is_ready() else None, seconds=180)


def test_fault_in_all_replicas_is_no_outage(serving: Scene) -> None:
    serving.story.wait("Ready", lambda: "yes" if serving.is_ready() else None, seconds=120)
    for index in (0, 1):
        switch = ("python3", "-m", "detinf_sim", "faults", "set", "F20")
        serving.kubectl("exec", f"{NAME}-{index}-0", "-c", "engine", "--", *switch)
    caught: set[str] = set()

    def both_caught() -> str | None:
        # Whoever is caught first may be isolated while the other still passes; the last that serves never is.
        assert serving.endpoints()
        for record in serving.kubectl.objects("configmaps", "detinf.io/document=evidence"):
            caught.add(json.loads(record["data"]["evidence.json"])["pod"]["name"])
        return "yes" if len(caught) == 2 else None

    serving.story.wait("evidence of both", both_caught, seconds=120)
    for _ in range(10):
        assert serving.endpoints()


def test_controller_was_refused_nothing_and_has_no_right_that_it_does_not_use(serving: Scene, audit: Audit) -> None:
    assert audit.refused() == []
    role = json.loads(serving.kubectl.run("get", "clusterrole", "detinf", "-o", "json"))
    # No request needs it: an admission plug-in that not every cluster has asks whether we may block the deletion.
    assert audit.used() == granted(role) - {("deterministicinferences/finalizers", "update")}


def test_deleted_resource_leaves_nothing(serving: Scene) -> None:
    serving.kubectl("delete", "detinf", NAME, "--wait=true")
    kinds = ("statefulsets", "services", "configmaps", "poddisruptionbudgets", "pods")
    serving.story.wait(
        "the children to be collected",
        lambda: None if any(serving.kubectl.objects(kind, f"detinf.io/name={NAME}") for kind in kinds) else "gone",
        seconds=120,
    )
