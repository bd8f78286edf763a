#!/usr/bin/env python3
"""Compares stairwell with transformers and llama.cpp on this machine's CPU, and records it in benches/results/cpu.json.

usage: python scripts/compare_cpu.py MODEL --gguf FILE [--rounds 3]

MODEL is a checkpoint directory of the shapes of Qwen3-0.6B in bf16 (random weights will do), FILE the same in llama.cpp's format, in
bf16. Run it with a Python that has torch, transformers and llama-cpp-python; a peer that is missing is left out. All run in turn,
round by round, so that a machine that slows down slows all of them; the recorded figure is the median. Wants an idle machine.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from recording import ROOT, TARGET, machine, significant

# (name, sequences at a time, tokens of each prompt, tokens after it). The last one takes minutes, and is run in one round only.
CASES = [("one", 1, 128, 12), ("longer", 1, 512, 1), ("eight", 8, 128, 12), ("longest", 1, 4096, 1)]
# What is reported of them: tokens of the prompts a second, or tokens after them.
FIGURES = {
    "prefill_128": ("one", "first"),
    "prefill_512": ("longer", "first"),
    "prefill_4096": ("longest", "first"),
    "decode_1": ("one", "step"),
    "decode_8": ("eight", "step"),
}
VARIANTS = {"stairwell": None, "stairwell_avx512": "avx512", "stairwell_avx2": "avx2"}
# Weights that a decode step reads at these shapes, lm_head included.
WEIGHTS = 596_049_920
# A build of an earlier commit, to compare with: `--before BINARY`.
BEFORE = "stairwell_before"


def timed(pass_over, prompt, count):
    """Seconds of a prompt, and of each token after it. `pass_over(rows, position)` gives a token for each row."""
    start = time.perf_counter()
    tokens = pass_over(prompt, 0)
    first = time.perf_counter()
    for at in range(count):
        tokens = pass_over([[token] for token in tokens], len(prompt[0]) + at)
    return first - start, (time.perf_counter() - first) / count


def transformers_peer(model, sequences, length, count):
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count())
    net = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()

    def timed_once(length):
        cache = transformers.DynamicCache(config=net.config)

        def pass_over(rows, _):
            with torch.inference_mode():
                ids = torch.tensor(rows)
                logits = net(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
                return logits[:, -1].argmax(-1).tolist()

        return timed(pass_over, prompts(sequences, length), count)

    timed_once(min(length, 128))
    return timed_once(length), f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"


def llama_peer(gguf, sequences, length, count):
    import ctypes

    import llama_cpp as lib
    import numpy

    silent = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(silent, ctypes.c_void_p(0))
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(gguf.encode(), lib.llama_model_default_params())
    options = lib.llama_context_default_params()
    options.n_ctx = sequences * (length + count + 8)
    options.n_batch = options.n_ubatch = max(512, sequences * length)
    options.n_seq_max = sequences
    options.n_threads = options.n_threads_batch = os.cpu_count()
    context = lib.llama_init_from_model(model, options)
    vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    batch = lib.llama_batch_init(sequences * length, 0, 1)

    def pass_over(rows, position):
        batch.n_tokens = len(rows) * len(rows[0])
        for at in range(batch.n_tokens):
            row, column = divmod(at, len(rows[0]))
            batch.token[at], batch.pos[at] = rows[row][column], position + column
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, row
            batch.logits[at] = column == len(rows[0]) - 1
        assert lib.llama_decode(context, batch) == 0
        ends = [(row + 1) * len(rows[0]) - 1 for row in range(len(rows))]
        logits = [lib.llama_get_logits_ith(context, end) for end in ends]
        return [int(numpy.ctypeslib.as_array(each, shape=(vocabulary,)).argmax()) for each in logits]

    def timed_once(length):
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        return timed(pass_over, prompts(sequences, length), count)

    timed_once(min(length, 128))
    return timed_once(length), f"llama-cpp-python {lib.__version__}"


def prompts(sequences, length):
    return [[(7919 * (s * length + t) + 13) % 150000 for t in range(length)] for s in range(sequences)]


def stairwell(model, isa, sequences, length, count, binary=TARGET / "release" / "stairwell"):
    """Median seconds of a batch's prompts and of a step, and bytes of memory at the peak."""
    flags = ["--batch-size", sequences, "--input-len", length, "--output-len", count + 1, "--iterations", 1]
    flags += ["--warmup", 0] if length > 512 else []
    flags += ["--max-batched-tokens", max(512, sequences * length)] if sequences > 1 or length > 512 else []
    command = [binary, "bench", "latency", "--json", "--model", model, *map(str, flags)]
    env = os.environ | ({"STAIRWELL_ISA": isa} if isa else {})
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env).stdout)
    times = report["latencies"]
    return times["ttft_seconds"]["max"], times["tpot_seconds"]["p50"], report["totals"]["peak_memory_bytes"]


