#!/usr/bin/env python3
"""Make tests/fixtures: tiny random checkpoints of every supported family, with what transformers computes for them.

    python scripts/make_fixtures.py            writes tests/fixtures, then checks it
    python scripts/make_fixtures.py --check    only checks what is there

Each fixture is a checkpoint directory and its `reference.safetensors`, which dump_hf_reference.py's functions write in
double precision. Fixtures with modules also have `module_tree.txt`, what `print(model)` shows. `rope.json` beside them
holds transformers' inverse frequencies for many RoPE configurations. The folders `tokenizer` and `massive` are not
made here: see dump_tokenizer_reference.py and make_massive_fixture.py.

The sizes are odd on purpose (a head_dim that is not hidden/heads, a vocabulary that is no round number) so that no two
axes can be mistaken for each other. The weights are large, so that a mistake moves the logits by far more than the
tests' tolerance. A seed is drawn again until the greedy ids are a fair test: see `fair`.

The same command gives the same bytes, given scripts/requirements.txt. On another CPU the last bits of the references
may differ; the weights do not.
"""

import argparse
import json
import shutil
import sys
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

import dump_hf_reference as dump

ROOT = Path(__file__).resolve().parent.parent / "tests" / "fixtures"
SIZE_LIMIT = 3_000_000  # bytes, all fixtures together
TOLERANCE = 1e-4  # what the engine's own tests allow on logits at f32
GREEDY = 16
BOS, EOS = 1, 2


@dataclass
class Fixture:
    """One checkpoint. `config` is written as config.json as it stands, so its spelling is part of the test."""

    name: str
    config: dict
    dtype: torch.dtype = torch.float32
    prompt_length: int = 21
    greedy: int = GREEDY
    shards: int = 1
    modules: bool = True  # False: the reference has logits and ids only, to save space
    hub_gpt2: bool = False  # bare names and mask buffers, as in the checkpoint `gpt2` on the hub


def decoder(model_type, hidden, inter, heads, kv_heads, vocab, **rest):
    """config.json of a two-layer Llama-like model; every other field is the caller's."""
    architecture = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[model_type]
    return {
        "architectures": [f"{architecture}ForCausalLM"], "model_type": model_type, "vocab_size": vocab, "hidden_size": hidden,
        "intermediate_size": inter, "num_hidden_layers": 2, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "hidden_act": "silu", "bos_token_id": BOS, "eos_token_id": EOS, **rest,
    }  # fmt: skip


def gpt2(width, heads, positions, vocab, **rest):
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": vocab, "n_embd": width, "n_layer": 2,
        "n_head": heads, "n_positions": positions, "activation_function": "gelu_new", "bos_token_id": BOS,
        "eos_token_id": EOS, **rest,
    }  # fmt: skip


# Families first, then RoPE variants. `dtype` and `rope_parameters` are the spelling of transformers 5, `torch_dtype`,
# `rope_theta` and `rope_scaling` the older one.
QWEN3 = dict(hidden=32, inter=40, heads=4, kv_heads=2, vocab=163, head_dim=12, rms_norm_eps=1e-6, max_position_embeddings=128,
             attention_bias=False, tie_word_embeddings=True)  # fmt: skip
QWEN2 = dict(hidden=36, inter=44, heads=6, kv_heads=2, vocab=161, rms_norm_eps=1e-6, max_position_embeddings=128,
             tie_word_embeddings=False)  # fmt: skip
WINDOW = QWEN2 | dict(tie_word_embeddings=True, use_sliding_window=True, sliding_window=5)
LLAMA3 = dict(hidden=32, inter=44, heads=4, kv_heads=2, vocab=164, rms_norm_eps=1e-5, max_position_embeddings=1024,
              tie_word_embeddings=True)  # fmt: skip
LLAMA3_SCALING = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128)
MISTRAL = dict(hidden=40, inter=48, heads=4, kv_heads=1, vocab=167, head_dim=16, rms_norm_eps=1e-5, sliding_window=7,
               max_position_embeddings=128, tie_word_embeddings=False)  # fmt: skip
ROPE_VARIANT = dict(hidden=32, inter=36, heads=2, kv_heads=1, vocab=160, head_dim=16, tie_word_embeddings=True)
YARN_SCALING = dict(factor=4.0, original_max_position_embeddings=32)

