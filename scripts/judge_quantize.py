"""transformers as a judge of `stairwell quantize`: what it writes means what it says.

    python3 -m venv target/judges/hf && target/judges/hf/bin/pip install numpy safetensors torch transformers
    target/judges/hf/bin/python scripts/judge_quantize.py READER.py [DIRECTORY…]        # default: models/demo

Every method packs each model. A reader that is not ours (READER.py: functions `gptq`, `awq`, `ct` and `fp8`, each of tensors, a name and a
quantization_config) makes a dense f32 checkpoint of the result, which transformers loads. It holds if `generate` on the packed checkpoint gives transformers'
greedy tokens, prompt by prompt. Sizes that a layout does not have are refused, which is said.

Last run on 30 November 2026 with transformers 5.24.0: eight methods on models/demo, three and two on checkpoints with matrices of odd sizes; all hold.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from recording import ROOT
from safetensors.numpy import save_file
from serving import program
from transformers import AutoModelForCausalLM

METHODS = {
    "gptq-4": ["--method", "gptq", "--group-size", "32"],
    "gptq-4-asymmetric": ["--method", "gptq", "--group-size", "32", "--asymmetric"],
    "gptq-3": ["--method", "gptq", "--bits", "3", "--group-size", "32"],
    "gptq-2": ["--method", "gptq", "--bits", "2", "--group-size", "32"],
    "gptq-8": ["--method", "gptq", "--bits", "8", "--group-size", "32"],
    "awq-rtn": ["--method", "awq-rtn", "--group-size", "32"],
    "int8": ["--method", "int8"],
    "fp8": ["--method", "fp8"],
}
TOKENS = 24


def load_reader(path):
    spec = importlib.util.spec_from_file_location("reader", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def widen(reader, packed, dense):
    """Writes the packed checkpoint as a dense one of f32."""
    config = json.loads((packed / "config.json").read_text())
    quantization = config.pop("quantization_config")
    tensors = {}
    for file in sorted(packed.glob("*.safetensors")):
        tensors |= reader.st(file)
    read = {"gptq": reader.gptq, "awq": reader.awq, "compressed-tensors": reader.ct, "fp8": reader.fp8}[quantization["quant_method"]]
    ends = (".qweight", ".weight_packed", ".weight_scale", ".weight_scale_inv")
    prefixes = {name.removesuffix(end) for name in tensors for end in ends if name.endswith(end)}
    out = {f"{prefix}.weight": np.ascontiguousarray(read(tensors, prefix, quantization), dtype=np.float32) for prefix in prefixes}
    assert out, "nothing is packed"
    apart = ("qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_scale", "weight_scale_inv", "weight_shape", "weight_zero_point")
    for name, tensor in tensors.items():
        prefix, _, last = name.rpartition(".")
        if prefix not in prefixes or last not in (*apart, "weight"):
            out[name] = np.ascontiguousarray(tensor, dtype=np.float32)
    config["dtype"] = "float32"
    config.pop("torch_dtype", None)
    dense.mkdir()
    (dense / "config.json").write_text(json.dumps(config))
    save_file(out, dense / "model.safetensors", {"format": "pt"})
    return len(prefixes)


def prompts(vocabulary):
    draw = np.random.default_rng(7)
    return [[int(id) for id in draw.integers(3, vocabulary, length)] for length in (1, 5, 17, 40)]


def generated(model, ids):
    command = [program(), "generate", "--model", model, "--dtype", "f32", "--prompt-ids", ",".join(map(str, ids)), "--max-tokens", str(TOKENS)]
    run = subprocess.run([*command, "--temperature", "0", "--ignore-eos", "--json"], capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    return json.loads(run.stdout)["output_ids"]


def greedy(model, ids):
    """Greedy tokens, and the least lead of a chosen token over the next best."""
    row, lead = torch.tensor([ids]), float("inf")
    for _ in range(TOKENS):
        best = model(row).logits[0, -1].topk(2)
        lead = min(lead, float(best.values[0] - best.values[1]))
        row = torch.cat([row, best.indices[:1][None]], 1)
    return row[0, len(ids) :].tolist(), lead


@torch.no_grad()
def judge(reader, model, name, flags, folder):
    packed, dense = folder / "packed", folder / "dense"
    run = subprocess.run([program(), "quantize", "--model", model, "--out", packed, *flags], capture_output=True, text=True)
    if run.returncode:
        refused = "no multiple" in run.stderr
        print(f"{'----' if refused else 'FAIL'} {model.name:12} {name:18} {run.stderr.strip()}")
        return refused
    matrices = widen(reader, packed, dense)
    reference = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    equal, least = 0, float("inf")
    texts = prompts(reference.config.vocab_size)
    for ids in texts:
        expected, lead = greedy(reference, ids)
        equal, least = equal + (generated(packed, ids) == expected), min(least, lead)
    holds = equal == len(texts)
    print(f"{'ok  ' if holds else 'FAIL'} {model.name:12} {name:18} {matrices:4} matrices, {equal} of {len(texts)} prompts give transformers' tokens (least lead {least:.1e})", flush=True)
    return holds


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    reader = load_reader(Path(sys.argv[1]))
    models = [Path(path) for path in sys.argv[2:]] or [ROOT / "models" / "demo"]
    holds = True
    for model in models:
        for name, flags in METHODS.items():
            with tempfile.TemporaryDirectory() as folder:
                holds &= judge(reader, model, name, flags, Path(folder))
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
