#!/usr/bin/env python3
"""Makes a checkpoint to measure with: the shapes of Qwen3-0.6B, random weights in bf16, and the same as a GGUF file.

    python scripts/peers/checkpoint.py FOLDER

FOLDER gets `qwen3-0.6b/` (config.json, model.safetensors) and `qwen3-0.6b-bf16.gguf`. No tokenizer: the benches give ids. What is there already is left alone.
"""

import json
import sys
from pathlib import Path

import numpy as np

NAME = "qwen3-0.6b"
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "hidden_act": "silu", "tie_word_embeddings": True, "attention_bias": False, "torch_dtype": "bfloat16",
    "max_window_layers": 28, "sliding_window": None, "use_sliding_window": False,
}  # fmt: skip
TINY = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
}  # fmt: skip


def shapes(c):
    """Shape of each tensor by its name."""
    hidden, wide = c["hidden_size"], c["intermediate_size"]
    q, kv = (c[heads] * c["head_dim"] for heads in ("num_attention_heads", "num_key_value_heads"))
    found = {"model.embed_tokens.weight": (c["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for layer in range(c["num_hidden_layers"]):
        of_layer = {
            "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (q, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden), "self_attn.o_proj": (hidden, q),
            "self_attn.q_norm": (c["head_dim"],), "self_attn.k_norm": (c["head_dim"],),
            "mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden), "mlp.down_proj": (hidden, wide),
        }  # fmt: skip
        found |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in of_layer.items()}
    return found


def random_bf16(shape, random):
    """Norms are 1; matrices keep the size of what they multiply. The lower half of an f32 is cut off."""
    numbers = np.ones(shape, np.float32) if len(shape) == 1 else random.standard_normal(shape, np.float32) * np.float32(shape[1] ** -0.5)
    return (numbers.view(np.uint32) >> 16).astype(np.uint16)


def write_checkpoint(folder, config):
    """config.json and model.safetensors: a length, a header in JSON, the tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    header, end, random = {}, 0, np.random.default_rng(0)
    for name, shape in shapes(config).items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64 + 56)  # data begins at a multiple of 64
    unfinished = folder / "model.unfinished"
    with unfinished.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes(config).values():
            random_bf16(shape, random).tofile(file)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    unfinished.rename(folder / "model.safetensors")


def tensors(folder):
    """Name and numbers of each tensor, as they are mapped."""
    file = folder / "model.safetensors"
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    data = np.memmap(file, np.uint8, "r", offset=8 + length)
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        yield name, data[start:end].view(np.uint16).reshape(entry["shape"])


def gguf_name(name):
    """What llama.cpp calls a tensor."""
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in whole:
        return whole[name]
    parts = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{parts[rest.removesuffix('.weight')]}.weight"


def write_gguf(folder, config, path):
    """Matrices in bf16, norms in f32, and no vocabulary."""
    import gguf

    writer = gguf.GGUFWriter(path.with_suffix(".unfinished"), config["model_type"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tokenizer_model("none")
    for name, numbers in tensors(folder):
        if numbers.ndim == 1:
            writer.add_tensor(gguf_name(name), (numbers.astype(np.uint32) << 16).view(np.float32))
        else:
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(numbers).view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".unfinished").rename(path)


def main():
    folder, tiny = Path(sys.argv[1]), "--tiny" in sys.argv
    name, config = (f"{NAME}-tiny", CONFIG | TINY) if tiny else (NAME, CONFIG)
    model, gguf_file = folder / name, folder / f"{name}-bf16.gguf"
    if not (model / "model.safetensors").exists():
        write_checkpoint(model, config)
    if not gguf_file.exists():
        write_gguf(model, config, gguf_file)


if __name__ == "__main__":
    main()