FIXTURES = [
    Fixture("qwen3", decoder("qwen3", **QWEN3, dtype="float32", layer_types=["full_attention"] * 2, sliding_window=None,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}), shards=4),
    Fixture("qwen3-bf16", decoder("qwen3", **QWEN3, torch_dtype="bfloat16", use_sliding_window=False, sliding_window=None,
            max_window_layers=2, rope_theta=1000000, rope_scaling=None), torch.bfloat16, shards=2, modules=False),
    Fixture("qwen2", decoder("qwen2", **QWEN2, torch_dtype="float32", use_sliding_window=False, sliding_window=5,
            max_window_layers=0, rope_theta=1000000.0)),
    Fixture("qwen2-bf16", decoder("qwen2", **QWEN2, dtype="bfloat16",
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}), torch.bfloat16, modules=False),
    Fixture("qwen2-window", decoder("qwen2", **WINDOW, torch_dtype="float32", max_window_layers=1, rope_theta=10000.0)),
    Fixture("qwen2-layer-types-bf16", decoder("qwen2", **WINDOW, dtype="bfloat16", max_window_layers=28,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0}), torch.bfloat16, modules=False),
    Fixture("llama3", decoder("llama", **LLAMA3, torch_dtype="float32", rope_theta=20000.0, attention_bias=False,
            mlp_bias=False, rope_scaling={"rope_type": "llama3", **LLAMA3_SCALING})),
    Fixture("llama3-bf16", decoder("llama", **LLAMA3, dtype="bfloat16", head_dim=8,
            rope_parameters={"rope_type": "llama3", "rope_theta": 20000.0, **LLAMA3_SCALING}), torch.bfloat16, modules=False),
    # Llama 2 left rope_theta out; eps is large so that a wrong one shows.
    Fixture("llama2", decoder("llama", hidden=32, inter=36, heads=4, kv_heads=4, vocab=162, rms_norm_eps=1e-2,
            max_position_embeddings=64, tie_word_embeddings=False, attention_bias=True, mlp_bias=True,
            torch_dtype="float32", rope_scaling=None)),
    Fixture("mistral-f16", decoder("mistral", **MISTRAL, torch_dtype="float16", rope_theta=10000.0), torch.float16),
    Fixture("mistral-bf16", decoder("mistral", **MISTRAL, dtype="bfloat16",
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0}), torch.bfloat16, modules=False),
    Fixture("gpt2", gpt2(30, 3, 64, 165, n_inner=52, layer_norm_epsilon=1e-2, tie_word_embeddings=True, dtype="float32")),
    Fixture("gpt2-bf16", gpt2(30, 3, 64, 165, n_inner=52, layer_norm_epsilon=1e-2, torch_dtype="bfloat16"), torch.bfloat16,
            modules=False),
    Fixture("gpt2-hub", gpt2(24, 4, 40, 166, n_inner=None, n_ctx=40, layer_norm_epsilon=1e-5), hub_gpt2=True),
    Fixture("rope-yarn-bf16", decoder("qwen3", **ROPE_VARIANT, torch_dtype="bfloat16", rope_theta=10000.0, max_position_embeddings=128,
            rope_scaling={"type": "yarn", **YARN_SCALING}), torch.bfloat16),
    Fixture("rope-linear-bf16", decoder("llama", **ROPE_VARIANT, torch_dtype="bfloat16", rope_theta=10000.0,
            max_position_embeddings=128, rope_scaling={"type": "linear", "factor": 4.0}), torch.bfloat16, modules=False),
    # More layers and heads, for several ranks and stages: windows on some of the layers, biases, a vocabulary that no number of ranks divides.
    Fixture("qwen2-deep", decoder("qwen2", hidden=32, inter=42, heads=8, kv_heads=4, vocab=163, rms_norm_eps=1e-6, head_dim=8,
            max_position_embeddings=128, tie_word_embeddings=True, use_sliding_window=True, sliding_window=5,
            torch_dtype="float32", max_window_layers=3, rope_theta=10000.0) | {"num_hidden_layers": 5}, shards=5, modules=False),
    Fixture("gpt2-deep", gpt2(24, 4, 40, 166, n_inner=50, layer_norm_epsilon=1e-5, tie_word_embeddings=True, dtype="float32")
            | {"n_layer": 3}, modules=False),
    # The prompt is longer than max_position_embeddings, so the base grows. No greedy ids: transformers picks the base
    # anew at each step, where an engine with a KV cache must fix it for the whole request.
    Fixture("rope-dynamic-bf16", decoder("llama", **ROPE_VARIANT, dtype="bfloat16", max_position_embeddings=16,
            rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}), torch.bfloat16, greedy=0, modules=False),
]  # fmt: skip


