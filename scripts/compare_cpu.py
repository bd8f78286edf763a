#!/usr/bin/env python3
"""Compares stairwell with transformers, llama.cpp and candle on this machine's CPU: `python scripts/compare_cpu.py FOLDER` writes
benches/results/cpu.json where the CPU has AMX, and cpu_avx512.json beside it where it has not.

FOLDER (some 10 GB) gets what is not there yet: a virtual environment `venv` with scripts/peers/requirements.txt, in which llama.cpp is built for this CPU;
llama.cpp once more for AVX-512 and for AVX2 alone, in `llama-avx512` and `llama-avx2`; candle, in `candle`; and a checkpoint `models/qwen3-0.6b` with random
weights, also as GGUF. All measure in bf16, with two threads, each in a process of its own. They take turns, round by round, so that a machine that slows down
slows all of them; a figure is the median over rounds (of one, for what takes minutes: see `wanted`). The machine's limits are measured before, in the middle and after.

It wants an idle machine and Linux (/proc), and Python 3.11. Each round takes some minutes.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from recording import ROOT, TARGET, machine, significant

PEERS = Path(__file__).resolve().parent / "peers"
# Each by its sequences, tokens of a prompt, tokens after the first.
CASES = {"short": (1, 128, 64), "batch": (8, 128, 64), "long": (1, 512, 0), "very_long": (1, 4096, 0), "start": (1, 16, 0), "memory": (1, 128, 64)}
# What a case tells: the name of a figure, and how it follows from (sequences, prompt, seconds of the prompt, seconds of a step).
FIGURES = {
    "short": {"prefill_128": lambda n, p, first, step: n * p / first, "decode_1": lambda n, p, first, step: n / step},
    "batch": {"decode_8": lambda n, p, first, step: n / step},
    "long": {"prefill_512": lambda n, p, first, step: n * p / first},
    "very_long": {"prefill_4096": lambda n, p, first, step: n * p / first},
}
SPEEDS = ["prefill_128", "prefill_512", "prefill_4096", "decode_1", "decode_8"]
PROMPTS = (128, 512, 4096)
WORDS = {"prefill_128": "a prompt of 128", "prefill_512": "of 512", "prefill_4096": "of 4,096", "decode_1": "decode, 1 request", "decode_8": "decode, 8 requests"}
# Rows of the table: what is run, and the instruction set that is forced.
VARIANTS = {
    "stairwell": None, "stairwell, avx512bf16": "avx512bf16", "stairwell, avx512": "avx512", "stairwell, avx2": "avx2", "stairwell, portable": "portable",
    "transformers": None, "llama.cpp": None, "llama.cpp, avx512": "avx512", "llama.cpp, avx2": "avx2", "candle": None,
}  # fmt: skip
# What llama.cpp is built for, to be compared with a forced instruction set under the same limit.
X86 = "-DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON"
LIMITED = {"avx512": f"-DGGML_NATIVE=OFF {X86} -DGGML_AVX512=ON", "avx2": f"-DGGML_NATIVE=OFF {X86} -DGGML_AVX512=OFF"}
# A build of an earlier commit.
BEFORE = "stairwell, before"
# What forces an instruction set, from the least on, and the limit that the roofline has for it.
LADDER = [("portable", "stairwell, portable"), ("avx2", "stairwell, avx2"), ("avx512", "stairwell, avx512"), ("avx512bf16", "stairwell, avx512bf16"), ("amx", "stairwell")]
# Of Qwen3-0.6B: weights that multiply each row of a pass, and those of lm_head, which multiply the last one.
LAYERS, HEAD = 440_401_920, 155_582_464


class Missing(Exception):
    """Why a peer has no figures."""


def watched(command, environment, timeout, sample):
    """Output of a process, seconds until its first byte, and its largest resident and private memory if `sample`."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=ROOT)
    ender = threading.Timer(timeout, process.kill)
    ender.start()
    errors, memory = [], {"resident_bytes": 0, "private_bytes": 0}
    threads = [threading.Thread(target=lambda: errors.append(process.stderr.read()))]
    if sample:
        threads.append(threading.Thread(target=watch_memory, args=(process, memory)))
    for thread in threads:
        thread.start()
    output = process.stdout.read(1)
    seconds = time.perf_counter() - start
    output += process.stdout.read()
    code = process.wait()
    ender.cancel()
    for thread in threads:
        thread.join()
    if code != 0:
        lines = errors[0].decode(errors="replace").strip().splitlines()
        raise Missing(f"ended by signal {-code}" if code < 0 else lines[-1] if lines else f"exit code {code}")
    return output.decode(), seconds, memory


