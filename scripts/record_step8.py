"""What chapter 8 is told by the clock: `python scripts/record_step8.py` writes benches/results/step8.json.

    cargo bench --features step8 --bench step8         # first: what the parts cost
    python scripts/record_step8.py                     # about five minutes
    python scripts/record_step8.py --quick             # fewer requests, to try whether it works; the file says so

It builds the program, lets 64 people come to `generate` and to `serve`, and asks a server by `stairwell bench serve` at growing concurrency. The machine must
have nothing else to do. Standard library only.
"""

import argparse
import json
import resource
import signal
import statistics
import subprocess
import threading
import time

from recording import ROOT, TARGET, machine, median, significant

PROGRAM = TARGET / "release" / "stairwell"
PEOPLE, STORY = 64, 64
PROMPT = "Once upon a time"
CONCURRENCY = [1, 2, 4, 8, 16, 32, 64, 128]
# Tokens of a random prompt and of its output.
INPUT, OUTPUT = "16..32", 64


def generate():
    """One person's story from a process of its own."""
    command = [PROGRAM, "generate", "--prompt", PROMPT, "--max-tokens", STORY, "--temperature", "0", "--ignore-eos"]
    return subprocess.run([str(word) for word in command], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def row(way, waits, seconds, megabytes):
    """When the people had their stories, counted from the moment when all of them came."""
    return {
        "way": way,
        "median_wait": significant(statistics.median(waits)),
        "last_wait": significant(max(waits)),
        "tokens_per_second": significant(len(waits) * STORY / seconds),
        "megabytes": significant(megabytes),
    }


def one_after_another(people):
    """One program, which each person starts when the one before has their story."""
    start, waits = time.perf_counter(), []
    for _ in range(people):
        generate()
        waits.append(time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    return row("generate, one after another", waits, waits[-1], memory), memory


def all_at_once(people, memory):
    """A process for each person, all of them at the same time."""
    start, waits = time.perf_counter(), []

    def person():
        generate()
        waits.append(time.perf_counter() - start)

    threads = [threading.Thread(target=person) for _ in range(people)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    # Each process has its own weights in the program, K and V and buffers; what the system shares of them is counted for each.
    return row("generate, all at once", waits, max(waits), people * memory)


class Server:
    """`stairwell serve` of the demo model, on a free port."""

    def __init__(self, *flags):
        command = [PROGRAM, "serve", "--port", "0", *flags]
        self.process = subprocess.Popen([str(word) for word in command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://"), "the server has not begun"

    def megabytes(self):
        """The most memory that it had."""
        lines = open(f"/proc/{self.process.pid}/status").read().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3

    def cpu_seconds(self):
        """CPU time of all its threads so far."""
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def bench(self, requests, concurrency, output):
        """One run of the load client, and the server's CPU time in it."""
        before = self.cpu_seconds()
        command = [
            PROGRAM, "bench", "serve", "--url", self.url, "--num-prompts", requests, "--max-concurrency", concurrency,
            "--random-input-len", INPUT, "--random-output-len", output, "--ignore-eos", "--json",
        ]  # fmt: skip
        run = subprocess.run([str(word) for word in command], cwd=ROOT, check=True, capture_output=True, text=True)
        report = json.loads(run.stdout)
        assert report["totals"]["failed"] == 0, report["failures"]
        return report, self.cpu_seconds() - before

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0, "the server did not end well"


def served(people):
    """All people at one server."""
    server = Server("--max-num-seqs", people)
    server.bench(people, people, 8)  # its threads and buffers are there
    report, _ = server.bench(people, people, STORY)
    waits = [request["e2e_seconds"] for request in report["requests"]]
    result = row("serve", waits, report["totals"]["seconds"], server.megabytes())
    server.stop()
    return result


def concurrency(quick):
    """A server at growing concurrency."""
    rows = []
    server = Server("--max-num-seqs", 64)
    server.bench(32, 32, 8)
    for n in CONCURRENCY[:: 3 if quick else 1]:
        report, cpu = server.bench(max(n, 8) if quick else max(4 * n, 32), n, OUTPUT)
        totals, latencies = report["totals"], report["latencies"]
        spread = lambda name, p: significant(latencies[name][p] * 1e3)
        rows.append({
            "concurrency": n,
            "output_tokens_per_second": significant(totals["output_tokens_per_second"]),
            "ttft_ms_p50": spread("ttft_seconds", "p50"),
            "ttft_ms_p99": spread("ttft_seconds", "p99"),
            # Not the median of itl: two chunks may come in one read, and then it is 0.
            "tpot_ms_p50": spread("tpot_seconds", "p50"),
            "itl_ms_p99": spread("itl_seconds", "p99"),
            "e2e_ms_p50": spread("e2e_seconds", "p50"),
            "server_cpu_us_per_token": significant(cpu * 1e6 / totals["output_tokens"]),
        })
    server.stop()
    return rows


def parts():
    """Microseconds of criterion's medians; of `parts`, for each of 4,096 tokens."""
    tokens = 64 * 64
    of_parts = [{"part": name, "us_per_token": significant(median("parts", name) * 1e6 / tokens)} for name in ("events", "outbox", "detokenizer")]
    ways = ("engine", "components", "http", "http-stream")
    return {"parts": of_parts, "request": [{"way": way, "ms": significant(median("request", way) * 1e3)} for way in ways]}


def main():
    parser = argparse.ArgumentParser(description="Record chapter 8's figures.")
    parser.add_argument("--quick", action="store_true", help="fewer requests; the file says so")
    quick = parser.parse_args().quick
    subprocess.run(["cargo", "build", "--release", "--features", "full"], cwd=ROOT, check=True)
    people = 8 if quick else PEOPLE
    first, memory = one_after_another(people)
    result = {
        "command": "python scripts/record_step8.py" + (" --quick" if quick else ""),
        "machine": machine(),
        "people": people,
        "story_tokens": STORY,
        "ways": [first, all_at_once(people, memory), served(people)],
        "concurrency": concurrency(quick),
    } | parts()
    path = ROOT / "benches" / "results" / "step8.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
