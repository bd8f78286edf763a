"""What chapter 5 is told by the counters: `python scripts/record_step5.py` writes benches/results/step5.json.

Needs a build: `cargo build --release --features step5`. The ladder of attention is counted by `cargo bench --features step5 --bench step5`, which
it runs. Counters are the same on every machine; what the compiler made of a kernel decides
how many requests it has, so g++ and clang may differ a little. Standard library only.
"""

import json
import subprocess
import tempfile
from pathlib import Path

from recording import ROOT, machine, stairwell

SHAPE = "rows=8,width=1024"
LADDER = ["rms_norm_v0", "rms_norm_v1", "rms_norm_v2"]
ATTENTION = "sequences=4,tokens=512,heads=32,kv_heads=8,head_dim=128,block_size=16"


def profile(kernel, shape):
    """The counters of a kernel: numbers of global memory, of shared memory, and barriers."""
    report = json.loads(stairwell("kernels", "profile", kernel, "--shape", shape, "--json"))
    sites = report["sites"]
    read = report["read"]
    return {
        "kernel": kernel,
        "requests": sum(site["requests"] for site in sites if site["memory"] == "global"),
        "sectors_read": read["sectors"],
        "bytes_read": read["sector_bytes"],
        "times_the_least": round(read["sector_bytes"] / read["least_bytes"], 3),
        "sectors_written": report["written"]["sectors"],
        "shared_requests": sum(site["requests"] for site in sites if site["memory"] == "shared"),
        "bank_conflicts": report["bank_conflicts"],
        "barriers": report["barriers"],
    }


def bench():
    """The rows of the bench's table."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.json"
        command = ["cargo", "bench", "--features", "step5", "--bench", "step5", "--", "--out", path]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return json.loads(path.read_text())


def short(row):
    """A row for a page: the kernel, and the numbers of its shape as columns."""
    numbers = {key: int(value) for key, value in (part.split("=") for part in row.pop("shape").split(","))}
    return {**row, **numbers}


def main():
    fused = [profile(kernel, SHAPE) for kernel in ("add", "rms_norm_v1", "add_rms_norm")]
    result = {
        "machine": machine(),
        "command": "python scripts/record_step5.py",
        "shape": SHAPE,
        "rms_norm": [profile(kernel, SHAPE) for kernel in LADDER],
        "residual": fused,
        "attention_shape": ATTENTION,
        "attention": [profile("paged_attention_v0_bf16", ATTENTION)],
        "matmul_shape": "rows=1,inputs=1024,outputs=1024",
        "matmul_plain": [profile("matmul_v0_bf16", "rows=1,inputs=1024,outputs=1024")],
    }
    for row in bench():
        result.setdefault(row.pop("section"), []).append(short(row))
    path = ROOT / "benches" / "results" / "step5.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{path.relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