def watch_memory(process, memory):
    """Keeps the largest figures of /proc: VmHWM is the peak of all that is resident, RssAnon what no file backs, now."""
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            return
        for key, field in [("resident_bytes", "VmHWM"), ("private_bytes", "RssAnon")]:
            if found := re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE):
                memory[key] = max(memory[key], 1024 * int(found[1]))
        time.sleep(0.01)


class Run:
    """Everything that is measured, and where it is kept."""

    def __init__(self, args):
        self.args = args
        self.python = args.folder / "venv" / "bin" / "python"
        name = "qwen3-0.6b-tiny" if args.tiny else "qwen3-0.6b"
        self.model, self.gguf = args.folder / "models" / name, args.folder / "models" / f"{name}-bf16.gguf"
        self.binary = TARGET / "release" / "stairwell"
        threads = str(args.threads)
        self.environment = os.environ | {"OMP_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.environment.pop("STAIRWELL_ISA", None)
        self.samples = {name: {} for name in VARIANTS}
        self.binaries = {}
        if args.before:
            self.samples[BEFORE], self.binaries[BEFORE] = {}, args.before.resolve()
        self.versions, self.absent, self.limits = {}, {}, []

    def stairwell(self, name, case):
        """Seconds of a prompt and of a step; or until the first token of a process."""
        sequences, prompt, tokens = CASES[case]
        environment = self.environment | ({"STAIRWELL_ISA": VARIANTS[name]} if VARIANTS.get(name) else {})
        if case == "start":
            ids = ",".join(str(13 + 7 * i) for i in range(prompt))
            flags = ["generate", "--model", self.model, "--prompt-ids", ids, "--max-tokens", 1, "--temperature", 0, "--ignore-eos"]
        else:
            flags = ["bench", "latency", "--json", "--model", self.model, "--batch-size", sequences, "--input-len", prompt, "--output-len", tokens + 1]
            flags += ["--iterations", 1, "--max-batched-tokens", 1024]
        flags += ["--device", "cpu"]
        output, seconds, memory = watched([self.binaries.get(name, self.binary), *map(str, flags)], environment, self.args.timeout, case == "memory")
        if case == "start":
            return {"first_token_seconds": seconds}
        report = json.loads(output)
        self.versions.setdefault(name, f"stairwell {report['version']}, {report['settings']['isa']}")
        memory["kv_bytes"] = report["totals"]["kv_reserved_bytes"]
        times = report["latencies"]
        return speeds(case, times["ttft_seconds"]["max"], times["tpot_seconds"]["p50"] if tokens else None) | (memory if case == "memory" else {})

    def peer(self, name, case):
        """The same of a driver in scripts/peers."""
        sequences, prompt, tokens = CASES[case]
        limit = VARIANTS[name]
        driver, model = ("llama_cpp_bf16.py", self.gguf) if name.startswith("llama.cpp") else (f"{name}_bf16.py", self.model)
        program = [self.args.folder / "candle" / "release" / "candle-driver"] if name == "candle" else [self.python, PEERS / driver]
        environment = self.environment | ({"PYTHONPATH": str(self.args.folder / f"llama-{limit}")} if limit else {})
        flags = ["--sequences", sequences, "--prompt", prompt, "--tokens", tokens, "--threads", self.args.threads]
        flags += ["--first"] if case == "start" else []
        command = [*program, model, *map(str, flags)]
        output, seconds, memory = watched(command, environment, self.args.timeout, case == "memory")
        report = json.loads(output.strip().splitlines()[-1])
        self.versions.setdefault(name, report["version"])
        if case == "start":
            return {"first_token_seconds": seconds}
        return speeds(case, report["prefill_seconds"], report["step_seconds"]) | (memory if case == "memory" else {})

    def round(self, number):
        """Every case of every variant, once. Who begins changes from round to round."""
        names = [name for name in self.samples if not self.args.only or any(part in name for part in self.args.only)]
        for case in self.args.cases or CASES:
            if case == "memory" and number > 0:
                continue
            for name in names[number % len(names) :] + names[: number % len(names)]:
                if name not in self.absent and wanted(name, case, number) and not self.by_default(name):
                    self.measure(name, case)

    def by_default(self, name):
        """Whether this row would force what the CPU takes anyway."""
        isa = VARIANTS.get(name)
        return name.startswith("stairwell,") and isa is not None and self.versions.get("stairwell", "").endswith(f", {isa}")

    def measure(self, name, case):
        try:
            found = (self.stairwell if name.startswith("stairwell") else self.peer)(name, case)
        except (Missing, OSError, KeyError, ValueError, IndexError) as e:
            print(f"{case}: {name}: {type(e).__name__}: {e}", file=sys.stderr)
            if not any(self.samples[name].values()):
                self.absent[name] = str(e)
            return
        for key, value in found.items():
            self.samples[name].setdefault(key, []).append(value)
        print(f"{case}: {name}: " + ", ".join(f"{key} {significant(value)}" for key, value in found.items()), file=sys.stderr, flush=True)

    def measure_limits(self):
        """The bench's roofline, measured now; with --no-build by a bench that was built before, if there is one."""
        if not self.args.no_build:
            command = ["cargo", "bench", "--quiet", "--features", "full", "--bench", "cpu_linear", "--", "roofline"]
        else:
            built = [path for path in TARGET.glob("release/deps/cpu_linear-*") if not path.suffix]
            if not built:
                return print("no bench cpu_linear is built: the machine's limits are left out", file=sys.stderr)
            command = [max(built, key=lambda path: path.stat().st_mtime), "roofline", "--bench"]
        environment = self.environment | {"CARGO_TARGET_DIR": str(TARGET)}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=self.args.timeout)
        self.limits.append(json.loads((TARGET / "cpu_linear.json").read_text())["roofline"])
        print(f"limits: {self.limits[-1]}", file=sys.stderr, flush=True)


