#!/usr/bin/env python3
"""Measures packed weights at the shapes of Qwen3-0.6B and records them in benches/results/quantized.json.

usage: python3 scripts/record_quantized.py [--rounds 3]

Speed is that of random weights, f32 activations (and activations of 8 bits, --act-dtype int8, for some GGUF files), all cores: a decode step of one request, and a prompt of 512 tokens. The formats take turns, round by round, so that
a machine that slows down slows all of them; a figure is the median over rounds. GGUF files and a file of int4 weights are written into a temporary directory (2 GB);
memory is that of the int4 file: resident bytes after some tokens, less those of a run of the demo model. Takes some minutes and wants an idle machine. Standard library
only."""

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
# Of GGUF files: the type of the layers, that of the table (which is lm_head too), and that of half of what llama.cpp's Q4_K_M gives more bits.
GGUF = {"gguf q8_0": ("Q8_0", "Q8_0", None), "gguf q4_0": ("Q4_0", "Q6_K", None), "gguf q4_k_m": ("Q4_K", "Q6_K", "Q6_K")}
# The same files with activations of 8 bits: the column, the file, and the flags.
BY_INT8 = ["--act-dtype", "int8"]
ROUNDED = {"gguf q4_0, int8 x": "gguf q4_0", "gguf q4_k_m, int8 x": "gguf q4_k_m"}
# Their numbers in the format, numbers and bytes of a block, and a block with small scales and random codes.
BLOCKS = {
    "F32": (0, 1, 4, lambda: struct.pack("<f", 1.0)),
    "Q4_0": (2, 32, 18, lambda: b"\x00\x08" + os.urandom(16)),
    "Q8_0": (8, 32, 34, lambda: b"\x00\x08" + os.urandom(32)),
    "Q4_K": (12, 256, 144, lambda: b"\x00\x04\x00\x04" + os.urandom(140)),
    "Q6_K": (14, 256, 210, lambda: os.urandom(208) + b"\x00\x02"),
}
# What the project asks of the ratio to bf16 on a CPU with AVX2 whose memory gives less than 25 GB/s.
ASKED = {"gptq int4 g128": 1.6, "awq int4 g128": 1.6, "int8": 1.4, "fp8 128x128": 1.2, "gguf q8_0": 1.4, "gguf q4_0": 2.0, "gguf q4_k_m": 2.0}


def checkpoint(folder, quantization):
    """A directory with a config.json alone."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(SHAPES | ({"quantization_config": quantization} if quantization else {})))


def text(string):
    """A string of GGUF."""
    return struct.pack("<Q", len(string.encode())) + string.encode()


def matrices():
    """The layers' matrices: Hugging Face's name, GGUF's, outputs, inputs."""
    hidden, inner = SHAPES["hidden_size"], SHAPES["intermediate_size"]
    q, kv = (SHAPES[heads] * SHAPES["head_dim"] for heads in ("num_attention_heads", "num_key_value_heads"))
    yield from (("self_attn.q_proj", "attn_q", q, hidden), ("self_attn.k_proj", "attn_k", kv, hidden), ("self_attn.v_proj", "attn_v", kv, hidden))
    yield from (("self_attn.o_proj", "attn_output", hidden, q), ("mlp.gate_proj", "ffn_gate", inner, hidden), ("mlp.up_proj", "ffn_up", inner, hidden))
    yield ("mlp.down_proj", "ffn_down", hidden, inner)


