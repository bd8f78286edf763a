#!/usr/bin/env python3
"""Run a checkpoint in Hugging Face transformers and write every module's output to one safetensors file.

    python scripts/dump_hf_reference.py --model DIR --out reference.safetensors --prompt "Once upon a time" --greedy 16
    python scripts/dump_hf_reference.py --model DIR --out reference.safetensors --prompt-ids 5,17,3 --double

`stairwell verify --model DIR --reference FILE` compares the engine with such a file, layer by layer.

The file holds, for T prompt tokens and N greedy tokens:

    <module name>   f32 [T, width]   one for each module of `model.named_modules()` that has parameters and returns
                                     a tensor: embeddings, norms, projections, attention, MLP, layers, lm_head
    logits          f32 [T, vocab]   of every prompt position
    prompt_ids      i64 [T]
    greedy_ids      i64 [N]          temperature 0, EOS ignored, the whole sequence recomputed for each token

The batch dimension is dropped, and outputs with a head dimension (q_norm, k_norm) are flattened: [T, heads * head_dim].
A module that returns a tuple gives its first element. `__metadata__` has `format` = `stairwell-reference-1`, the
versions of `transformers` and `torch`, `dtype` (the arithmetic: float32, bfloat16 or float64), `model` (the folder's
name), `max_abs_logit`, and, when N > 0, `smallest_top2_gap`: the smallest distance between the two largest logits
over the greedy steps. Greedy ids are only a fair test where that gap is far above the error of the arithmetic.

Two properties of transformers to know when reading the numbers:
- With --double the weights and the matrix products are f64. Its RMSNorm, its softmax (except in GPT-2) and its
  rotary angles cast to f32 in the code, whatever the model's dtype, so these stay f32.
- With `rope_type` dynamic it picks the base from the current length at each step, so greedy ids depend on that.
"""

import argparse
import json
import sys
from pathlib import Path

import safetensors.torch
import torch
import transformers

FORMAT = "stairwell-reference-1"


class InputError(Exception):
    """Something is wrong with what the user gave. The message is one line and says what to do."""


def check_directory(directory):
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; --model takes a local checkpoint directory")
    if not (directory / "config.json").is_file():
        raise InputError(f"{directory}: there is no config.json; is this a Hugging Face checkpoint?")


def load_model(directory, dtype=torch.float32):
    """The causal language model in `directory`, with eager attention, on the CPU, its parameters cast to `dtype`.

    The cast belongs in `from_pretrained`: `model.to(bfloat16)` would also round the rotary `inv_freq` buffer.
    """
    check_directory(directory)
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, attn_implementation="eager", local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, RuntimeError, its own classes...
        raise InputError(f"{directory}: transformers cannot load it: {one_line(error)}") from error
    # transformers fills a missing parameter with random numbers and goes on. A reference must not.
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"{directory}: parameters missing from the weights ({len(missing)}): {', '.join(missing[:5])}")
    return model.eval()


def one_line(error, limit=300):
    return " ".join(f"{type(error).__name__}: {error}".split())[:limit]