def random_parameter(name, shape, seed):
    """Uniform values on a grid of 2^-15: exact in f32, and the same on every machine."""
    grid = np.random.default_rng([seed, zlib.crc32(name.encode())]).integers(-(2**15), 2**15, shape, endpoint=True) / 2**15
    if len(shape) == 1 and name.endswith("weight"):
        values = 1 + 0.5 * grid  # a norm's weight
    elif len(shape) == 1:
        values = 0.5 * grid
    elif any(part in name for part in ("embed_tokens", "wte", "wpe")):
        values = 0.9 * grid
    else:
        values = 0.45 * grid
    return torch.from_numpy(values.astype(np.float32))


def empty_model(directory):
    """The model that `directory/config.json` describes, without weights."""
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(directory))


def draw_weights(fixture, directory, seed):
    """Every parameter of the model that `directory/config.json` describes, by checkpoint name."""
    model = empty_model(directory)
    # named_parameters gives a tied weight once, under its first name, which is the embedding's.
    weights = {name: random_parameter(name, p.shape, seed).to(fixture.dtype) for name, p in model.named_parameters()}
    return as_on_the_hub(weights, model.config) if fixture.hub_gpt2 else weights


def as_on_the_hub(weights, config):
    """GPT-2's names without the prefix, and the causal-mask buffers that early versions saved."""
    weights = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    n = config.n_positions
    for layer in range(config.n_layer):
        weights[f"h.{layer}.attn.bias"] = torch.ones(n, n).tril().view(1, 1, n, n)
        weights[f"h.{layer}.attn.masked_bias"] = torch.tensor(-10000.0)
    return weights


