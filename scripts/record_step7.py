"""What chapter 7 is told by the clock and the counters: `python scripts/record_step7.py` writes benches/results/step7.json.

It runs `cargo bench --features step7 --bench step7`, and where Open MPI is installed its all_reduces under mpirun too. Counters (bytes, all_reduces) are
the same on every machine; times are medians, as the bench says. Standard library only.
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from recording import ROOT, machine, significant


def threads(folder):
    """The bench as it is."""
    out = folder / "threads.json"
    command = ["cargo", "bench", "--features", "step7", "--bench", "step7", "--", "--out", out]
    subprocess.run(command, cwd=ROOT, check=True)
    return json.loads(out.read_text())


def mpi(folder):
    """Its all_reduces in processes; nothing without mpirun."""
    if not shutil.which("mpirun"):
        print("no mpirun: sums over MPI are left out")
        return []
    build = ["cargo", "bench", "--features", "full,mpi", "--bench", "step7", "--no-run", "--message-format", "json"]
    messages = subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout.splitlines()
    built = [json.loads(line).get("executable") for line in messages if line.startswith(b"{")]
    program = next(path for path in reversed(built) if path and "/step7-" in path)
    environment = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    rows = []
    for ranks in [2, 4]:
        out = folder / f"mpi{ranks}.json"
        command = ["mpirun", "--oversubscribe", "-n", str(ranks), program, "--mpi", "--out", out]
        subprocess.run(command, cwd=ROOT, check=True, env=environment)
        rows += json.loads(out.read_text())["all_reduce"]
    return rows


def rounded(row):
    """Four digits of what was timed."""
    return {key: significant(value) if isinstance(value, float) else value for key, value in row.items()}


def main():
    with tempfile.TemporaryDirectory() as folder:
        result = threads(Path(folder))
        result["all_reduce"] += mpi(Path(folder))
    result = {key: [rounded(row) for row in rows] for key, rows in result.items()}
    grid = {(row["tp"], row["pp"], row["micro_batches"]): row for row in result["grid"]}
    alone, halves = grid[1, 1, 1], grid[2, 1, 1]
    result["share_at_tp2"] = significant(halves["weight_bytes"] / alone["weight_bytes"])
    stages = [row | {"case": f"{row['micro_batches']} micro-batches"} for row in result["grid"] if (row["tp"], row["pp"]) == (1, 2)]
    result["bubbles"] = stages
    path = ROOT / "benches" / "results" / "step7.json"
    path.write_text(json.dumps({"command": "python scripts/record_step7.py", "machine": machine()} | result, indent=1) + "\n")


if __name__ == "__main__":
    main()
