"""What chapter 4 is told by the clock and the counters. `python scripts/record_bench.py step4` calls it, after
`cargo bench --features step4 --bench step4`.

Counters (requests at a time, blocks, tokens computed) are the same on every machine. Times are medians of runs in turns, as in
record_step3.py. Standard library only.
"""

import array
import json
import math
import os
import statistics
import subprocess
import sys

from recording import MIXED, ROOT, TARGET, bench, in_turns, median, middle, significant, stairwell

BLOCK_SIZES = [1, 8, 16, 32, 64]
WAYS = ["contiguous", "paged_1", "paged_8", "paged_16", "paged_32", "paged_2048"]  # groups of benches/step4.rs: decode_…
LARGE = [(1, 128), (1, 1024), (8, 512)]
MANAGER = ["reserve_release", "new_prompt", "append", "lookup", "adopt_release", "fork_write"]
PROMPT = 1000  # tokens, of the manager's prompts

# nano-vllm's bench.py (github.com/GeeeekExplorer/nano-vllm, bb823b3): 256 requests, prompts and outputs of 100 to 1024 tokens,
# max_model_len=4096. The pool holds 8 slots of 4096.
NANO_VLLM = ["--preset", "nano-vllm", "--max-kv-tokens", 32768, "--max-batched-tokens", 2048]
SHARED = ["--num-requests", 32, "--shared-prefix", 1000, "--input-len", "8..32", "--output-len", "16..32"]
CROWD = ["--num-requests", 32, "--max-num-seqs", 16, "--input-len", "64..128", "--output-len", "64..256"]
SMALL_POOL = ["--max-kv-tokens", 1536]
LONG = ["--batch-size", 4, "--input-len", 1900, "--output-len", 64, "--max-batched-tokens", 8192, "--iterations", 1, "--warmup", 0]


def say(text):
    print(f"step4: {text}", file=sys.stderr, flush=True)


def same_outputs(reports):
    """Whatever the memory, the tokens are the same."""
    digests = {report["outputs_sha256"] for report in reports}
    assert len(digests) == 1, "the way K and V are kept changed a token"


def long_context():
    """A model in the demo's shapes with one layer and a longer context. How many requests fit depends on no weight."""
    config = json.loads((ROOT / "models" / "demo" / "config.json").read_text())
    config |= {"max_position_embeddings": 4096, "num_hidden_layers": 1, "layer_types": ["full_attention"]}
    folder = TARGET / "bench" / "one-layer-4096"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return ["--model", folder, "--load-format", "dummy"]


def counters(report):
    """What a run did with its memory."""
    totals, settings = report["totals"], report["settings"]
    blocks = totals["blocks"] or {}
    row = {
        "attention": settings["attention"],
        "max_model_len": settings["max_model_len"],
        "block_size": blocks.get("block_size"),
        "max_num_seqs": settings["max_num_seqs"],
    }
    row |= {key: totals[key] for key in ["steps", "peak_running", "preemptions", "tokens_computed", "cached_tokens"]}
    row |= {key: significant(totals[key]) for key in ["mean_running", "kv_utilization", "kv_unused_tokens_per_request"]}
    return row | {key: blocks.get(key) for key in ["copies", "evictions", "swapped_out", "swapped_in"]}


def concurrency():
    """How many requests of one workload run at a time in the same memory."""
    many = ["--max-num-seqs", 256]
    variants = {
        "contiguous_4096": ["--attention", "contiguous", "--max-model-len", 4096, *many],
        "contiguous_2048": ["--attention", "contiguous", "--max-model-len", 2048, *many],
        "paged": ["--attention", "paged", "--max-model-len", 4096, *many],
        "paged_swap": ["--attention", "paged", "--max-model-len", 4096, "--preemption", "swap", *many],
        "paged_32": ["--attention", "paged", "--max-model-len", 4096, "--max-num-seqs", 32],
    }
    rows, reports, model = [], [], long_context()
    for way, flags in variants.items():
        say(f"concurrency, {way}")
        report = bench(*model, *NANO_VLLM, *flags)
        reports.append(report)
        totals = report["totals"]
        times = {key: significant(totals[key]) for key in ["seconds", "output_tokens_per_second"]}
        rows.append({"way": way} | counters(report) | times)
    same_outputs(reports)
    by_way = {row["way"]: row for row in rows}
    ratio = {
        f"paged_over_{slots}": {key: significant(by_way["paged"][key] / by_way[slots][key]) for key in ["mean_running", "peak_running"]}
        for slots in ["contiguous_4096", "contiguous_2048"]
    }
    totals = reports[0]["totals"]
    return {
        "model": "the demo's shapes with one layer and a context of 4096, random weights",
        "max_kv_tokens": 32768,
        "requests": totals["requests"],
        "prompt_tokens": totals["prompt_tokens"],
        "output_tokens": totals["output_tokens"],
        "rows": rows,
    } | ratio


