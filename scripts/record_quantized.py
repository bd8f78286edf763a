#!/usr/bin/env python3
"""Measures packed weights at the shapes of Qwen3-0.6B and records them in benches/results/quantized.json.

usage: python3 scripts/record_quantized.py [--rounds 3]

Speed is that of dummy weights, f32 activations, all cores: a decode step of one request, and a prompt of 512 tokens. The formats take turns, round by round, so that
a machine that slows down slows all of them; a figure is the median over rounds. Memory is that of a file of int4 weights, which the script writes (0.5 GB, in a
temporary directory): resident bytes after some tokens, less those of a run of the demo model. Takes some minutes and wants an idle machine. Standard library only."""

import argparse
import json
import os
import statistics
import struct
import subprocess
import tempfile
import time
from pathlib import Path

from recording import ROOT, TARGET, machine, significant

OUT = ROOT / "benches" / "results" / "quantized.json"
BINARY = TARGET / "release" / "stairwell"
SHAPES = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "tie_word_embeddings": True, "dtype": "bfloat16", "hidden_act": "silu",
}  # fmt: skip
INT8 = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "group_size": None, "dynamic": False}
FORMATS = {
    "bf16": None,
    "gptq int4 g128": {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False},
    "awq int4 g128": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True},
    "int8": {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"group_0": {"targets": ["Linear"], "weights": INT8}}},
    "fp8 128x128": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
}  # fmt: skip
# What the project asks of the ratio to bf16 on a CPU with AVX2 whose memory gives less than 25 GB/s.
ASKED = {"gptq int4 g128": 1.6, "awq int4 g128": 1.6, "int8": 1.4, "fp8 128x128": 1.2}


def checkpoint(folder, quantization):
    """A directory with a config.json alone."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(SHAPES | ({"quantization_config": quantization} if quantization else {})))


def latencies(model, prompt, tokens):
    """The latencies of `bench latency`, dummy weights."""
    flags = ["--load-format", "dummy", "--dtype", "f32", "--batch-size", "1", "--iterations", "3", "--json"]
    command = [BINARY, "bench", "latency", "--model", model, "--input-len", str(prompt), "--output-len", str(tokens), *flags]
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return report["latencies"], report["model"]["weight_bytes_per_step"]


def write_int4(folder):
    """A file of GPTQ weights with the shapes above; returns the bytes of the packed tensors, and of the others."""
    checkpoint(folder, FORMATS["gptq int4 g128"])
    hidden, inner, q, kv = SHAPES["hidden_size"], SHAPES["intermediate_size"], 2048, 1024
    matrices = {"self_attn.q_proj": (q, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden), "self_attn.o_proj": (hidden, q),
                "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}  # fmt: skip
    tensors = [("model.embed_tokens.weight", "BF16", [SHAPES["vocab_size"], hidden]), ("model.norm.weight", "BF16", [hidden])]
    for layer in range(SHAPES["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        tensors += [(f"{at}{norm}.weight", "BF16", [hidden]) for norm in ("input_layernorm", "post_attention_layernorm")]
        tensors += [(f"{at}self_attn.{norm}.weight", "BF16", [SHAPES["head_dim"]]) for norm in ("q_norm", "k_norm")]
        for name, (n, k) in matrices.items():
            tensors += [(f"{at}{name}.qweight", "I32", [k // 8, n]), (f"{at}{name}.qzeros", "I32", [k // 128, n // 8]), (f"{at}{name}.scales", "F16", [k // 128, n])]
    header, offset, sizes = {}, 0, {"packed": 0, "dense": 0}
    for name, dtype, shape in tensors:
        size = {"I32": 4, "F16": 2, "BF16": 2}[dtype]
        for extent in shape:
            size *= extent
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
        sizes["dense" if dtype == "BF16" else "packed"] += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in header.values():
            begin, end = entry["data_offsets"]
            # Small numbers: 2^-10 as an f16 and 2^-7 as a bf16; any bits are codes.
            pattern = {"I32": os.urandom(4096), "F16": b"\x00\x14", "BF16": b"\x00\x3c"}[entry["dtype"]]
            file.write((pattern * ((end - begin) // len(pattern) + 1))[: end - begin])
    return sizes


def resident(*flags):
    """Resident bytes of a process that has generated some tokens: what it printed last comes before it ends, so it is asked while it waits for its reader."""
    command = [BINARY, "generate", "--prompt-ids", "1,2,3", "--max-tokens", "4000", "--ignore-eos", "--temperature", "0", "--dtype", "f32", "--max-model-len", "4096", *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen = 0
    for _ in range(40):
        time.sleep(0.5)
        if process.poll() is not None:
            break
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        seen = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
    process.kill()
    process.wait()
    return seen


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    steps, prompts, read = ({name: [] for name in FORMATS} for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for i, quantization in enumerate(FORMATS.values()):
            checkpoint(folder / str(i), quantization)
        for _ in range(rounds):
            for i, name in enumerate(FORMATS):
                latency, per_step = latencies(folder / str(i), 8, 32)
                steps[name].append(latency["tpot_seconds"]["p50"])
                read[name] = per_step
                prompts[name].append(latencies(folder / str(i), 512, 1)[0]["ttft_seconds"]["p50"])
        sizes = write_int4(folder / "int4")
        held = resident("--model", folder / "int4") - resident()
    step = {name: statistics.median(all) for name, all in steps.items()}
    prompt = {name: statistics.median(all) for name, all in prompts.items()}
    formats = {
        name: {
            "weight_bytes_per_step": read[name],
            "step_seconds": significant(step[name]),
            "decode_over_bf16": significant(step["bf16"] / step[name]),
            "prompt_of_512_seconds": significant(prompt[name]),
            "prefill_over_bf16": significant(prompt["bf16"] / prompt[name]),
        }
        for name in FORMATS
    }
    # The table of tokens and the norms are bf16, and resident too as far as they are read.
    memory = {"packed_bytes": sizes["packed"], "dense_bytes": sizes["dense"], "resident_bytes": held, "resident_over_file": significant(held / sum(sizes.values()))}
    result = {"command": "python3 scripts/record_quantized.py", "machine": machine(), "rounds": rounds, "formats": formats, "int4": memory}
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{'':16} {'bytes a step':>12} {'step':>9} {'of bf16':>8} {'asked':>6} {'512 tokens':>11} {'of bf16':>8}")
    for name, f in formats.items():
        asked = ASKED.get(name, "")
        print(f"{name:16} {f['weight_bytes_per_step'] / 1e6:9.0f} MB {f['step_seconds'] * 1e3:6.1f} ms {f['decode_over_bf16']:8.2f} {asked:>6} {f['prompt_of_512_seconds']:9.2f} s {f['prefill_over_bf16']:8.2f}")
    print(f"int4 file: {sum(sizes.values()) / 1e6:.0f} MB, resident {held / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
