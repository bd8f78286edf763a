#!/usr/bin/env python3
"""Collects what `cargo bench --bench NAME` measured into benches/results/NAME.json, the file that the book reads.

usage: python scripts/record_bench.py step1

Medians, in seconds, from criterion's target/criterion/*/*/new/estimates.json. Standard library only.
"""

import json
import os
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PARTS = ["embedding", "norms", "linear", "attention", "head"]


def median(*path):
    """Seconds of one benchmark."""
    file = TARGET.joinpath("criterion", *path, "new", "estimates.json")
    if not file.exists():
        sys.exit(f"{file} is missing: run cargo bench first")
    return json.loads(file.read_text())["median"]["point_estimate"] / 1e9


def lengths(group):
    """The lengths that a group was measured for."""
    folders = TARGET.joinpath("criterion", group).iterdir()
    return sorted(int(f.name) for f in folders if f.name.isdigit())


def machine():
    """The processor and its number of cores."""
    try:
        model = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"


def significant(x):
    """Four digits are more than the measurement is worth."""
    return float(f"{x:.4g}")


def step1():
    """One forward pass over n tokens, and its parts."""
    recompute = [{"tokens": n, "seconds_per_token": significant(median("recompute", str(n)))} for n in lengths("recompute")]
    parts = [
        {"tokens": n} | {part: significant(median(f"parts_{part}_{n}")) for part in PARTS} for n in lengths("recompute")
    ]
    return {"model": "models/demo", "recompute": recompute, "parts": parts}


def step3():
    """Batching policies: scripts/record_step3.py."""
    import record_step3

    return record_step3.record()


def main():
    benches = {"step1": step1, "step3": step3}
    if len(sys.argv) != 2 or sys.argv[1] not in benches:
        sys.exit(f"usage: python scripts/record_bench.py {{{','.join(benches)}}}")
    name = sys.argv[1]
    result = {"machine": machine(), "command": f"cargo bench --bench {name}"} | benches[name]()
    out = ROOT / "benches" / "results" / f"{name}.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(out.relative_to(ROOT))


if __name__ == "__main__":
    main()
