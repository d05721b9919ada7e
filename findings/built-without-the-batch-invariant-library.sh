#!/usr/bin/env bash
# vllm-ascend 0.28.0rc1: the build step that installs the operator library of batch invariance succeeds (exit code 0, its
# last line says that the build is completed) where neither of its two downloads came, as on a machine whose way out is
# closed or slow (the second one has 5 seconds). The package is then built, installs and serves; VLLM_BATCH_INVARIANT=1
# is requested in vain there, and the engine's log has one warning. 0.30.0rc2 has the same file.
# So that an image was built from a release says nothing about whether the library is in it.
#
# Runs the step alone, in a temporary folder, with a proxy that is not there.
set -euo pipefail
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
cd "$WORK"
python3 -m venv environment
environment/bin/pip install -q unearth==0.19.0
for version in 0.28.0rc1 0.30.0rc2; do
  environment/bin/unearth --no-binary --download "$version" "vllm-ascend==$version" >/dev/null
  tar -xf "$version"/*.tar.gz -C "$version" --strip-components 1
done
cmp {0.28.0rc1,0.30.0rc2}/csrc/build_batch_invariant_ops.sh

mkdir empty && cd empty
export http_proxy=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9
code=0
bash ../0.28.0rc1/csrc/build_batch_invariant_ops.sh ascend910b >../said 2>&1 || code=$?
sed 's|https://[^ ]*/|.../|' ../said
echo "exit code $code; files that it left: $(ls | wc -l)"
[ "$code" = 0 ]
[ "$(grep -c 'Failed to download' ../said)" = 2 ]
tail -n 1 ../said | grep -q 'build completed$'
[ -z "$(ls)" ]
echo "as when this was found"
