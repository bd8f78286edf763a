#!/usr/bin/env python3
"""Runs the commands behind the README's figures and records them in benches/results/readme.json.

usage: python scripts/record_readme.py [DIR]

DIR is a directory with the config.json of Qwen3-0.6B; without it that figure keeps its last value. Takes some minutes and
wants an idle machine. Standard library only.
"""

import json
import shutil
import subprocess
import sys
import time

from recording import ROOT, machine, significant

OUT = ROOT / "benches" / "results" / "readme.json"
BINARY = ROOT / "target" / "release" / "stairwell"


def run(*command):
    """Runs a command from the repository's root and returns what it prints."""
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def seconds(*command):
    """How long a command takes."""
    start = time.monotonic()
    run(*command)
    return round(time.monotonic() - start)


def stats(*flags):
    """The figures of one `stairwell generate --json`: the median run of three by total time."""
    runs = [json.loads(run(BINARY, "generate", *flags, "--json"))["stats"] for _ in range(3)]
    return sorted(runs, key=lambda s: s["total_seconds"])[1]


def story():
    """A story of 150 tokens from the demo model."""
    s = stats("--prompt", "Once upon a time", "--temperature", "0", "--max-tokens", "150", "--ignore-eos")
    return {"tokens_per_second": significant(s["output_tokens_per_second"]), "memory_bytes": s["peak_memory_bytes"]}


def qwen(directory):
    """A prompt of 128 tokens and 33 more at the shapes of Qwen3-0.6B, with random weights."""
    ids = ",".join(map(str, range(1, 129)))
    flags = ["--temperature", "0", "--ignore-eos", "--max-tokens", "33"]
    s = stats("--model", directory, "--load-format", "dummy", "--prompt-ids", ids, *flags)
    return {
        "prefill_seconds": significant(s["time_to_first_token_seconds"]),
        "decode_tokens_per_second": significant(s["decode_tokens_per_second"]),
        "decode_gigabytes_per_second": significant(s["decode_gigabytes_per_second"]),
        "memory_bytes": s["peak_memory_bytes"],
    }


def main():
    run("cargo", "build", "--release", "--features", "full")
    result = json.loads(OUT.read_text()) if OUT.exists() else {}
    result |= {"machine": machine(), "command": "python scripts/record_readme.py", "story": story()}
    if len(sys.argv) > 1:
        result["qwen3_0_6b"] = qwen(sys.argv[1])
    fresh = ROOT / "target" / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    result["compile_tests_seconds"] = seconds("cargo", "test", "--no-run", "--target-dir", fresh)
    shutil.rmtree(fresh, ignore_errors=True)
    run("cargo", "package", "--no-verify", "--allow-dirty", "--quiet")
    package = max((ROOT / "target" / "package").glob("*.crate"), key=lambda f: f.stat().st_mtime)
    result["package_bytes"] = package.stat().st_size
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(OUT.relative_to(ROOT))


if __name__ == "__main__":
    main()