def wanted(name, case, round_number):
    """What takes many minutes for no news is left out: long runs of what is forced to less than the CPU has, and more than one of the slowest."""
    if name == "stairwell, portable":
        return case == "short" and round_number == 0
    if VARIANTS.get(name) and name.startswith("llama.cpp"):
        return case in ("short", "long")
    if case == "very_long" and round_number > 0:
        return False
    if name == "candle":
        return case in ("short", "batch", "start") and (case == "start" or round_number == 0)
    return VARIANTS.get(name) is None or case in ("short", "long", "start")


def speeds(case, first, step):
    """Tokens a second."""
    sequences, prompt, _ = CASES[case]
    return {key: of(sequences, prompt, first, step) for key, of in FIGURES.get(case, {}).items()}


def prepare(run):
    """Makes what is missing, in the order in which it is needed."""
    if not run.args.no_build:
        subprocess.run(["cargo", "build", "--release", "--features", "full"], cwd=ROOT, check=True)
    if not run.python.exists():
        subprocess.run([sys.executable, "-m", "venv", run.args.folder / "venv"], check=True)
        # GGML_NATIVE: for this CPU and nothing less.
        install(run, "-DGGML_NATIVE=ON", "-r", PEERS / "requirements.txt")
    for limit, flags in LIMITED.items():
        if not (run.args.folder / f"llama-{limit}").exists():
            llama = next(line for line in (PEERS / "requirements.txt").read_text().splitlines() if line.startswith("llama-cpp-python"))
            install(run, flags, "--no-deps", "--target", run.args.folder / f"llama-{limit}", llama)
    if not (run.args.folder / "candle" / "release").exists():
        build_candle(run)
    models = [run.python, PEERS / "checkpoint.py", run.args.folder / "models"] + (["--tiny"] if run.args.tiny else [])
    subprocess.run(models, check=True)