def write_gguf(path, linear, table, better):
    """A GGUF file with the shapes above. Its tokenizer is a list of names, which nobody asks for."""
    hidden, layers, vocabulary = SHAPES["hidden_size"], SHAPES["num_hidden_layers"], SHAPES["vocab_size"]
    sizes = {"block_count": layers, "embedding_length": hidden, "feed_forward_length": SHAPES["intermediate_size"], "context_length": SHAPES["max_position_embeddings"],
             "attention.head_count": SHAPES["num_attention_heads"], "attention.head_count_kv": SHAPES["num_key_value_heads"], "attention.key_length": SHAPES["head_dim"],
             "attention.value_length": SHAPES["head_dim"]}  # fmt: skip
    floats = {"attention.layer_norm_rms_epsilon": SHAPES["rms_norm_eps"], "rope.freq_base": SHAPES["rope_theta"]}
    pairs = [text("general.architecture") + struct.pack("<I", 8) + text("qwen3")]
    pairs += [text(f"qwen3.{key}") + struct.pack("<II", 4, size) for key, size in sizes.items()]
    pairs += [text(f"qwen3.{key}") + struct.pack("<If", 6, number) for key, number in floats.items()]
    pairs += [text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, vocabulary) + b"".join(text(f"t{i}") for i in range(vocabulary))]
    tensors = [("token_embd", [hidden, vocabulary], table), ("output_norm", [hidden], "F32")]
    for layer in range(layers):
        at = f"blk.{layer}."
        tensors += [(at + norm, [hidden], "F32") for norm in ("attn_norm", "ffn_norm")] + [(at + norm, [SHAPES["head_dim"]], "F32") for norm in ("attn_q_norm", "attn_k_norm")]
        for _, name, outputs, inputs in matrices():
            tensors.append((at + name, [inputs, outputs], better if better and layer % 2 == 0 and name in ("attn_v", "ffn_down") else linear))
    head, data, offset = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(pairs)) + b"".join(pairs), [], 0
    for name, extents, kind in tensors:
        number, values, size, block = BLOCKS[kind]
        count = extents[0] * (extents[1] if len(extents) > 1 else 1) // values
        head += text(name + ".weight") + struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, number, offset)
        data.append((block, count * size))
        offset += (count * size + 31) // 32 * 32
    with open(path, "wb") as file:
        file.write(head + bytes(-len(head) % 32))
        for block, size in data:
            block = block()
            file.write((block * (size // len(block)))[:size] + bytes(-size % 32))


def latencies(model, prompt, tokens, more=()):
    """The latencies of `bench latency`; dummy weights, if there is only a config.json. And the distance from exact logits, with activations of 8 bits."""
    dummy = [] if model.is_file() else ["--load-format", "dummy"]
    flags = [*dummy, "--dtype", "f32", "--batch-size", "1", "--iterations", "3", "--json", *more]
    command = [BINARY, "bench", "latency", "--model", model, "--input-len", str(prompt), "--output-len", str(tokens), *flags]
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return report["latencies"], report["model"]["weight_bytes_per_step"], report.get("int8")


def write_int4(folder):
    """A file of GPTQ weights with the shapes above; returns the bytes of the packed tensors, and of the others."""
    checkpoint(folder, FORMATS["gptq int4 g128"])
    hidden = SHAPES["hidden_size"]
    tensors = [("model.embed_tokens.weight", "BF16", [SHAPES["vocab_size"], hidden]), ("model.norm.weight", "BF16", [hidden])]
    for layer in range(SHAPES["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        tensors += [(f"{at}{norm}.weight", "BF16", [hidden]) for norm in ("input_layernorm", "post_attention_layernorm")]
        tensors += [(f"{at}self_attn.{norm}.weight", "BF16", [SHAPES["head_dim"]]) for norm in ("q_norm", "k_norm")]
        for name, _, n, k in matrices():
            tensors += [(f"{at}{name}.qweight", "I32", [k // 8, n]), (f"{at}{name}.qzeros", "I32", [k // 128, n // 8]), (f"{at}{name}.scales", "F16", [k // 128, n])]
    header, offset, sizes = {}, 0, {"packed": 0, "dense": 0}
    for name, dtype, shape in tensors:
        size = {"I32": 4, "F16": 2, "BF16": 2}[dtype]
        for extent in shape:
            size *= extent
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
        sizes["dense" if dtype == "BF16" else "packed"] += size
    head = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for entry in header.values():
            begin, end = entry["data_offsets"]
            # Small numbers: 2^-10 as an f16 and 2^-7 as a bf16; any bits are codes.
            pattern = {"I32": os.urandom(4096), "F16": b"\x00\x14", "BF16": b"\x00\x3c"}[entry["dtype"]]
            file.write((pattern * ((end - begin) // len(pattern) + 1))[: end - begin])
    return sizes


def resident(*flags):
    """Resident bytes of a process at the end of a few tokens, of which K and V are small beside the weights."""
    command = [BINARY, "generate", "--prompt-ids", "1,2,3", "--max-tokens", "60", "--ignore-eos", "--temperature", "0", "--dtype", "f32", "--max-model-len", "64", *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen = 0
    while process.poll() is None:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        seen = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), seen)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{flags}: generate ended with status {process.returncode}")
    return seen


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    steps, prompts, read = ({name: [] for name in [*FORMATS, *GGUF, *ROUNDED]} for _ in range(3))
    distance = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        models = {name: folder / str(i) for i, name in enumerate(FORMATS)} | {name: folder / f"{i}.gguf" for i, name in enumerate(GGUF)}
        for name, quantization in FORMATS.items():
            checkpoint(models[name], quantization)
        for name, types in GGUF.items():
            write_gguf(models[name], *types)
        for _ in range(rounds):
            for name, model in (models | {name: models[file] for name, file in ROUNDED.items()}).items():
                more = BY_INT8 if name in ROUNDED else []
                latency, read[name], distance[name] = latencies(model, 8, 32, more)
                steps[name].append(latency["tpot_seconds"]["p50"])
                prompts[name].append(latencies(model, 512, 1, more)[0]["ttft_seconds"]["p50"])
        sizes = write_int4(folder / "int4")
        held = resident("--model", folder / "int4") - resident()
    step = {name: statistics.median(all) for name, all in steps.items()}
    prompt = {name: statistics.median(all) for name, all in prompts.items()}
    formats = [
        {
            "format": name,
            "megabytes_per_step": significant(read[name] / 1e6),
            "step_milliseconds": significant(step[name] * 1e3),
            "decode_over_bf16": significant(step["bf16"] / step[name]),
            "asked": ASKED.get(name),
            "prompt_of_512_seconds": significant(prompt[name]),
            "prefill_over_bf16": significant(prompt["bf16"] / prompt[name]),
            "int8": distance[name] and {key: significant(value) for key, value in distance[name].items()},
        }
        for name in steps
    ]
    # The table of tokens and the norms are bf16, and resident too as far as they are read.
    memory = {"packed_bytes": sizes["packed"], "dense_bytes": sizes["dense"], "resident_bytes": held, "resident_over_file": significant(held / sum(sizes.values()))}
    result = {"command": "python3 scripts/record_quantized.py", "machine": machine(), "rounds": rounds, "formats": formats, "int4": memory}
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{'':20} {'bytes a step':>12} {'step':>9} {'of bf16':>8} {'asked':>6} {'512 tokens':>11} {'of bf16':>8}")
    for f in formats:
        far = f", mean KL {f['int8']['mean_kl']:.2g}" if f["int8"] else ""
        decode, prefill = f"{f['step_milliseconds']:6.1f} ms {f['decode_over_bf16']:8.2f}", f"{f['prompt_of_512_seconds']:9.2f} s {f['prefill_over_bf16']:8.2f}"
        print(f"{f['format']:20} {f['megabytes_per_step']:9.0f} MB {decode} {f['asked'] or '':>6} {prefill}{far}")
    print(f"int4 file: {sum(sizes.values()) / 1e6:.0f} MB, resident {held / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
