"""transformers as a judge of `stairwell convert`: what it writes is what was read.

    python3 -m venv target/judges/hf && target/judges/hf/bin/pip install numpy safetensors torch transformers
    target/judges/hf/bin/python scripts/judge_convert.py FOLDER… [--bin PROGRAM]

Every golden below a FOLDER (a checkpoint with ref/expected.json: prompt_ids, greedy_ids) is converted to safetensors of f32. transformers loads the result and
generates from the prompt; it holds if the ids are the expected ones. A FOLDER that is a checkpoint without ref/ is converted too, and transformers' ids on
the result are compared with those that it gives on the folder itself.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

PROMPT = [1, 7, 20, 33, 54, 12, 90, 3]
TOKENS = 24


def greedy(folder, prompt, tokens):
    """The ids that transformers gives, and the names that it missed or did not expect."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
    wrong = {key: sorted(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]}
    return out[0, len(prompt) :].tolist(), wrong


def without_ends(folder):
    """Ends of texts would be held back by min_new_tokens: the goldens go on behind them."""
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        if path.exists():
            config = json.loads(path.read_text())
            config.pop("eos_token_id", None)
            path.write_text(json.dumps(config))


def judge(program, folder):
    """A sentence that says what is wrong, or nothing."""
    expected = folder / "ref/expected.json"
    model = folder / "model.gguf" if (folder / "model.gguf").exists() else folder
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "out"
        ran = subprocess.run([program, "convert", "--model", model, "--out", out, "--dtype", "f32"], capture_output=True, text=True)
        if ran.returncode:
            return f"convert failed: {ran.stderr.strip()[-300:]}"
        if "quantization_config" in json.loads((out / "config.json").read_text()):
            return "config.json still has quantization_config"
        without_ends(out)
        if expected.exists():
            want = json.loads(expected.read_text())
            prompt, ids = want["prompt_ids"], want["greedy_ids"]
        else:
            prompt = PROMPT
            ids, _ = greedy(folder, prompt, TOKENS)
        got, wrong = greedy(out, prompt, len(ids))
    if wrong:
        return f"transformers says {wrong}"
    return "" if got == ids else f"ids {got[:8]}…, expected {ids[:8]}…"


def main():
    parser = argparse.ArgumentParser(description="transformers as a judge of `stairwell convert`.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--bin", default="target/release/stairwell", help="the program")
    args = parser.parse_args()
    checkpoints = []
    for folder in args.folders:
        found = sorted(path.parent.parent for path in folder.glob("**/ref/expected.json"))
        checkpoints += found or [folder]
    bad = 0
    for folder in checkpoints:
        if not any((folder / name).exists() for name in ("config.json", "params.json", "model.gguf")):
            continue
        wrong = judge(args.bin, folder)
        bad += bool(wrong)
        print(f"{'FAIL' if wrong else 'ok  '} {folder.name}{': ' if wrong else ''}{wrong}", flush=True)
    print(f"{len(checkpoints) - bad} of {len(checkpoints)} conversions hold")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
