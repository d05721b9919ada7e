"""Where the demo plays: our own one-node cluster, or the one that KUBECONFIG names; and what is installed there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kubectl import Kubectl
from scenario import MODELS, ROOT, Engine
from story import StepError, Story

sys.path.insert(0, str(ROOT / "tools" / "cluster"))

from detinf_cluster.build import binary
from detinf_cluster.cache import ClusterError
from detinf_cluster.lifecycle import Cluster, find_kubectl
from images.build_base import build_base
from images.build_images import build, image_name

CLUSTER = "demo"
NAMESPACE = "demo"
OPERATOR_NAMESPACE = "detinf-system"
RELEASE = "detinf"


def engine_named(name: str) -> Engine:
    """Return an engine of the demo, with its resource from ``examples/``.

    Raises:
        StepError: for another name.
    """
    files = {"simulated": "simulated.yaml", "vllm-cpu": "vllm-cpu.yaml"}
    if name not in files:
        raise StepError(f"ENGINE={name} is none of {', '.join(files)}")
    manifest = yaml.safe_load((ROOT / "examples" / files[name]).read_text(encoding="utf-8"))
    manifest["metadata"] = {"name": "demo", "namespace": NAMESPACE}
    if name == "simulated":
        return Engine(
            name=name,
            manifest=manifest,
            make_model=["python3", "-m", "detinf_sim", "make-model", "/models/sim-8b"],
            image=image_name("simulated-engine"),
            fault_on=["python3", "-m", "detinf_sim", "faults", "set", "F20"],
            fault_off=["python3", "-m", "detinf_sim", "faults", "clear"],
            fault_words=(
                "Replica 1 goes wrong: every logprob is off in its last bits, as after a bad device or driver. Its\n"
                "      health check stays green and its tokens stay plausible. Its probe compares bits."
            ),
            expected_observable=("logprob",),
            load_seconds=10,
            probe_seconds={"soloIntervalSeconds": 5, "widthIntervalSeconds": 10},
            user_pause_seconds=0.05,
        )
    return Engine(
        name=name,
        manifest=manifest,
        make_model=["python3", "/script/make_model.py", "/models/tiny"],
        image="localhost/detinf/vllm-cpu:0.32.0",
        script=ROOT / "tools" / "vllm_cpu" / "make_model.py",
        fault_on=["touch", "/tmp/detinf-fault"],  # noqa: S108 - in the container
        fault_off=["rm", "-f", "/tmp/detinf-fault"],  # noqa: S108 - in the container
        fault_words=(
            "A plug-in of the tests makes linear layers of replica 1 add in another order. In the real vLLM, logprob\n"
            "      bits change and every token stays the same."
        ),
        expected_observable=("logprob",),
        load_seconds=60,
        # It computes on the processors that the other replica needs to start: it must not do so all the time.
        probe_seconds={"soloIntervalSeconds": 10, "widthIntervalSeconds": 30},
        user_pause_seconds=0.3,
    )


class Place:
    """A cluster with the demo's images."""

    def __init__(self, story: Story, engine: Engine, *, name: str = CLUSTER, external: str | None = None) -> None:
        """Keep the engine, and the cluster: ours of that name, or somebody's whose kubeconfig is given."""
        self.story = story
        self.engine = engine
        self.cluster = Cluster(name)
        self.external = external

    @property
    def kubeconfig(self) -> Path:
        """The cluster's kubeconfig."""
        return Path(self.external) if self.external else self.cluster.kubeconfig

    def kubectl(self, namespace: str) -> Kubectl:
        """Return kubectl in a namespace."""
        found = shutil.which("kubectl") if self.external else None
        return Kubectl(found or str(find_kubectl()), self.kubeconfig, namespace)

    def ready(self) -> None:
        """Bring the cluster up, and the images into it."""
        with self.story.step(
            "cluster",
            "A real Kubernetes: API server, scheduler, kubelet, containerd, and a device plug-in with eight simulated\n"
            "      NPUs. Built from Go modules the first time (some 7 minutes), then cached.",
            about_seconds=10,
        ):
            if self.external:
                self.story.say(f"using the cluster of KUBECONFIG={self.external}")
                self.kubectl("default")("get", "nodes")
            else:
                self.cluster.up()
        with self.story.step(
            "images",
            "The operator's images are built with buildah from the one Dockerfile, and imported into the node.",
            about_seconds=30,
        ):
            if self.external:
                self.story.say("an existing cluster must have the images already: see docs/operations/demo.md")
                return
            for archive in self.archives():
                self.cluster.load_image(archive)
                self.story.say(f"{archive.name} imported")

    def archives(self) -> list[Path]:
        """Return the image archives, built where they have to be."""
        targets = ["controller", "probe", "simulated-engine"]
        if self.engine.name == "vllm-cpu":
            targets.remove("simulated-engine")
        archives = [build(target) for target in targets]
        if self.engine.name == "vllm-cpu":
            build_base()
            done = subprocess.run(
                [sys.executable, str(ROOT / "tools" / "vllm_cpu" / "build_image.py")],
                check=False,
                stdout=subprocess.PIPE,
                text=True,
            )
            if done.returncode:
                raise StepError("the image of the real vLLM could not be built; see above")
            archives.append(Path(done.stdout.strip().splitlines()[-1]))
        return archives

    def install(self, engine_values: Mapping[str, Any] | None = None) -> None:
        """Install the chart with the real helm; begin the story anew where it was told before.

        Args:
            engine_values: more of the chart's ``engine`` than the demo's own profile and image.
        """
        with self.story.step(
            "operator",
            "The operator is installed with Helm: one Deployment, and the least rights that work.",
            about_seconds=10,
        ):
            operator = self.kubectl(OPERATOR_NAMESPACE)
            for namespace in (OPERATOR_NAMESPACE, NAMESPACE):
                operator.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
            profile = self.engine.manifest["spec"]["engine"]["profile"]
            values = {
                "engine": {"defaultProfile": profile, "images": {profile: self.engine.image}}
                | dict(engine_values or {}),
                "models": {"hostPathPrefixes": [MODELS]},
                "probe": self.engine.probe_seconds,
            }
            there = operator.objects("deployments", "app.kubernetes.io/part-of=detinf")
            done = subprocess.run(
                [
                    *(
                        str(binary("helm")),
                        "upgrade",
                        "--install",
                        RELEASE,
                        str(ROOT / "charts/deterministic-inference"),
                    ),
                    *("--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout", "3m", "--values", "-"),
                ],
                check=False,
                capture_output=True,
                text=True,
                input=json.dumps(values),
                env=os.environ | {"KUBECONFIG": str(self.kubeconfig)},
            )
            if done.returncode:
                raise StepError(f"helm: {done.stderr.strip()[-600:]}")
            operator.run(
                "wait", "--for=condition=Established", "crd/deterministicinferences.detinf.io", "--timeout=60s"
            )
            if there:
                # Pods of an earlier run may hold an older image of the same name.
                operator("rollout", "restart", "deployment")
                operator("rollout", "status", "deployment", "--timeout=120s", timeout=150)
            self.forget_earlier_run()

    def forget_earlier_run(self) -> None:
        """Delete what an earlier run left, and wait until it is gone."""
        demo = self.kubectl(NAMESPACE)
        demo("delete", "detinf", "demo", "--ignore-not-found", "--wait=true")
        demo("delete", "pod", "demo-user", "--ignore-not-found", "--wait=true", "--grace-period=2")
        self.story.wait(
            "the pods of an earlier run to end",
            lambda: None if demo.objects("pods", "detinf.io/name=demo") else "gone",
            seconds=120,
        )


def demo_down() -> int:
    """End the demo's cluster."""
    try:
        Cluster(CLUSTER).down()
    except ClusterError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print("demo: the cluster is down; images and binaries stay in the cache")
    return 0
