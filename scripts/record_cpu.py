"""What the CPU reaches of its roofline: `python scripts/record_cpu.py` writes benches/results/cpu_linear.json and cpu_attention.json.

It runs `cargo bench --features step4,gemm --bench cpu_linear` and `… --bench cpu_attention`, some minutes in all. Standard library only.
"""

import json
import subprocess

from recording import ROOT, TARGET, machine, significant

BENCHES = ["cpu_linear", "cpu_attention"]


def rounded(row):
    """Four digits of what was timed."""
    return {key: significant(value) if isinstance(value, float) else value for key, value in row.items()}


def record(name):
    """One bench: its limits, and its rows."""
    subprocess.run(["cargo", "bench", "--features", "step4,gemm", "--bench", name], cwd=ROOT, check=True)
    found = json.loads((TARGET / f"{name}.json").read_text())
    return {"roofline": rounded(found["roofline"]), "rows": [rounded(row) for row in found["rows"]]}


def main():
    for name in BENCHES:
        result = {"command": "python scripts/record_cpu.py", "machine": machine()} | record(name)
        path = ROOT / "benches" / "results" / f"{name}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
