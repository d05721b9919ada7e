# detinf. `make help` lists every target; the three that count are try, demo and test.
PYTHON ?= python3
ENGINE ?= simulated
VENV := .venv
BIN := $(VENV)/bin
export PYTHONPATH := tools/cluster
# Kept beside the sources, and by no image: the tests start hundreds of processes that would each compile it all again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help try demo demo-down test test-python test-cluster e2e bad-days test-vllm check format generate lock cluster-up cluster-down images bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

try: ## a minute, nothing but Python: a healthy and a faulty engine, and a verdict on each
	@$(PYTHON) tools/environment.py .venv-try requirements/try.txt
	@.venv-try/bin/python -m detinf.cli try

demo: venv ## the main job on a real cluster, from nothing (ENGINE=vllm-cpu: with the real vLLM; KUBECONFIG=... uses yours)
	@$(BIN)/python tools/demo --engine $(ENGINE)

demo-down: venv ## end the demo's cluster
	@$(BIN)/python tools/demo --down

test: venv check test-python test-cluster ## lint, types, layers, drift; unit, property, simulation and control-plane tests

test-python: venv ## the tests that need nothing but Python
	@$(BIN)/pytest -m "not e2e and not vllm and not cluster" -n 4 --dist worksteal --junitxml build/junit-python.xml

test-cluster: venv ## the tests that need a control plane (builds Kubernetes and helm the first time)
	@$(BIN)/python -m detinf_cluster build kube helm health
	@$(BIN)/pytest -m "cluster and not e2e and not vllm" -n 2 --dist loadfile --junitxml build/junit-cluster.xml

e2e: venv ## the node tests: real kubelet and containers (root on Linux)
	@$(BIN)/pytest tests/e2e --ignore-glob '*/test_bad_*' -m e2e --timeout 1800 --junitxml build/junit-e2e.xml

bad-days: venv ## bad days on the node cluster: 20 minutes of states times faults, objects of others, drains (root on Linux)
	@DETINF_NODE_TESTS=bad $(BIN)/pytest tests/e2e/test_bad_*.py -m e2e --timeout 1800 --junitxml build/junit-bad-days.xml

test-vllm: venv ## the tests that run the real vLLM on CPU (installs it: some GB)
	@$(BIN)/pytest tests/vllm -m vllm --timeout 1800 --junitxml build/junit-vllm.xml

check: venv ## lint, types, layers, drift of everything generated
	@$(BIN)/ruff check . && $(BIN)/ruff format --check -q . && $(BIN)/mypy && $(BIN)/lint-imports --no-cache >build/layers.txt || (cat build/layers.txt; exit 1)
	@$(BIN)/python tools/drift.py

format: venv ## format the code and mend what the linter can mend
	@$(BIN)/ruff format -q . && $(BIN)/ruff check --fix -q .

generate: venv ## write the CRD, the JSON Schemas and the chart's copies again
	@$(BIN)/python tools/drift.py --write

lock: venv ## rewrite the hashed locks from pyproject.toml
	@sh tools/lock.sh

cluster-up: venv ## a real one-node Kubernetes with simulated NPUs (root on Linux), to work with by hand
	@$(BIN)/python -m detinf_cluster up --size node

cluster-down: venv ## end it
	@$(BIN)/python -m detinf_cluster down

images: venv ## build the container images with buildah on a debootstrap base
	@$(BIN)/python tools/cluster/images/build_images.py

bench: venv ## the numbers in the README, measured again
	@$(BIN)/python benchmarks/sidecar_memory.py
	@$(BIN)/python benchmarks/core.py

clean: ## forget environments and build results of this checkout (caches stay)
	rm -rf .venv .venv-try build .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: venv
venv:
	@mkdir -p build
	@$(PYTHON) tools/environment.py $(VENV) requirements/dev.txt