def indirection():
    """A decode step at the shapes of Qwen3-0.6B: a slot against blocks of 16, in turns. By criterion."""
    rows = []
    for sequences, tokens in LARGE:
        group = f"large_{sequences}x{tokens}"
        rounds = sorted(f.name for f in (TARGET / "criterion" / group / "paged").iterdir() if f.name.isdigit())
        seconds = {way: [median(group, way, r) for r in rounds] for way in ["contiguous", "paged"]}
        ratio = [paged / slot for slot, paged in zip(*seconds.values())]
        row = {"sequences": sequences, "tokens": tokens, "rounds": len(rounds)}
        for way, times in seconds.items():
            middle_one = statistics.median(times)
            row |= {f"{way}_seconds": significant(middle_one), f"{way}_tokens_per_second": significant(sequences / middle_one)}
        rows.append(row | {
            "paged_over_contiguous": significant(statistics.median(ratio)),
            "lowest": significant(min(ratio)),
            "highest": significant(max(ratio)),
        })
    return {"model": "the shapes of Qwen3-0.6B, random bf16 weights", "block_size": 16, "rows": rows}


def decode():
    """A decode step of the demo model over the length, from a slot and from blocks. By criterion."""
    lengths = sorted(int(f.name) for f in (TARGET / "criterion" / "decode_contiguous").iterdir() if f.name.isdigit())
    rows = [{"tokens": n} | {way: significant(median(f"decode_{way}", str(n))) for way in WAYS} for n in lengths]
    return {"model": "models/demo", "rows": rows}


def waste():
    """Step 3's mixed workload: memory that is held and has no token, in slots and in blocks."""
    variants = {"slots": ["--attention", "contiguous"]}
    variants["slots_2048"] = [*variants["slots"], "--max-model-len", 2048]
    variants |= {f"paged_{size}": ["--attention", "paged", "--block-size", size] for size in BLOCK_SIZES}
    reports = {way: bench(*MIXED, *flags) for way, flags in variants.items()}
    same_outputs(reports.values())
    return {"model": "models/demo", "rows": [{"way": way} | counters(report) for way, report in reports.items()]}


def timed(variants, times):
    """Counters of each variant, and medians of its times."""
    reports = in_turns(variants, times)
    same_outputs(r for rs in reports.values() for r in rs)
    return [
        {"way": way, "runs": times} | counters(rs[0]) | {
            "seconds": middle(rs, "totals", "seconds"),
            "ttft_seconds_p50": middle(rs, "latencies", "ttft_seconds", "p50"),
            "output_tokens_per_second": middle(rs, "totals", "output_tokens_per_second"),
            "prompt_tokens": rs[0]["totals"]["prompt_tokens"],
        }
        for way, rs in reports.items()
    ]


def shared_prefix(times):
    """Prompts that begin the same way, with the prefix cache and without it."""
    rows = timed({"cache": SHARED, "no_cache": [*SHARED, "--no-prefix-cache"]}, times)
    with_cache, without = rows
    over = {key: significant(without[key] / with_cache[key]) for key in ["seconds", "ttft_seconds_p50", "tokens_computed"]}
    return {"model": "models/demo", "prefix_tokens": 1000, "rows": rows, "no_cache_over_cache": over}


def preemption(times):
    """A pool that is too small for the requests that are let in, and one that is not."""
    small = [*CROWD, *SMALL_POOL]
    swap = [*small, "--preemption", "swap"]
    rows = timed({
        "enough": CROWD,
        "recompute": small,
        "recompute_no_cache": [*small, "--no-prefix-cache"],
        "swap": swap,
        "swap_no_cache": [*swap, "--no-prefix-cache"],
    }, times)
    return {"model": "models/demo", "max_kv_tokens": SMALL_POOL[1], "rows": rows}