def write_weights(directory, weights, shards):
    """One file, or `shards` files that cut through the layers, and their index."""
    if shards == 1:
        dump.save_sorted(directory / "model.safetensors", weights, {"format": "pt"})
        return
    names, weight_map = list(weights), {}
    for k in range(shards):
        file = f"model-{k + 1:05}-of-{shards:05}.safetensors"
        part = names[k * len(names) // shards : (k + 1) * len(names) // shards]
        dump.save_sorted(directory / file, {name: weights[name] for name in part}, {"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    total = sum(tensor.nbytes for tensor in weights.values())
    write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def random_prompt(fixture, seed):
    """Ids that are not special tokens."""
    return np.random.default_rng([seed, 0]).integers(EOS + 1, fixture.config["vocab_size"], fixture.prompt_length).tolist()


def fair(fixture, tensors, metadata):
    """Whether the greedy ids test the model: no near ties, not one token over and over, no EOS."""
    if not fixture.greedy:
        return True
    ids = tensors["greedy_ids"].tolist()
    return float(metadata["smallest_top2_gap"]) > 1e-2 and len(set(ids)) >= fixture.greedy // 2 and EOS not in ids


def make(fixture, directory):
    """Write the fixture into `directory`, with the first seed whose greedy ids are fair. Returns the seed."""
    directory.mkdir(parents=True)
    write_json(directory / "config.json", fixture.config)
    write_json(directory / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS, "do_sample": False})
    if fixture.modules:
        (directory / "module_tree.txt").write_text(f"{empty_model(directory)}\n")
    for seed in range(1, 1000):
        write_weights(directory, draw_weights(fixture, directory, seed), fixture.shards)
        prompt = random_prompt(fixture, seed)
        tensors, metadata = dump.reference(directory, prompt, double=True, greedy=fixture.greedy, modules=fixture.modules)
        if fair(fixture, tensors, metadata):
            dump.save_sorted(directory / "reference.safetensors", tensors, metadata)
            return seed
    raise SystemExit(f"error: {fixture.name}: no seed gives fair greedy ids")


def other_spelling(config):
    """The same config.json in the other spelling, of transformers 4 or 5."""
    config = dict(config)
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    elif "torch_dtype" in config:
        config["dtype"] = config.pop("torch_dtype")
    if "rope_parameters" in config:
        rope = dict(config.pop("rope_parameters"))
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    elif config["model_type"] != "gpt2":
        rope = dict(config.pop("rope_scaling", None) or {"rope_type": "default"})
        rope["rope_type"] = rope.pop("type", None) or rope["rope_type"]
        config["rope_parameters"] = rope | {"rope_theta": config.pop("rope_theta", 10000.0)}
    return config


def as_read(config):
    """What transformers makes of a config.json."""
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "config.json", config)
        read = transformers.AutoConfig.from_pretrained(folder).to_dict()
    del read["_name_or_path"]
    if "rope_parameters" in read:
        read["rope_parameters"].pop("type", None)  # the old name of rope_type, kept beside the new one
    return read


def check(fixture, directory):
    """Raise SystemExit unless a fresh f32 run agrees with the stored reference. Returns the largest logit error."""
    stored = load_file(directory / "reference.safetensors")
    ids = stored["prompt_ids"].tolist()
    fresh, _ = dump.reference(directory, ids, greedy=len(stored["greedy_ids"]), modules=False)
    error = (fresh["logits"] - stored["logits"]).abs().max().item()
    if not error <= TOLERANCE:
        raise SystemExit(f"error: {fixture.name}: f32 logits are {error:.1e} from the reference")
    if fresh["greedy_ids"].tolist() != stored["greedy_ids"].tolist():
        raise SystemExit(f"error: {fixture.name}: f32 gives other greedy ids than the reference")
    if as_read(fixture.config) != as_read(other_spelling(fixture.config)):
        raise SystemExit(f"error: {fixture.name}: transformers reads the two spellings of config.json differently")
    if fixture.modules and (directory / "module_tree.txt").read_text() != f"{empty_model(directory)}\n":
        raise SystemExit(f"error: {fixture.name}: module_tree.txt is not what print(model) gives")
    return error


def rope_cases():
    """(name, config.json fields, sequence length or None) for the RoPE goldens."""

    def config(per_head, positions, model_type="llama", **rest):
        return decoder(model_type, hidden=2 * per_head, inter=8, heads=2, kv_heads=1, vocab=8,
                       max_position_embeddings=positions, **rest)  # fmt: skip

    def new(head_dim, positions, theta, kind, **scaling):
        return config(head_dim, positions, rope_parameters={"rope_type": kind, "rope_theta": theta, **scaling})

    def old(head_dim, positions, theta, kind, **scaling):
        return config(head_dim, positions, rope_theta=theta, rope_scaling={"type": kind, **scaling})

    def yarn(**scaling):
        return new(32, 4096, 10000.0, "yarn", **{"factor": 4.0, "original_max_position_embeddings": 1024} | scaling)

    plain = [
        ("default, head_dim 16", new(16, 64, 10000.0, "default")),
        ("default, head_dim 64, theta 500000", new(64, 64, 500000.0, "default")),
        ("default, head_dim 128, theta 1000000, old spelling", config(128, 64, rope_theta=1000000.0, rope_scaling=None)),
        ("default, integer theta", config(16, 64, rope_theta=10000)),
        ("default, no theta", config(24, 64)),
        ("default, no head_dim in Qwen3: 128", config(12, 64, "qwen3", rope_theta=1000000.0)),
        ("default, head_dim is not hidden/heads", config(12, 64, "qwen3", head_dim=20, rope_theta=10000.0)),
        ("theta inside wins", config(16, 64, rope_theta=5.0, rope_parameters={"rope_type": "default", "rope_theta": 70.0})),
        ("theta beside rope_parameters", config(16, 64, rope_theta=500.0, rope_parameters={"rope_type": "default"})),
        ("rope_scaling replaces rope_parameters and its theta", config(16, 64, rope_scaling={"rope_type": "linear", "factor": 2.0},
            rope_parameters={"rope_type": "default", "rope_theta": 70.0})),
        ("rope_scaling without a type is default", config(16, 64, rope_theta=10000.0, rope_scaling={"factor": 2.0})),
        ("linear", new(16, 64, 10000.0, "linear", factor=2.5)),
        ("linear, old spelling", old(64, 64, 50000.0, "linear", factor=4.0)),
        ("rope_type wins over type", old(16, 64, 10000.0, "dynamic", rope_type="linear", factor=2.0)),
        ("yarn", yarn()),
        ("yarn, Qwen3 at 131072", new(128, 131072, 1000000.0, "yarn", factor=4.0, original_max_position_embeddings=32768)),
        ("yarn, old spelling", old(64, 131072, 1000000.0, "yarn", factor=4.0, original_max_position_embeddings=32768)),
        ("yarn, original length from max_position_embeddings", new(32, 4096, 10000.0, "yarn", factor=4.0)),
        ("yarn, original length at the top level wins", yarn() | {"original_max_position_embeddings": 64}),
        ("yarn, factor is not the ratio of the lengths", yarn(factor=16.0)),
        ("yarn, factor null is the ratio of the lengths", yarn(factor=None)),
        ("yarn, factor 1", yarn(factor=1.0)),
        ("yarn, attention_factor", yarn(attention_factor=1.3)),
        ("yarn, attention_factor null", yarn(attention_factor=None)),
        ("yarn, mscale and mscale_all_dim", yarn(factor=40.0, mscale=1.0, mscale_all_dim=0.8)),
        ("yarn, mscale and mscale_all_dim equal", yarn(factor=40.0, mscale=0.707, mscale_all_dim=0.707)),
        ("yarn, mscale alone is ignored", yarn(factor=40.0, mscale=0.5)),
        ("yarn, mscale_all_dim 0 counts as absent", yarn(factor=40.0, mscale=0.5, mscale_all_dim=0.0)),
        ("yarn, truncate false", yarn(truncate=False)),
        ("yarn, beta_fast and beta_slow", yarn(beta_fast=16.0, beta_slow=2.0)),
        ("yarn, beta null is 32 and 1", yarn(beta_fast=None, beta_slow=None)),
        ("yarn, no range between the bounds", yarn(beta_fast=4.0, beta_slow=4.0, truncate=False)),
        ("yarn, bounds clamped to 0 and head_dim - 1", new(8, 64, 1.5, "yarn", factor=4.0, original_max_position_embeddings=16)),
        ("llama3, Llama 3.1", new(128, 131072, 500000.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=8192)),
        ("llama3, Llama 3.2, old spelling", old(64, 131072, 500000.0, "llama3", factor=32.0, low_freq_factor=1.0,
            high_freq_factor=4.0, original_max_position_embeddings=8192)),
        ("llama3, other factors", new(16, 512, 10000.0, "llama3", factor=3.0, low_freq_factor=2.0, high_freq_factor=9.0,
            original_max_position_embeddings=256)),
        ("llama3, original length from max_position_embeddings", new(16, 512, 10000.0, "llama3", factor=8.0,
            low_freq_factor=1.0, high_freq_factor=4.0)),
    ]  # fmt: skip
    grown = [
        (f"dynamic at {length}", new(16, 64, 10000.0, "dynamic", factor=4.0), length) for length in (None, 32, 64, 65, 100, 1000)
    ] + [
        ("dynamic, old spelling", old(128, 2048, 10000.0, "dynamic", factor=2.0), 5000),
        ("dynamic ignores original_max_position_embeddings",
         new(16, 64, 10000.0, "dynamic", factor=4.0, original_max_position_embeddings=16), 100),
    ]  # fmt: skip
    return [(name, fields, None) for name, fields in plain] + grown


def rope_golden(config, length):
    """inv_freq and attention scaling of a model of this config that has seen `length` tokens (None: just built)."""
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "config.json", config)
        read = transformers.AutoConfig.from_pretrained(folder)
    rope = (Qwen3RotaryEmbedding if config["model_type"] == "qwen3" else LlamaRotaryEmbedding)(read)
    if length is not None:
        rope(torch.zeros(1), torch.tensor([[length - 1]]))
    return {"attention_scaling": float(rope.attention_scaling), "inv_freq": rope.inv_freq.tolist()}


