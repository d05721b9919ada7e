"""The kubelet's rule for ``$(NAME)`` as the tests have it, held against Kubernetes' own source."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from kubelet import expand

from detinf.controller.builders.verbatim import passed_on, verbatim

MAIN = """\
package main

import (
	"encoding/json"
	"os"
)

func main() {
	var texts []string
	if err := json.NewDecoder(os.Stdin).Decode(&texts); err != nil {
		panic(err)
	}
	mapping := MappingFuncFor(map[string]string{"A": "1", "": "empty", "$": "dollar"})
	for i := range texts {
		texts[i] = Expand(texts[i], mapping)
	}
	if err := json.NewEncoder(os.Stdout).Encode(texts); err != nil {
		panic(err)
	}
}
"""
VARIABLES = {"A": "1", "": "empty", "$": "dollar"}


def test_rule_of_the_tests_is_the_kubelets_own_and_what_is_verbatim_is_passed_on(tmp_path: Path) -> None:
    go = shutil.which("go", path="/usr/local/go/bin:/usr/bin:/bin")
    pattern = "go/pkg/mod/k8s.io/kubernetes@*/third_party/forked/golang/expansion/expand.go"
    sources = sorted(Path.home().glob(pattern))
    if go is None or not sources:
        pytest.skip("NOT TESTED: the kubelet's own rule needs Go and the source of Kubernetes (make test-cluster)")
    (tmp_path / "expand.go").write_text(sources[-1].read_text().replace("package expansion", "package main"))
    (tmp_path / "main.go").write_text(MAIN)
    (tmp_path / "go.mod").write_text("module example.org/expand\n\ngo 1.24\n")
    texts = ["".join(parts) for size in range(7) for parts in itertools.product("$()Aé", repeat=size)]
    written = [verbatim(text) for text in texts]
    done = subprocess.run(
        [go, "run", "."],
        cwd=tmp_path,
        input=json.dumps([*texts, *written]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen[: len(texts)] == [expand(text, VARIABLES) for text in texts]
    assert seen[len(texts) :] == texts == [passed_on(text) for text in written]