def encode(directory, text):
    """The ids of `text`, with the special tokens that the checkpoint's tokenizer adds by itself."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:
        raise InputError(f"{directory}: no usable tokenizer ({one_line(error)}); give --prompt-ids instead") from error
    return tokenizer(text)["input_ids"]


def check_ids(model, ids, greedy):
    """Raise InputError if the model cannot take these prompt ids, or cannot go on for `greedy` more."""
    if not ids:
        raise InputError("the prompt is empty; give at least one token")
    vocab = model.get_input_embeddings().num_embeddings
    for token in ids:
        if not 0 <= token < vocab:
            raise InputError(f"token id {token} is outside the vocabulary; ids are 0 to {vocab - 1}")
    # Learned positions end. RoPE goes on beyond max_position_embeddings.
    positions = getattr(getattr(model, "transformer", None), "wpe", None)
    needed = len(ids) + max(greedy - 1, 0)
    if positions is not None and needed > positions.num_embeddings:
        limit = positions.num_embeddings
        raise InputError(f"{needed} positions are needed and the model has {limit}; shorten the prompt or --greedy")


def first_tensor(output):
    """What a module returned, if that is a tensor or a tuple that starts with one; else None."""
    if isinstance(output, tuple) and output:
        output = output[0]
    return output if isinstance(output, torch.Tensor) else None


@torch.no_grad()
def forward_recording(model, ids):
    """One forward pass over `ids`: (logits [T, vocab], outputs by module name, each f32 [T, width])."""
    outputs = {}

    def hook_for(name):
        def hook(_module, _inputs, output):
            tensor = first_tensor(output)
            if tensor is not None:
                outputs[name] = tensor.reshape(len(ids), -1).float().clone()

        return hook

    hooks = [
        module.register_forward_hook(hook_for(name))
        for name, module in model.named_modules()
        if name and any(True for _ in module.parameters())
    ]
    try:
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for hook in hooks:
            hook.remove()
    return logits, outputs


@torch.no_grad()
def greedy_decode(model, ids, count):
    """(`count` greedy ids after `ids`, the smallest gap between the two largest logits on the way)."""
    ids, start, gap = list(ids), len(ids), float("inf")
    for _ in range(count):
        top = model(torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
        gap = min(gap, (top.values[0] - top.values[1]).item())
        ids.append(top.indices[0].item())
    return ids[start:], gap


def reference(directory, ids, dtype="float32", double=False, greedy=0, modules=True):
    """The reference of the checkpoint in `directory` on the prompt `ids`: (tensors by name, metadata).

    Without `modules` the tensors are only logits, prompt_ids, and greedy_ids.
    """
    model = load_model(directory, getattr(torch, dtype))
    if double:
        model = model.double()  # from f32, so inv_freq keeps its f32 values
    check_ids(model, ids, greedy)
    logits, tensors = forward_recording(model, ids)
    if not torch.isfinite(logits).all():
        raise InputError(f"{directory}: the logits are not finite in {dtype}")
    new_ids, gap = greedy_decode(model, ids, greedy)
    if not modules:
        tensors = {}
    tensors["logits"] = logits.float().contiguous()
    tensors["prompt_ids"] = torch.tensor(ids, dtype=torch.int64)
    tensors["greedy_ids"] = torch.tensor(new_ids, dtype=torch.int64)
    metadata = {
        "format": FORMAT,
        "transformers": transformers.__version__,
        "torch": torch.__version__.split("+")[0],
        "dtype": "float64" if double else dtype,
        "model": Path(directory).resolve().name,
        "max_abs_logit": repr(logits.abs().max().item()),
    }
    if greedy:
        metadata["smallest_top2_gap"] = repr(gap)
    return tensors, metadata


def save_sorted(path, tensors, metadata):
    """Write a safetensors file whose bytes depend only on its contents: the library writes metadata in random order."""
    blob = safetensors.torch.save(tensors, metadata=metadata)
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
    assert len(text) == size, "sorting the header changed its length"
    Path(path).write_bytes(blob[:8] + text + blob[8 + size :])


def parse_ids(text):
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--prompt-ids {text!r} is not a list of integers such as 5,17,3") from None


def arguments():
    parser = argparse.ArgumentParser(description="Write what transformers computes for a checkpoint, module by module.")
    parser.add_argument("--model", required=True, type=Path, metavar="DIR", help="checkpoint directory")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="safetensors file to write")
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help="prompt, encoded with the checkpoint's own tokenizer")
    prompt.add_argument("--prompt-ids", metavar="5,17,3", help="prompt as token ids")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="dtype of weights and activations")
    parser.add_argument("--double", action="store_true", help="compute in f64 from the f32 weights, store f32")
    parser.add_argument("--greedy", type=int, default=0, metavar="N", help="also decode N tokens at temperature 0")
    parser.add_argument("--logits-only", action="store_true", help="leave the modules' outputs out of the file")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="torch threads; the last bits may depend on it")
    return parser.parse_args()


def main():
    args = arguments()
    if args.double and args.dtype != "float32":
        raise InputError("--double computes from the f32 weights; leave out --dtype")
    if args.greedy < 0 or args.threads < 1:
        raise InputError("--greedy must be 0 or more and --threads 1 or more")
    if not args.out.parent.is_dir():
        raise InputError(f"{args.out.parent}: no such directory to write --out into")
    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    check_directory(args.model)
    ids = parse_ids(args.prompt_ids) if args.prompt_ids is not None else encode(args.model, args.prompt)
    tensors, metadata = reference(args.model, ids, args.dtype, args.double, args.greedy, not args.logits_only)
    save_sorted(args.out, tensors, metadata)
    gap = metadata.get("smallest_top2_gap", "none")
    print(f"{args.out}: {len(tensors)} tensors, {len(ids)} prompt ids, smallest top-2 gap {gap}")
    if args.greedy:
        print("greedy ids:", ",".join(map(str, tensors["greedy_ids"].tolist())))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