def rope_goldens():
    """The text of rope.json, one case a line. The floats of inv_freq are the f32 values, exactly; attention_scaling is f64."""
    lines = ",\n".join(
        json.dumps({"name": name, "config": config, "seq_len": length, **rope_golden(config, length)})
        for name, config, length in rope_cases()
    )
    return f'{{"transformers": "{transformers.__version__}", "cases": [\n{lines}\n]}}\n'


def bytes_in(directory):
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def make_all(root):
    root.mkdir(parents=True, exist_ok=True)
    for fixture in FIXTURES:
        shutil.rmtree(root / fixture.name, ignore_errors=True)
        seed = make(fixture, root / fixture.name)
        print(f"{fixture.name}: seed {seed}, {bytes_in(root / fixture.name)} bytes", flush=True)
    (root / "rope.json").write_text(rope_goldens())


def check_all(root):
    known = {fixture.name for fixture in FIXTURES} | {"tokenizer", "massive"}
    if extra := sorted(path.name for path in root.iterdir() if path.is_dir() and path.name not in known):
        raise SystemExit(f"error: {root} holds directories that no fixture made: {', '.join(extra)}")
    worst = max(check(fixture, root / fixture.name) for fixture in FIXTURES)
    if (root / "rope.json").read_text() != rope_goldens():
        raise SystemExit("error: rope.json is not what transformers gives")
    total = bytes_in(root)
    print(f"{len(FIXTURES)} fixtures, {total} bytes, largest f32 logit error {worst:.1e}")
    if total > SIZE_LIMIT:
        raise SystemExit(f"error: the fixtures are over {SIZE_LIMIT} bytes")


def main():
    parser = argparse.ArgumentParser(description="Make and check tests/fixtures.")
    parser.add_argument("--check", action="store_true", help="write nothing; compare what is there with transformers")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder to write or check (default: tests/fixtures)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if not args.check:
        make_all(args.root)
    check_all(args.root)


if __name__ == "__main__":
    try:
        main()
    except dump.InputError as error:
        sys.exit(f"error: {error}")
