#!/usr/bin/env python3
"""Collects what `cargo bench --features NAME --bench NAME` measured into benches/results/NAME.json, the file that the book
reads. `step1` needs no feature.

usage: python scripts/record_bench.py step1
       python scripts/record_bench.py step4 --quick      # fewer runs, to try whether it works; the file says so

Medians, in seconds, from criterion's target/criterion/*/*/new/estimates.json. Standard library only.
"""

import json
import statistics
import sys

from recording import ROOT, TARGET, machine, median, significant

PARTS = ["embedding", "norms", "linear", "attention", "head"]
# Names in step2.json, and criterion's groups.
STEP2_GROUPS = {
    "recompute": "next_recompute", "prefill": "prefill", "cache_f32": "next_cache_f32", "cache_bf16": "next_cache_bf16",
}
# The outputs whose whole cost is derived, after a prompt of so many tokens.
PROMPT, GENERATED = 64, [64, 128, 256, 512, 1024]


def rounds(*path):
    """Seconds of one benchmark in each round: the baselines round1, round2, …, or the last run alone."""
    saved = sorted(ROOT.joinpath("target", "criterion", *path).glob("round*/estimates.json"))
    if not saved:
        return [median(*path)]
    return [json.loads(f.read_text())["median"]["point_estimate"] / 1e9 for f in saved]


def lengths(group):
    """The lengths that a group was measured for."""
    folders = TARGET.joinpath("criterion", group).iterdir()
    return sorted(int(f.name) for f in folders if f.name.isdigit())


def step1():
    """One forward pass over n tokens, and its parts."""
    recompute = [{"tokens": n, "seconds_per_token": significant(median("recompute", str(n)))} for n in lengths("recompute")]
    parts = [
        {"tokens": n} | {part: significant(median(f"parts_{part}_{n}")) for part in PARTS} for n in lengths("recompute")
    ]
    return {"model": "models/demo", "recompute": recompute, "parts": parts}


def interpolated(points):
    """From (length, seconds) in order to the seconds of every length between the first and the last."""
    seconds = {}
    for (n, start), (m, end) in zip(points, points[1:]):
        seconds |= {i: start + (end - start) * (i - n) / (m - n) for i in range(n, m + 1)}
    return seconds


def step2():
    """The next token after n tokens by recompute and from the cache, and what n tokens cost in all."""
    medians = {g: [(n, statistics.median(rounds(g, str(n)))) for n in lengths(g)] for g in STEP2_GROUPS.values()}
    by_length = {name: dict(medians[group]) for name, group in STEP2_GROUPS.items()}
    next_token = [
        {"tokens": n} | {name: significant(by_length[name][n]) for name in STEP2_GROUPS} for n in lengths("prefill")
    ]
    recompute, cache = (interpolated(medians[group]) for group in ("next_recompute", "next_cache_f32"))
    generate = []
    for n in GENERATED:
        last = PROMPT + n  # exclusive: the last token is sampled and never run
        generate.append({
            "tokens": n,
            "recompute": significant(sum(recompute[i] for i in range(PROMPT, last))),
            "cache": significant(by_length["prefill"][PROMPT] + sum(cache[i] for i in range(PROMPT + 1, last))),
            "tokens_computed_by_recompute": sum(range(PROMPT, last)),
            "tokens_computed_by_cache": PROMPT + n - 1,
        })
    config = json.loads((ROOT / "models" / "demo" / "config.json").read_text())
    elements = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"]
    seconds = {(group, n): rounds(group, str(n)) for group in STEP2_GROUPS.values() for n in lengths(group)}
    spread = [
        {"tokens": n} | {name: significant(max(s) / min(s)) for name in STEP2_GROUPS for s in [seconds[STEP2_GROUPS[name], n]]}
        for n in lengths("prefill")
    ]
    return {
        "model": "models/demo",
        "rounds": min(len(s) for s in seconds.values()),
        "seconds_are": "the median over the rounds of each round's median; spread is the slowest round over the fastest",
        "kv_bytes_per_token": {"f32": 4 * elements, "bf16": 2 * elements},
        "next_token": next_token,
        "spread": spread,
        "generate_prompt_tokens": PROMPT,
        "generate_is": "derived: the measured seconds of the lengths that are passed, summed; linear between two measured lengths",
        "generate": generate,
    }


def step3():
    """Batching policies: scripts/record_step3.py."""
    import record_step3

    return record_step3.record()


def step4():
    """The KV cache in blocks: scripts/record_step4.py."""
    import record_step4

    return record_step4.record(quick="--quick" in sys.argv)


def main():
    benches = {"step1": step1, "step2": step2, "step3": step3, "step4": step4}
    flags = {"step4": ["--quick"]}.get(sys.argv[1] if len(sys.argv) > 1 else None, [])
    if len(sys.argv) < 2 or sys.argv[1] not in benches or any(flag not in flags for flag in sys.argv[2:]):
        sys.exit(f"usage: python scripts/record_bench.py {{{','.join(benches)}}} [--quick, for step4]")
    name = sys.argv[1]
    feature = "" if name == "step1" else f"--features {name} "
    result = {"machine": machine(), "command": f"cargo bench {feature}--bench {name}"} | benches[name]()
    out = ROOT / "benches" / "results" / f"{name}.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(out.relative_to(ROOT))


if __name__ == "__main__":
    main()