def peer(name, path, case):
    """The same of a peer, in a process of its own; `None` if it is not installed."""
    command = [sys.executable, __file__, path, "--peer", name, "--case", case]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def child(arguments):
    _, sequences, length, count = next(case for case in CASES if case[0] == arguments.case)
    run = {"transformers": transformers_peer, "llama.cpp": llama_peer}[arguments.peer]
    (first, step), version = run(arguments.model, sequences, length, count)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([first, step, memory, version]), flush=True)
    os._exit(0)


def bench(*flags):
    """The bench of linear layers, or with `roofline` the machine's limits alone, measured now."""
    command = ["cargo", "bench", "--quiet", "--features", "full", "--bench", "cpu_linear", "--", *flags]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return json.loads((TARGET / "cpu_linear.json").read_text())


def measure(arguments, found, versions, cases):
    for case, sequences, length, count in cases:
        for name, isa in VARIANTS.items():
            if isa is None or length == 128:
                found.setdefault((case, name), []).append(stairwell(arguments.model, isa, sequences, length, count))
        if arguments.before:
            earlier = stairwell(arguments.model, None, sequences, length, count, arguments.before)
            found.setdefault((case, BEFORE), []).append(earlier)
        for name, path in [("transformers", arguments.model), ("llama.cpp", arguments.gguf)]:
            if path and (result := peer(name, path, case)):
                versions[name] = result.pop()
                found.setdefault((case, name), []).append(result)
        print(case, {name: times[-1] for (which, name), times in found.items() if which == case}, file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--gguf")
    parser.add_argument("--before", help="a build of an earlier commit, to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        child(arguments)
    subprocess.run(["cargo", "build", "--release", "--features", "full"], cwd=ROOT, check=True)
    found, versions, limits = {}, {}, []
    for number in range(arguments.rounds):
        limits.append(bench("roofline")["roofline"])
        measure(arguments, found, versions, CASES[: 3 + (number == 0)])
    limits.append(bench("roofline")["roofline"])
    names = list(dict.fromkeys(name for _, name in found))
    result = {
        "machine": machine(),
        "command": "python scripts/compare_cpu.py MODEL --gguf FILE",
        "versions": versions,
        "rounds": arguments.rounds,
        "roofline": {key: significant(statistics.median(each[key] for each in limits)) for key in limits[0]},
        "peers": {name: figures(found, name) for name in names},
    }
    ours, limits = result["peers"]["stairwell"], result["roofline"]
    for name in names[1:]:
        theirs = result["peers"][name]
        ratios = {key: value and significant(ours[key] / value) for key, value in theirs.items() if key != "name"}
        result.setdefault("ratios", {})[name] = ratios
    floor = limits["read_gigabytes_per_second"] * 1e9 / (2 * WEIGHTS)
    result["shares"] = {
        "floor_tokens_per_second": significant(floor),
        "decode_1_of_floor": significant(ours["decode_1"] / floor),
        "decode_8_over_1": significant(ours["decode_8"] / ours["decode_1"]),
    }
    result["linear"] = bench()["rows"]
    (ROOT / "benches" / "results" / "cpu.json").write_text(json.dumps(result, indent=1) + "\n")


def figures(found, name):
    """Tokens a second, and the memory of a prompt of 128 tokens; null where it was not run."""
    result = {"name": name.replace("_", " "), "memory_bytes": int(median(found, "one", name, 2))}
    for figure, (case, what) in FIGURES.items():
        _, sequences, length, _ = next(each for each in CASES if each[0] == case)
        seconds = median(found, case, name, ["first", "step"].index(what))
        tokens = sequences * length if what == "first" else sequences
        result[figure] = seconds and significant(tokens / seconds)
    return result


def median(found, case, name, at):
    """Of all runs; None if there are none."""
    runs = found.get((case, name))
    return runs and statistics.median(run[at] for run in runs)


if __name__ == "__main__":
    main()
