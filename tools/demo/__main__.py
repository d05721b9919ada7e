"""``make demo``: the whole story on a real cluster. Exit code 0 only where every step was observed."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from detinf_cluster.cache import ClusterError
from kubectl import KubectlError
from place import NAMESPACE, OPERATOR_NAMESPACE, Place, demo_down, engine_named
from scenario import ROOT, STEPS, Scene
from story import StepError, Story, fail

PLACE_STEPS = 3

LAST_WORDS = """
All steps were observed, in {seconds:.0f} s; build/demo.json has them. The cluster is still up:

  export KUBECONFIG={kubeconfig}
  alias kubectl={kubectl}

Three things to try:
  1. kubectl -n {namespace} describe detinf demo
  2. kubectl -n {namespace} port-forward service/demo 8000 &
     curl -si localhost:8000/v1/completions -H 'Content-Type: application/json' \\
       -d '{{"model":"demo","prompt":[5,6,7],"max_tokens":8,"seed":1,"logprobs":1}}'
     (X-Detinf-Boot in the answer says which boot of which engine it came from)
  3. kubectl -n {namespace} port-forward pod/demo-0-0 9400 &
     curl -s localhost:9400/metrics | grep detinf_probe_comparisons

  make demo-down   ends it
"""


def main() -> int:
    """Tell the story."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="simulated")
    parser.add_argument("--down", action="store_true")
    options = parser.parse_args()
    if options.down:
        return demo_down()
    story = Story(total=PLACE_STEPS + STEPS, output=ROOT / "build" / "demo.json")
    began = time.monotonic()
    try:
        engine = engine_named(options.engine)
        place = Place(story, engine, external=os.environ.get("KUBECONFIG"))
        place.ready()
        place.install()
        kubectl = place.kubectl(NAMESPACE)
        Scene(story, kubectl, engine, place.kubectl(OPERATOR_NAMESPACE)).play()
    except (StepError, KubectlError, ClusterError, subprocess.SubprocessError) as error:
        return fail(str(error))
    print(
        LAST_WORDS.format(
            seconds=time.monotonic() - began, kubeconfig=place.kubeconfig, kubectl=kubectl.binary, namespace=NAMESPACE
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
