#!/usr/bin/env python3
"""Records what notebooks/step1_precision.ipynb shows, so that the notebook needs no model and no torch.

    cargo build --release
    python scripts/record_precision.py

It writes notebooks/data/step1_precision.json, with three parts:

`models`: the largest error of every module's output, for the demo model and for a test fixture. The reference is
    transformers in double precision (dump_hf_reference.py --double). stairwell in f32 is compared by
    `stairwell verify --json`, transformers in f32 and in bf16 here. Errors are absolute: max |x - reference|.
`next_token`: at how many positions of unseen stories the largest logit is another token's than in the reference.
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

import safetensors.torch
import torch
import transformers
from demo_stories import story
from dump_hf_reference import load_model, reference, save_sorted
from recording import machine
from transformers.models.qwen3 import modeling_qwen3

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "models" / "demo"
FIXTURE = ROOT / "tests" / "fixtures" / "qwen3"
OUT = ROOT / "notebooks" / "data" / "step1_precision.json"
POSITIONS = 150  # of every story
LOSS_STORIES, TOKEN_STORIES = 96, 32
TRANSFORMERS = {"transformers f32": torch.float32, "transformers bf16": torch.bfloat16}
PROMPT, NEW_TOKENS = "Once upon a time", 80  # for the greedy continuation


def significant(x, digits=4):
    return float(f"{x:.{digits}g}")


# ---- errors per module -----------------------------------------------------------------------------------------------
def largest_error(theirs, exact):
    return (theirs.double() - exact.double()).abs().max().item()


def stairwell(binary, *args):
    """Runs the engine. Exit code 1 of `verify` means that a module differs, and its report is still good."""
    done = subprocess.run([binary, *map(str, args)], check=False, capture_output=True, text=True)
    if done.returncode not in (0, 1) or not done.stdout:
        sys.exit(f"{binary} {args[0]}: {done.stderr.strip()}")
    return done.stdout


def module_errors(directory, ids, binary, scratch):
    """Every module's error in three arithmetics, in the order of the forward pass."""
    exact, metadata = reference(directory, ids, double=True)
    file = scratch / "reference.safetensors"
    save_sorted(file, exact, metadata)
    report = json.loads(stairwell(binary, "verify", "--model", directory, "--reference", file, "--json"))
    theirs = {name: reference(directory, ids, str(dtype).removeprefix("torch."))[0] for name, dtype in TRANSFORMERS.items()}
    rows = []
    for module in report["modules"]:
        name = module["name"]
        if name == "logits":  # lm_head's output once more
            continue
        figures = [exact[name].abs().max().item(), module["largest_error"]]
        figures += [largest_error(tensors[name], exact[name]) for tensors in theirs.values()]
        rows.append([name, *map(significant, figures)])
    return {
        "model": directory.relative_to(ROOT).as_posix(),
        "weights_dtype": json.loads((directory / "config.json").read_text()).get("dtype", "float32"),
        "weights_sha256": weights_hash(directory),
        "prompt_ids": ids,
        "columns": ["module", "largest_value", "stairwell f32", *TRANSFORMERS],
        "modules": rows,
    }


@torch.no_grad()
def next_tokens(stories, binary, scratch):
    """The demo model's largest logits over all positions of `stories`, in each arithmetic against double precision."""

    def logits_of(model):
        return torch.cat([model(ids[None], use_cache=False).logits[0] for ids in stories])

    exact = logits_of(load_model(DEMO).double())
    theirs = {name: logits_of(load_model(DEMO, dtype)) for name, dtype in TRANSFORMERS.items()}
    ours, file = [], scratch / "logits.safetensors"
    for ids in stories.tolist():
        stairwell(binary, "logits", "--model", DEMO, "--prompt-ids", ",".join(map(str, ids)), "--out", file)
        ours.append(safetensors.torch.load_file(file)["logits"])
    logits = {"stairwell f32": torch.cat(ours)} | theirs
    top2 = exact.topk(2).values
    return {
        "positions": len(exact),
        "smallest_gap_of_the_two_largest": significant((top2[:, 0] - top2[:, 1]).min().item()),
        "largest_error": {name: significant(largest_error(x, exact)) for name, x in logits.items()},
        "another_token": {name: (x.argmax(-1) != exact.argmax(-1)).sum().item() for name, x in logits.items()},
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


def rope_swap(tokenizer, ids):
    """Loss per position of `ids`, and a greedy continuation, with the right RoPE and with the wrong one."""
    model = load_model(DEMO)
    original = modeling_qwen3.apply_rotary_pos_emb
    config = json.loads((DEMO / "config.json").read_text())
    result = {
        "head_dim": config["head_dim"],
        "rope_theta": config["rope_parameters"]["rope_theta"],
        "stories": len(ids),
        "prompt": PROMPT,
    }
    for name, function in (("rotate_half", original), ("interleaved", interleaved)):
        modeling_qwen3.apply_rotary_pos_emb = function
        loss = [round(x, 3) for x in loss_per_position(model, ids).tolist()]
        text = tokenizer.decode(greedy(model, tokenizer(PROMPT)["input_ids"]), skip_special_tokens=True)
        result[name] = {"text": text, "loss": loss}
    modeling_qwen3.apply_rotary_pos_emb = original
    return result


def unseen_stories(tokenizer):
    """The first POSITIONS tokens of stories that the demo model was not trained on: [LOSS_STORIES, POSITIONS]."""
    encoded = (tokenizer(story("unseen", i).text())["input_ids"] for i in itertools.count())
    return torch.tensor(list(itertools.islice((x[:POSITIONS] for x in encoded if len(x) >= POSITIONS), LOSS_STORIES)))


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

    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO, local_files_only=True)
    stories = unseen_stories(tokenizer)
    fixture_prompt = safetensors.torch.load_file(FIXTURE / "reference.safetensors")["prompt_ids"].tolist()
    prompts = {DEMO: stories[0].tolist(), FIXTURE: fixture_prompt}
    with tempfile.TemporaryDirectory() as scratch:
        models = [module_errors(directory, ids, binary, Path(scratch)) for directory, ids in prompts.items()]
        tokens = next_tokens(stories[:TOKEN_STORIES], binary, Path(scratch))
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
        "next_token": tokens,
        "rope_swap": rope_swap(tokenizer, stories),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(compact(result) + "\n", encoding="utf-8")
    print(f"{OUT.relative_to(ROOT)}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
