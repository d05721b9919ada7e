#!/bin/sh
# Rewrite the hashed locks from pyproject.toml. Universal and without the hosts that packages come from.
set -eu
uv=${UV:-.venv/bin/uv}
lock() {
  output=$1; shift
  "$uv" pip compile -q pyproject.toml "$@" --universal --generate-hashes --python-version 3.11 \
    --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" \
    -o "requirements/$output"
}
echo 'uv>=0.13,<0.14' | "$uv" pip compile -q - --universal --generate-hashes --python-version 3.11 \
  --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" -o requirements/uv.txt
lock controller.txt --extra controller
lock probe.txt --extra probe
lock sim.txt --extra sim
lock try.txt --extra cli --extra sim
lock dev.txt --all-extras --group test --group lint
sh tools/vllm_cpu/lock.sh
