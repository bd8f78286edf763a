#!/usr/bin/env python3
"""Records what notebooks/step1_precision.ipynb shows, so that the notebook needs no model and no torch.

    cargo build --release
    python scripts/record_precision.py

It writes notebooks/data/step1_precision.json, with two parts:

`models`: the largest error of every module's output, for the demo model and for a test fixture. The reference is
    transformers in double precision (dump_hf_reference.py --double). stairwell in f32 is compared by
    `stairwell verify --json`, transformers in f32 and in bf16 here. Errors are absolute: max |x - reference|.
`rope_swap`: the demo model's loss at each position with its own rotate-half RoPE and with interleaved RoPE put in its
    place, and a greedy continuation under both. stairwell has no such switch, so transformers is patched.

Needs scripts/requirements.txt. About half a minute on one core.
"""

import argparse
import hashlib
import itertools
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
import transformers
from demo_stories import story
from dump_hf_reference import encode, load_model, reference, save_sorted
from record_bench import machine
from transformers.models.qwen3 import modeling_qwen3

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "models" / "demo"
FIXTURE = ROOT / "tests" / "fixtures" / "qwen3"
OUT = ROOT / "notebooks" / "data" / "step1_precision.json"
PROMPT_TOKENS = 64  # of an unseen story, for the errors per module
STORIES, POSITIONS = 96, 150  # for the loss per position
PROMPT, NEW_TOKENS = "Once upon a time", 80  # for the greedy continuation


def significant(x, digits=4):
    return float(f"{x:.{digits}g}")


# ---- errors per module -----------------------------------------------------------------------------------------------
def largest_error(theirs, exact):
    return (theirs.double() - exact.double()).abs().max().item()


def stairwell(binary, *args):
    """Runs the engine. Exit code 1 of `verify` means that a module differs, and its report is still good."""
    done = subprocess.run([binary, *map(str, args)], capture_output=True, text=True)
    if done.returncode not in (0, 1) or not done.stdout:
        sys.exit(f"{binary} {args[0]}: {done.stderr.strip()}")
    return done.stdout


def other_tokens(logits, right):
    """At how many positions the largest logit is another token's than in `right`."""
    return int((np.asarray(logits).argmax(-1) != np.asarray(right).argmax(-1)).sum())


def model_errors(directory, ids, binary, scratch):
    """Every module's error in three arithmetics, in the order of the forward pass."""
    exact, metadata = reference(directory, ids, double=True)
    file, ours = scratch / "reference.safetensors", scratch / "logits.safetensors"
    save_sorted(file, exact, metadata)
    report = json.loads(stairwell(binary, "verify", "--model", directory, "--reference", file, "--json"))
    stairwell(binary, "logits", "--model", directory, "--prompt-ids", ",".join(map(str, ids)), "--out", ours)
    theirs = {dtype: reference(directory, ids, dtype)[0] for dtype in ("float32", "bfloat16")}
    rows = []
    for module in report["modules"]:
        name = module["name"]
        if name == "logits":  # lm_head's output once more
            continue
        figures = [exact[name].abs().max().item(), module["largest_error"]]
        figures += [largest_error(tensors[name], exact[name]) for tensors in theirs.values()]
        rows.append([name, *map(significant, figures)])
    top2 = exact["logits"].topk(2).values
    return {
        "model": directory.relative_to(ROOT).as_posix(),
        "weights_dtype": json.loads((directory / "config.json").read_text()).get("dtype", "float32"),
        "weights_sha256": weights_hash(directory),
        "prompt_ids": ids,
        "smallest_top2_gap": significant((top2[:, 0] - top2[:, 1]).min().item()),
        "positions_with_another_token": {
            "stairwell f32": other_tokens(safetensors.numpy.load_file(ours)["logits"], exact["logits"]),
            "transformers f32": other_tokens(theirs["float32"]["logits"], exact["logits"]),
            "transformers bf16": other_tokens(theirs["bfloat16"]["logits"], exact["logits"]),
        },
        "columns": ["module", "largest_value", "stairwell f32", "transformers f32", "transformers bf16"],
        "modules": rows,
    }


