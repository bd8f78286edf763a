"""What chapter 3 is told by the clock. `python scripts/record_bench.py step3` calls it, after `cargo bench --features step3 --bench step3`.

Beside criterion's medians it runs `stairwell bench throughput` itself: policies take turns, so that other work on the machine
meets all of them, and each number is a median. Standard library only.
"""

import json
import os
import statistics
import subprocess

from recording import MIXED, ROOT, TARGET, bench, in_turns, median, middle, significant

POLICIES = ["one-at-a-time", "static", "continuous"]

# The shapes of Qwen/Qwen3-0.6B. Weights are random, so that nothing is downloaded.
QWEN3_0_6B = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "torch_dtype": "bfloat16", "vocab_size": 151936,
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
    "rope_theta": 1000000, "hidden_act": "silu", "attention_bias": False, "tie_word_embeddings": True,
}

# As MIXED, about as many tokens, and all outputs end together.
EQUAL = ["--num-requests", "32", "--max-num-seqs", "8", "--input-len", "12", "--output-len", "28"]
LATE = ["--num-requests", "7", "--max-num-seqs", "8", "--input-len", "10..20", "--output-len", "60..90", "--late-prompt", "1500"]
BUDGETS = [64, 256, 4096]


def policy_row(policy, reports):
    """What one policy did with a workload."""
    totals = reports[0]["totals"]
    return {
        "policy": policy,
        "runs": len(reports),
        "output_tokens_per_second": middle(reports, "totals", "output_tokens_per_second"),
        "seconds": middle(reports, "totals", "seconds"),
        "weight_gigabytes_per_second": middle(reports, "totals", "weight_gigabytes_per_second"),
        "ttft_seconds_p50": middle(reports, "latencies", "ttft_seconds", "p50"),
        "tpot_seconds_p50": middle(reports, "latencies", "tpot_seconds", "p50"),
        "steps": totals["steps"],
        "output_tokens": totals["output_tokens"],
        "prompt_tokens": totals["prompt_tokens"],
        "kv_utilization": significant(totals["kv_utilization"]),
    }


def with_speedup(rows):
    """Adds how much faster continuous batching was than the others."""
    rate = {row["policy"]: row["output_tokens_per_second"] for row in rows}
    over = {f"continuous_over_{p.replace('-', '_')}": significant(rate["continuous"] / rate[p]) for p in POLICIES[:2]}
    return {"policies": rows} | over


def large(workload, times):
    """The policies at the shapes of Qwen3-0.6B."""
    folder = TARGET / "bench" / "qwen3-0.6b"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(QWEN3_0_6B))
    model = ["--model", folder, "--load-format", "dummy"]
    reports = in_turns({p: [*model, *workload, "--policy", p] for p in POLICIES}, times)
    assert len({r["outputs_sha256"] for rs in reports.values() for r in rs}) == 1, "a policy changed a token"
    return with_speedup([policy_row(p, reports[p]) for p in POLICIES])


def demo(group):
    """The policies on the demo model, from criterion. The outputs' tokens are those of benches/step3.rs."""
    rows = []
    for policy in POLICIES:
        tokens = json.loads((TARGET / "criterion" / group / policy / "new" / "benchmark.json").read_text())
        tokens = tokens["throughput"]["Elements"]
        seconds = median(group, policy)
        rows.append({
            "policy": policy,
            "output_tokens": tokens,
            "seconds": significant(seconds),
            "output_tokens_per_second": significant(tokens / seconds),
        })
    return with_speedup(rows)


def steps_by_seed():
    """Steps depend on no clock and no model: how much luck is in the order of the requests."""
    rows = []
    for seed in range(10):
        steps = {p: bench(*MIXED, "--seed", seed, "--policy", p)["totals"]["steps"] for p in POLICIES}
        rows.append({"seed": seed, "static": steps["static"], "continuous": steps["continuous"],
                     "static_over_continuous": significant(steps["static"] / steps["continuous"])})
    return rows


def late_prompt(times):
    """A prompt of 1,500 tokens that arrives while seven requests decode: their longest wait for a token, and its own first token."""
    reports = in_turns({b: [*LATE, "--max-batched-tokens", b] for b in BUDGETS}, times)
    rows = []
    for budget in BUDGETS:
        gaps = [max(r["longest_gap_seconds"] for r in report["requests"][:-1]) for report in reports[budget]]
        typical = [report["latencies"]["itl_seconds"]["p50"] for report in reports[budget]]
        first = [report["requests"][-1]["ttft_seconds"] for report in reports[budget]]
        rows.append({
            "max_batched_tokens": budget,
            "runs": times,
            "longest_gap_seconds": significant(statistics.median(gaps)),
            "typical_gap_seconds": significant(statistics.median(typical)),
            "late_ttft_seconds": significant(statistics.median(first)),
            "steps": reports[budget][0]["totals"]["steps"],
        })
    return rows


def kv_waste():
    """The part of the reserved K and V that held a token, over the length that each request's slot has."""
    rows = []
    for length in [None, 256, 512, 1024, 2048]:
        report = bench(*MIXED, *(["--max-model-len", length] if length else []))
        rows.append({
            "max_model_len": report["settings"]["max_model_len"],
            "chosen": "the longest request" if length is None else "by hand",
            "kv_utilization": significant(report["totals"]["kv_utilization"]),
            "kv_reserved_bytes": report["totals"]["kv_reserved_bytes"],
        })
    return rows


def record():
    """Everything, a few minutes on an idle machine of two cores."""
    subprocess.run(["cargo", "build", "--quiet", "--release", "--features", "step3"], cwd=ROOT, check=True)
    load = [significant(os.getloadavg()[0])]
    result = {
        "large": {"model": "the shapes of Qwen3-0.6B, random bf16 weights", "max_num_seqs": 8}
        | {"mixed": large(MIXED, 3), "equal": large(EQUAL, 2)},
    }
    load.append(significant(os.getloadavg()[0]))
    result |= {
        "demo": {"model": "models/demo", "max_num_seqs": 8, "mixed": demo("mixed"), "equal": demo("equal")},
        "steps_by_seed": steps_by_seed(),
        "late_prompt": {"model": "models/demo", "prompt_tokens": 1500, "decoding": 7, "budgets": late_prompt(5)},
        "kv_waste": {"model": "models/demo", "slots": kv_waste()},
    }
    load.append(significant(os.getloadavg()[0]))
    workloads = {"mixed": " ".join(MIXED), "equal": " ".join(EQUAL), "late": " ".join(LATE)}
    return {"load_average": load, "workloads": workloads} | result