def kv_errors(dtypes):
    """What a narrower dtype of K and V does to the logits of every position of a story, against f32."""
    sampled = ["--prompt", "Once upon a time", "--temperature", 1, "--seed", 4, "--max-tokens", 1000, "--ignore-eos", "--json"]
    ids = json.loads(stairwell("generate", *sampled))["output_ids"]
    file = TARGET / "bench" / "logits.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    logits = {}
    for dtype in dtypes:
        stairwell("logits", "--prompt-ids", ",".join(map(str, ids)), "--kv-dtype", dtype, "--out", file)
        content = file.read_bytes()
        header = int.from_bytes(content[:8], "little")
        entry = json.loads(content[8 : 8 + header])["logits"]
        values = array.array("f", content[8 + header :][slice(*entry["data_offsets"])])
        width = entry["shape"][1]
        logits[dtype] = [values[at : at + width] for at in range(0, len(values), width)]
    exact = logits["f32"]
    result = {}
    for dtype, rows in logits.items():
        distances = [abs(x - y) for row, wanted in zip(rows, exact) for x, y in zip(row, wanted)]
        loss = [surprise(row, token) for row, token in zip(rows, ids[1:])]
        same = sum(row.index(max(row)) == wanted.index(max(wanted)) for row, wanted in zip(rows, exact))
        result[dtype] = {
            "positions": len(rows),
            "logit_error_mean": significant(statistics.fmean(distances)),
            "logit_error_max": significant(max(distances)),
            "same_argmax": same,
            "nats_per_token": significant(statistics.fmean(loss)),
        }
    return result


def surprise(row, token):
    """-ln of the probability of a token, from logits."""
    most = max(row)
    return most - row[token] + math.log(sum(math.exp(x - most) for x in row))


def kv_dtype(times):
    """Bytes of a token in each dtype, and what they do to a decode step far into the sequences."""
    reports = in_turns({dtype: [*LONG, "--kv-dtype", dtype] for dtype in ["f32", "bf16", "fp8-e4m3"]}, times, "latency")
    errors = kv_errors(list(reports))
    rows = [
        {
            "kv_dtype": dtype,
            "runs": times,
            "bytes_per_token": rs[0]["totals"]["kv_bytes_per_token"],
            "tpot_seconds": middle(rs, "latencies", "tpot_seconds", "p50"),
            "decode_tokens_per_second": significant(4 / middle(rs, "latencies", "tpot_seconds", "p50")),
        } | errors[dtype]
        for dtype, rs in reports.items()
    ]
    return {"model": "models/demo", "sequences": 4, "tokens": 1900, "rows": rows}


def manager():
    """Seconds of the block manager's operations, by criterion. `append` is for one token."""
    seconds = {name: median("manager", name) for name in MANAGER}
    seconds["append"] /= PROMPT
    return {"prompt_tokens": PROMPT, "block_size": 16, "blocks": 4096, "seconds": {n: significant(s) for n, s in seconds.items()}}


def record(quick=False):
    """Everything, about three minutes on an idle machine of two cores. `quick`: one run of each, which is not to be quoted."""
    say("builds")
    subprocess.run(["cargo", "build", "--quiet", "--release", "--features", "step4"], cwd=ROOT, check=True)
    load = [significant(os.getloadavg()[0])]
    result = {"indirection": indirection(), "decode": decode(), "manager": manager(), "concurrency": concurrency()}
    load.append(significant(os.getloadavg()[0]))
    say("waste")
    result["waste"] = waste()
    for part in (shared_prefix, preemption, kv_dtype):
        say(part.__name__)
        result[part.__name__] = part(1 if quick else 5)
    load.append(significant(os.getloadavg()[0]))
    flags = {"nano_vllm": NANO_VLLM, "mixed": MIXED, "shared": SHARED, "crowd": CROWD, "small_pool": SMALL_POOL, "long": LONG}
    workloads = {name: " ".join(map(str, part)) for name, part in flags.items()}
    note = {"provisional": "a trial: one run of each, on a machine that had other work"} if quick else {}
    return note | {"load_average": load, "workloads": workloads} | result