def build_candle(run):
    """For this CPU, as its authors advise."""
    environment = os.environ | {"RUSTFLAGS": "-C target-cpu=native", "CARGO_TARGET_DIR": str(run.args.folder / "candle")}
    if subprocess.run(["cargo", "build", "--quiet", "--release"], cwd=PEERS / "candle", env=environment).returncode != 0:
        print("candle was not built; it is left out", file=sys.stderr)


def install(run, flags, *what):
    """By pip, with llama.cpp built by these flags, and without dead-store elimination: gcc 12 drops part of what AMX's ldtilecfg reads."""
    environment = {"CMAKE_ARGS": f"{flags} -DLLAVA_BUILD=OFF", "CXXFLAGS": "-fno-tree-dse -fno-dse"}
    command = [run.python, "-m", "pip", "install", "--quiet", "--no-binary", "llama-cpp-python", *what]
    if subprocess.run(command, env=os.environ | environment).returncode != 0:
        print("not every peer was installed; those that are missing are left out", file=sys.stderr)


def summary(run):
    """What is recorded."""
    rows = [row(name, run.samples[name]) for name in VARIANTS]
    found = {row["peer"]: row for row in rows}
    keys = run.limits[0] if run.limits else {}
    roofline = {key: significant(statistics.median(each[key] for each in run.limits)) for key in keys}
    result = {"command": "python scripts/compare_cpu.py FOLDER", "machine": machine(), "threads": run.args.threads, "rounds": run.args.rounds}
    result |= {"model": run.model.name, "weight_bytes": weight_bytes(run), "kv_bytes": int(found["stairwell"].pop("kv_bytes") or 0)}
    measured = [row for row in rows if any(row[key] for key in [*SPEEDS, "first_token_seconds"])]
    result |= {"versions": run.versions, "absent": run.absent, "roofline": roofline, "peers": measured}
    result["ratios"] = [ratio(under_the_limit_of(row["peer"], found), row) for row in measured if row["peer"] != "stairwell"]
    result["derived"] = derived(result, found)
    result["targets"] = targets(result, found)
    result["ladder"] = ladder(run, found, result["roofline"])
    before = row(BEFORE, run.samples.get(BEFORE, {}))
    result["before"] = [{"what": WORDS[key], "times": over(found["stairwell"][key], before[key])} for key in SPEEDS if before[key]]
    result["spread"] = [{"peer": name} | {key: spread(run.samples[name].get(key)) for key in SPEEDS} for name in (row["peer"] for row in measured)]
    return result


def weight_bytes(run):
    """Bytes of the checkpoint."""
    return sum(file.stat().st_size for file in run.model.glob("*.safetensors"))


def row(name, samples):
    """Medians; null where nothing was measured."""
    keys = [*SPEEDS, "first_token_seconds", "resident_bytes", "private_bytes"] + (["kv_bytes"] if name == "stairwell" else [])
    found = {key: significant(statistics.median(samples[key])) if samples.get(key) else None for key in keys}
    megabytes = {f"{key}_megabytes": over(found[f"{key}_bytes"], 1e6) for key in ("resident", "private")}
    return {"peer": name} | found | megabytes


def spread(samples):
    """The largest over the smallest: how far to trust a median."""
    return round(max(samples) / min(samples), 3) if samples else None