def weights_hash(directory):
    """SHA-256 over the shards in order of name. The notebook checks it, so that a new model asks for a new record."""
    digest = hashlib.sha256()
    for shard in sorted(directory.glob("model*.safetensors")):
        digest.update(shard.read_bytes())
    return digest.hexdigest()


# ---- the wrong RoPE --------------------------------------------------------------------------------------------------
def interleaved(q, k, cos, sin, unsqueeze_dim=1):
    """In place of transformers' apply_rotary_pos_emb: turns the pairs (2i, 2i+1) and not (i, i + d/2)."""
    half = cos.shape[-1] // 2
    cos, sin = (x[..., :half].repeat_interleave(2, -1).unsqueeze(unsqueeze_dim) for x in (cos, sin))

    def turn(x):
        quarter_turn = torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)
        return x * cos + quarter_turn * sin

    return turn(q), turn(k)


@torch.no_grad()
def loss_per_position(model, ids):
    """Mean cross-entropy of token p + 1 given tokens 0 to p, in nats, for p = 0, 1, ...: [tokens - 1]."""
    logits = model(ids, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(0)


@torch.no_grad()
def greedy(model, ids):
    for _ in range(NEW_TOKENS):
        ids = ids + [model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item()]
    return ids


def rope_swap():
    """Loss per position and a greedy continuation, with the right RoPE and with the wrong one."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO, local_files_only=True)
    encoded = (tokenizer(story("unseen", i).text())["input_ids"] for i in itertools.count())
    ids = torch.tensor(list(itertools.islice((x[:POSITIONS] for x in encoded if len(x) >= POSITIONS), STORIES)))
    model = load_model(DEMO)
    original = modeling_qwen3.apply_rotary_pos_emb
    result = {"stories": STORIES, "prompt": PROMPT}
    for name, function in (("rotate_half", original), ("interleaved", interleaved)):
        modeling_qwen3.apply_rotary_pos_emb = function
        loss = [round(x, 3) for x in loss_per_position(model, ids).tolist()]
        text = tokenizer.decode(greedy(model, encode(DEMO, PROMPT)), skip_special_tokens=True)
        result[name] = {"text": text, "loss": loss}
    modeling_qwen3.apply_rotary_pos_emb = original
    return result


# ---- the file --------------------------------------------------------------------------------------------------------
def compact(value, indent=0):
    """JSON with one line for each list of plain values, so that a change reads well in a diff."""
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        items = [f"{pad}{json.dumps(k)}: {compact(v, indent + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + pad[:-1] + "}"
    if isinstance(value, list) and any(isinstance(v, (list, dict)) for v in value):
        return "[\n" + ",\n".join(pad + compact(v, indent + 1) for v in value) + "\n" + pad[:-1] + "]"
    return json.dumps(value, ensure_ascii=False)


def main():
    parser = argparse.ArgumentParser(description="Record the data of notebooks/step1_precision.ipynb.")
    parser.add_argument("--stairwell", type=Path, default=ROOT / "target" / "release" / "stairwell", metavar="FILE")
    binary = parser.parse_args().stairwell
    if not binary.is_file():
        sys.exit(f"{binary}: no such file; run cargo build --release")
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()

    prompt = encode(DEMO, story("unseen", 0).text())[:PROMPT_TOKENS]
    fixture_prompt = safetensors.numpy.load_file(FIXTURE / "reference.safetensors")["prompt_ids"].tolist()
    with tempfile.TemporaryDirectory() as scratch:
        models = [
            model_errors(directory, ids, binary, Path(scratch))
            for directory, ids in ((DEMO, prompt), (FIXTURE, fixture_prompt))
        ]
    result = {
        "command": "python scripts/record_precision.py",
        "machine": machine(),
        "versions": {
            "stairwell": stairwell(binary, "--version").split()[-1],
            "transformers": transformers.__version__,
            "torch": torch.__version__.split("+")[0],
            "python": platform.python_version(),
        },
        "models": models,
        "rope_swap": rope_swap(),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(compact(result) + "\n", encoding="utf-8")
    print(f"{OUT.relative_to(ROOT)}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
