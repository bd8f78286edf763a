"""What the scripts that record results share: criterion's medians, runs of the program, and the machine's name. Standard library only."""

import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))

# Chat: most answers are short, one in eight is long.
MIXED = ["--num-requests", "32", "--max-num-seqs", "8", "--input-len", "8..16", "--output-len", "8..16:7,128..160:1"]


def median(*path):
    """Seconds of one benchmark."""
    file = TARGET.joinpath("criterion", *path, "new", "estimates.json")
    if not file.exists():
        sys.exit(f"{file} is missing: run cargo bench first")
    return json.loads(file.read_text())["median"]["point_estimate"] / 1e9


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


def stairwell(*args):
    """Stdout of a command of the release build."""
    command = [TARGET / "release" / "stairwell", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def bench(*flags, what="throughput"):
    """One run's report."""
    return json.loads(stairwell("bench", what, "--json", *flags))


def middle(reports, *path):
    """The median of one number over reports."""

    def number(report):
        for key in path:
            report = report[key]
        return report

    return significant(statistics.median(number(r) for r in reports))


def in_turns(variants, times, what="throughput"):
    """Reports of each variant (a name and its flags), run in turns."""
    reports = {name: [] for name in variants}
    for _ in range(times):
        for name, flags in variants.items():
            reports[name].append(bench(*flags, what=what))
    return reports