def over(a, b):
    """a / b, where both were measured."""
    return significant(a / b) if a and b else None


def under_the_limit_of(peer, found):
    """The row of stairwell that a row compares with: forced to what the peer was built for, or the default."""
    forced = found.get(f"stairwell, {VARIANTS[peer]}") if peer.startswith("llama.cpp,") else None
    return forced if forced and forced["prefill_128"] else found["stairwell"]


def ratio(ours, theirs):
    """Times stairwell's speed; memory and the start as parts of theirs."""
    keys = [*SPEEDS, "first_token_seconds", "resident_bytes", "private_bytes"]
    return {"over": theirs["peer"]} | {key: over(ours[key], theirs[key]) for key in keys}


def derived(result, found):
    """What follows from the machine's limits."""
    ours, limits = found["stairwell"], result["roofline"]
    read, amx = limits.get("read_gigabytes_per_second"), limits.get("amx_gflops")
    floor = over(read and 1e9 * read, 2 * (LAYERS + HEAD))
    found_here = {
        "layer_weights": LAYERS, "head_weights": HEAD, "step_gigabytes": significant(2e-9 * (LAYERS + HEAD)), "floor_tokens_per_second": floor,
        "floor_seconds": over(1, floor), "decode_1_of_floor": over(ours["decode_1"], floor), "decode_8_over_1": over(ours["decode_8"], ours["decode_1"]),
        "ridge_rows_amx": over(amx, read), "ridge_rows_avx512": over(limits.get("avx512_gflops"), read), "ridge_rows_avx512bf16": over(limits.get("avx512bf16_gflops"), read),
        "memory_over_weights_and_kv": over(ours["resident_bytes"], result["weight_bytes"] + result["kv_bytes"]),
    }  # fmt: skip
    for tokens in PROMPTS:
        gigaflops = 2e-9 * (LAYERS * tokens + HEAD)
        speed = ours[f"prefill_{tokens}"] and gigaflops * ours[f"prefill_{tokens}"] / tokens
        found_here |= {f"prefill_{tokens}_gflop": significant(gigaflops), f"prefill_{tokens}_of_amx": over(speed, amx)}
        # Of the peak, even with perfect code: the weights must be read meanwhile.
        found_here[f"prefill_{tokens}_roof_of_amx"] = amx and over(gigaflops / least_seconds(limits, "amx", tokens), amx)
        found_here[f"prefill_{tokens}_of_peak"] = over(speed, limits.get(f"{best(limits)}_gflops"))
    found_here["peak"] = best(limits)
    return found_here


def best(limits):
    """The instruction set that multiplies fastest, of those that were measured."""
    return max((isa for isa, _ in LADDER if f"{isa}_gflops" in limits), key=lambda isa: limits[f"{isa}_gflops"], default=None)


def least_seconds(limits, isa, rows):
    """The roofline's time of a pass: the longer of reading all weights once and multiplying with them."""
    gigaflops = 2e-9 * (LAYERS * rows + HEAD)
    return max(2e-9 * (LAYERS + HEAD) / limits["read_gigabytes_per_second"], gigaflops / limits[f"{isa}_gflops"])


def ladder(run, found, limits):
    """Each instruction set over the one before it: by the roofline, and measured."""
    named = [(isa, "stairwell" if run.by_default(f"stairwell, {isa}") else name) for isa, name in LADDER]
    here = [(isa, name) for isa, name in named if f"{isa}_gflops" in limits and (isa != "amx" or run.versions.get(name, "").endswith("amx"))]
    rows = []
    for (below, below_name), (isa, name) in zip(here, here[1:]):
        predicted = {rows: significant(least_seconds(limits, below, rows) / least_seconds(limits, isa, rows)) for rows in (1, 128)}
        rows.append({
            "variant": f"{isa} over {below}", "predicted_prefill": predicted[128], "prefill": over(found[name]["prefill_128"], found[below_name]["prefill_128"]),
            "predicted_decode": predicted[1], "decode": over(found[name]["decode_1"], found[below_name]["decode_1"]),
        })  # fmt: skip
    return rows


