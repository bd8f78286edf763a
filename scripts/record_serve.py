"""What a server costs over the engine alone: `python scripts/record_serve.py` writes benches/results/serve.json.

    python scripts/record_serve.py --quick      # fewer and shorter runs, to try whether it works; the file says so

Two models: the demo, and random weights in the shapes of Qwen3-0.6B. For each of them a server is started once; then, in turns, `bench serve`
sends 64 requests to it that all run at the same time, and `batch` runs the same 64 requests by itself. Every round has prompts of its own,
because a prefix cache would know those of the round before. The CPU time of the server is read from /proc, thread by thread:

- the threads of HTTP (tokio's) and of the detokenizer do nothing but serve;
- the others are the engine's. Their time less that of `batch` is the price of the messages between them, and of the caches that
  the threads take from each other.

The load client's CPU time is its own: it is in its report. The time to the first token of an idle server is compared with that of `generate` for the
same prompts. Linux only; wants an idle machine, and takes about ten minutes on two cores. Standard library only.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import tempfile
from pathlib import Path

from recording import ROOT, TARGET, machine, significant, stairwell

PROGRAM = TARGET / "release" / "stairwell"
STREAMS = 64
CONCURRENCY = [1, 2, 4, 8, 16, 32, 64]
TICK = os.sysconf("SC_CLK_TCK")

QWEN3_06B = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "hidden_act": "silu", "tie_word_embeddings": True, "attention_bias": False, "torch_dtype": "bfloat16",
}  # fmt: skip


def shapes_of_qwen3(folder):
    """The flags of a model without weights. Its tokenizer is the demo's, with a word for each further id, so that every token has a text."""
    tokenizer = json.loads((ROOT / "models" / "demo" / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab |= {f"\u0120word{id}": id for id in range(len(vocab), QWEN3_06B["vocab_size"])}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps(QWEN3_06B))
    return ["--model", folder, "--load-format", "dummy"]


def write_requests(file, seed, n, prompt_tokens, max_tokens):
    """Requests of random ids (of the demo's vocabulary, without its special tokens), all of one length, greedy and to their full length."""
    draw = random.Random(seed)
    rows = [
        {"prompt_ids": [draw.randrange(3, 2048) for _ in range(prompt_tokens)], "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
        for _ in range(n)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


class Server:
    """`stairwell serve`, while the block runs."""

    def __init__(self, *flags):
        command = [PROGRAM, "serve", "--port", "0", "--max-num-seqs", STREAMS, *flags]
        self.process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.url = self.process.stdout.readline().strip()
        if not self.url.startswith("http://"):
            raise SystemExit(f"the server did not start: {' '.join(map(str, command))}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def cpu(self):
        """Seconds of CPU time so far: of the whole process, and of its threads by their work."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        seconds = {"all": cpu_of(tasks.parent / "stat"), "http": 0.0, "detokenizer": 0.0}
        for task in tasks.iterdir():
            name = (task / "comm").read_text().strip()
            part = "http" if name.startswith("tokio") else name
            if part in seconds:
                seconds[part] += int((task / "schedstat").read_text().split()[0]) / 1e9
        return seconds

    def bench(self, file, *flags):
        """One run of the load client: its report, and the server's CPU time meanwhile."""
        before = self.cpu()
        report = json.loads(stairwell("bench", "serve", "--url", self.url, "--dataset", file, "--json", *flags))
        after = self.cpu()
        totals = report["totals"]
        assert totals["failed"] == 0 and totals["output_tokens_counted_by"] == "usage", report["failures"]
        return report, {part: after[part] - before[part] for part in before}


def cpu_of(stat):
    """User and system time, all threads, in seconds: fields 14 and 15, counted after the name, which may have spaces."""
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def batch(file, folder, *flags):
    """One run of `batch`: its report, and the CPU time of the process."""
    command = [PROGRAM, "batch", "--input", file, "--output", folder / "results.jsonl", "--json", "--max-num-seqs", STREAMS, *flags]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    report = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, "batch failed"
    return json.loads(report), usage.ru_utime + usage.ru_stime


def middle(values):
    return significant(statistics.median(values))


def streams(server, folder, flags, shape, rounds):
    """64 requests at a time through the server, and the same by `batch`, in turns."""
    small, file = folder / "small.jsonl", folder / "requests.jsonl"
    write_requests(small, 0, 1, 8, 1)
    runs = []
    for round in range(rounds + 1):
        write_requests(file, 1 + round, STREAMS, *shape)
        # Loading is no work of the engine: what a run of one token takes is taken off.
        _, loading = batch(small, folder, *flags)
        report, cpu = server.bench(file)
        alone, of_batch = batch(file, folder, *flags)
        tokens = report["totals"]["output_tokens"]
        assert tokens == alone["output_tokens"] == STREAMS * shape[1], "both have the same work"
        runs.append((report, cpu, alone, of_batch - loading))
    runs = runs[1:]  # the first round warmed both up
    micro = 1e6 / tokens
    engine = lambda cpu: cpu["all"] - cpu["http"] - cpu["detokenizer"]
    speeds = [report["totals"]["output_tokens_per_second"] for report, *_ in runs]
    speeds_alone = [alone["output_tokens_per_second"] for _, _, alone, _ in runs]
    return {
        "streams": STREAMS, "prompt_tokens": shape[0], "output_tokens": shape[1], "rounds": rounds,
        "output_tokens_per_second": middle(speeds),
        "batch_output_tokens_per_second": middle(speeds_alone),
        "serve_over_batch": middle(mine / other for mine, other in zip(speeds, speeds_alone)),
        "cpu_microseconds_per_token": {
            "server": middle(cpu["all"] * micro for _, cpu, _, _ in runs),
            "batch": middle(other * micro for *_, other in runs),
            "server_less_batch": middle((cpu["all"] - other) * micro for _, cpu, _, other in runs),
            "http": middle(cpu["http"] * micro for _, cpu, _, _ in runs),
            "detokenizer": middle(cpu["detokenizer"] * micro for _, cpu, _, _ in runs),
            "engine_less_batch": middle((engine(cpu) - other) * micro for _, cpu, _, other in runs),
            "client": middle(report["totals"]["client_cpu_seconds"] * micro for report, *_ in runs),
        },
        "latencies": latencies([report for report, *_ in runs]),
    }  # fmt: skip


def latencies(reports):
    """Medians over the runs of each run's percentiles, in seconds."""
    names = ["ttft_seconds", "tpot_seconds", "itl_seconds", "e2e_seconds"]
    spread = lambda name, p: middle(report["latencies"][name][p] for report in reports)
    return {name: {p: spread(name, p) for p in ["mean", "p50", "p90", "p99"]} for name in names}


def first_token(server, folder, flags, prompt_tokens, times):
    """Time to the first token of an idle server and of `generate`, for the same prompts."""
    file = folder / "first.jsonl"
    served, alone = [], []
    for time in range(times):
        [row] = write_requests(file, 1000 + time, 1, prompt_tokens, 2)
        report, _ = server.bench(file)
        served.append(report["latencies"]["ttft_seconds"]["p50"])
        ids = ",".join(map(str, row["prompt_ids"]))
        output = stairwell("generate", "--prompt-ids", ids, "--max-tokens", 2, "--temperature", 0, "--ignore-eos", "--json", *flags)
        alone.append(json.loads(output)["stats"]["time_to_first_token_seconds"])
    return {
        "prompt_tokens": prompt_tokens, "times": times, "serve_seconds": middle(served), "generate_seconds": middle(alone),
        "serve_less_generate_seconds": significant(statistics.median(mine - other for mine, other in zip(served, alone))),
    }  # fmt: skip


def by_concurrency(server, folder, shape, counts):
    """Throughput and latency against the number of requests under way."""
    file, rows = folder / "concurrency.jsonl", []
    for count in counts:
        write_requests(file, 2000 + count, max(2 * count, 16), *shape)
        report, _ = server.bench(file, "--max-concurrency", count)
        totals = report["totals"]
        rows.append({
            "concurrency": count,
            "requests": totals["requests"],
            "output_tokens_per_second": significant(totals["output_tokens_per_second"]),
            "requests_per_second": significant(totals["requests_per_second"]),
        } | latencies([report]))
    return rows


def measure(name, folder, flags, shape, prompt_tokens, counts, rounds, times):
    """Everything about one model."""
    print(f"serve: {name}", flush=True)
    with Server(*flags) as server:
        return {
            "model": name,
            "flags": " ".join("MODEL" if flag == folder else str(flag) for flag in flags),
            "machine": machine(),
            "streams": streams(server, folder, flags, shape, rounds),
            "first_token": first_token(server, folder, flags, prompt_tokens, times),
            "concurrency": by_concurrency(server, folder, shape, counts),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs, which are not to be quoted")
    parser.add_argument("--only", choices=["demo", "qwen3_06b"], help="one model; the other one keeps its last figures")
    parser.add_argument("--no-build", action="store_true", help="take target/release/stairwell as it is")
    parser.add_argument("--out", type=Path, default=ROOT / "benches" / "results" / "serve.json")
    args = parser.parse_args()
    if not args.no_build:
        subprocess.run(["cargo", "build", "--quiet", "--release", "--features", "full"], cwd=ROOT, check=True)
    load, quick = [significant(os.getloadavg()[0])], args.quick
    result = json.loads(args.out.read_text()) if args.only and args.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if args.only != "qwen3_06b":
            shape = (32, 64 if quick else 512)
            result["demo"] = measure("models/demo", folder, [], shape, 64, CONCURRENCY, 2 if quick else 7, 5 if quick else 21)
        if args.only != "demo":
            # Random weights in 64 streams: a step takes a second or so on two cores.
            flags = [*shapes_of_qwen3(folder), "--max-model-len", 1024, "--max-kv-tokens", 16384]
            shape, counts = (16, 4 if quick else 24), [1, 64] if quick else CONCURRENCY
            name = "the shapes of Qwen3-0.6B, random bf16 weights"
            result["qwen3_06b"] = measure(name, folder, flags, shape, 64, counts, 1 if quick else 3, 2 if quick else 5)
    load.append(significant(os.getloadavg()[0]))
    about = {"command": "python scripts/record_serve.py", "load_average": load}
    if quick:
        about["provisional"] = "a trial: short runs, on a machine that may have had other work"
    args.out.write_text(json.dumps(about | {key: result[key] for key in ["demo", "qwen3_06b"] if key in result}, indent=1) + "\n")
    print(args.out)


if __name__ == "__main__":
    main()
