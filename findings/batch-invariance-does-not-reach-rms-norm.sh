#!/usr/bin/env bash
# vllm-ascend 0.28.0rc1: under VLLM_BATCH_INVARIANT=1 the mode replaces torch_npu.npu_add_rms_norm, as in 0.27.1rc1, and
# the RMSNorm layer no longer calls it: it always calls the compiled torch.ops._C_ascend.npu_add_rms_norm_bias, which the
# mode does not touch. In 0.27.1rc1 the layer calls the replaced operator wherever the compiled ones are off, as they are
# under the mode. So a check that the replacement is in place proved something up to 0.27 and nothing from 0.28.0rc1 on;
# nothing is logged. (Gemma's norm still has both branches.)
#
# Reads the two source distributions, which need an NPU to run.
set -euo pipefail
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
cd "$WORK"
python3 -m venv environment
environment/bin/pip install -q unearth==0.19.0
index=$(environment/bin/pip config get global.index-url 2>/dev/null || true)
for version in 0.27.1rc1 0.28.0rc1; do
  environment/bin/unearth --no-binary ${index:+--index-url "$index"} --download "$version" "vllm-ascend==$version" >/dev/null
done
cat >look.py <<'PYTHON'
import ast
import pathlib
import sys

wanted = {"npu_add_rms_norm", "npu_add_rms_norm_bias"}
for version in sys.argv[1:]:
    [root] = [path.parent for path in pathlib.Path(version).rglob("vllm_ascend/batch_invariant.py")]
    mode = ast.parse((root / "batch_invariant.py").read_text())
    replaced = {
        ast.unparse(target)
        for node in ast.walk(mode)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if ast.unparse(target).endswith("rms_norm") or ast.unparse(target).endswith("rms_norm_bias")
    }
    print(f"{version}: the mode replaces {', '.join(sorted(replaced))}")
    for kind in ast.parse((root / "ops/layernorm.py").read_text()).body:
        if isinstance(kind, ast.ClassDef):
            calls = {
                ast.unparse(node.func)
                for node in ast.walk(kind)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in wanted
            }
            if calls:
                print(f"{version}: {kind.name} calls {', '.join(sorted(calls))}")
PYTHON
for version in 0.27.1rc1 0.28.0rc1; do
  tar -xf "$version"/*.tar.gz -C "$version"
done
environment/bin/python look.py 0.27.1rc1 0.28.0rc1 | tee seen
diff seen - <<'SEEN'
0.27.1rc1: the mode replaces torch_npu.npu_add_rms_norm
0.27.1rc1: AscendRMSNorm calls torch.ops._C_ascend.npu_add_rms_norm_bias, torch_npu.npu_add_rms_norm
0.27.1rc1: AscendGemmaRMSNorm calls torch.ops._C_ascend.npu_add_rms_norm_bias, torch_npu.npu_add_rms_norm
0.28.0rc1: the mode replaces torch_npu.npu_add_rms_norm
0.28.0rc1: AscendRMSNorm calls torch.ops._C_ascend.npu_add_rms_norm_bias
0.28.0rc1: AscendGemmaRMSNorm calls torch.ops._C_ascend.npu_add_rms_norm_bias, torch_npu.npu_add_rms_norm
SEEN
echo "as when this was found"