def targets(result, found):
    """What was aimed at, and what came."""
    of, torch = result["derived"], found["transformers"]

    def behind(isa):
        """The smallest of a variant's ratios to llama.cpp under the same limit."""
        theirs = found[f"llama.cpp, {isa}"]
        ratios = [over(under_the_limit_of(theirs["peer"], found)[key], theirs[key]) for key in SPEEDS]
        return min((r for r in ratios if r), default=None)

    wanted = [
        ("decode, 1 request: of the floor that reading sets", 0.9, of["decode_1_of_floor"]),
        ("decode, 8 requests: times 1 request", 7, of["decode_8_over_1"]),
        ("a prompt of 128: times torch", 2.5, over(found["stairwell"]["prefill_128"], torch["prefill_128"])),
        ("a prompt of 512: times torch", 2.5, over(found["stairwell"]["prefill_512"], torch["prefill_512"])),
        ("a prompt of 4,096: times torch", 2, over(found["stairwell"]["prefill_4096"], torch["prefill_4096"])),
        (f"a prompt of 128: of the peak of {of['peak']}", 0.45, of["prefill_128_of_peak"]),
        (f"a prompt of 512: of the peak of {of['peak']}", 0.45, of["prefill_512_of_peak"]),
        ("forced to avx512: times llama.cpp, in its worst case", 1, behind("avx512")),
        ("forced to avx2: times llama.cpp, in its worst case", 1, behind("avx2")),
        ("memory at its peak, of weights and K and V: at most", 1.1, of["memory_over_weights_and_kv"]),
    ]
    rows = []
    for name, target, measured in wanted:
        held = measured is not None and (measured <= target if name.endswith("at most") else measured >= target)
        rows.append({"name": name, "target": target, "measured": measured, "held": held, "verdict": "held" if held else "**missed**" if measured else "not measured"})
    return rows


def table(result):
    """For the terminal."""
    heads = ["peer", *SPEEDS, "first_token_seconds", "resident_bytes", "private_bytes"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in result["peers"]:
        print("| " + " | ".join("–" if row[key] is None else str(row[key]) for key in heads) + " |")
    print("\n| target | | measured | |\n|---|---|---|---|")
    for each in result["targets"]:
        print(f"| {each['name']} | {each['target']} | {each['measured']} | {each['verdict']} |")
    for name, why in result["absent"].items():
        print(f"absent: {name}: {why}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=900, help="seconds that one measurement may take")
    parser.add_argument("--only", action="append", metavar="PART", help="only rows whose name has this in it; may be given several times")
    parser.add_argument("--cases", nargs="+", choices=CASES, help="only these")
    parser.add_argument("--before", type=Path, metavar="BINARY", help="a build of an earlier commit, to compare with")
    parser.add_argument("--no-build", action="store_true", help="take the release build that is there")
    parser.add_argument("--quick", action="store_true", help="one round, shorter, to see whether it works")
    parser.add_argument("--tiny", action="store_true", help="a checkpoint of a few kilobytes, for the same")
    parser.add_argument("--out", type=Path, help="where to write instead")
    args = parser.parse_args()
    args.folder = args.folder.resolve()
    if args.quick:
        args.rounds = 1
        CASES.update({"short": (1, 128, 8), "batch": (8, 128, 8), "very_long": (1, 1024 if args.tiny else 4096, 0), "memory": (1, 128, 8)})
    run = Run(args)
    prepare(run)
    run.measure_limits()
    for number in range(args.rounds):
        if number == (args.rounds + 1) // 2:
            run.measure_limits()
        run.round(number)
    run.measure_limits()
    result = summary(run)
    table(result)
    name = "cpu.json" if "amx_gflops" in result["roofline"] else "cpu_avx512.json"
    out = args.out or ROOT / "benches" / "results" / name
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
