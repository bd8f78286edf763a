"""What chapter 6 is told by the counters: `python scripts/record_step6.py` writes benches/results/step6.json.

It runs `cargo bench --features step6 --bench kernels`. Counters are the same on every machine; what the compiler made of a kernel decides how many
requests it has, so g++ and clang may differ a little. Standard library only.
"""

import json
import subprocess
import tempfile
from pathlib import Path

from recording import ROOT, machine
from record_step5 import short


def bench():
    """The rows of the bench's table."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.json"
        command = ["cargo", "bench", "--features", "step6", "--bench", "kernels", "--", "--out", path]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return json.loads(path.read_text())


def derived(result):
    """What the chapter and the README show of it."""
    longest = max(row["tokens"] for row in result["prefill"])
    ladder = [row | {"bytes_moved": row["bytes_read"] + row["bytes_written"]} for row in result["prefill"] if row["tokens"] == longest]
    moved = {row["kernel"]: row["bytes_moved"] for row in ladder}
    decodes = [row | {"before": row["tokens"] - 1, "tokens": row["sequences"]} for row in result["rows"]]
    wanted = ("flash_attention_v3", "paged_attention_v4")
    cut_over = [row for row in result["chunks"] + decodes if row["kernel"] in wanted and row["tokens"] <= 16]
    return {
        "ladder": ladder,
        "v0_over_v1": round(moved["flash_attention_v0"] / moved["flash_attention_v1"], 3),
        "v1_over_v2": round(moved["flash_attention_v1"] / moved["flash_attention_v2"], 3),
        "cut_over": sorted(cut_over, key=lambda row: (row["tokens"], row["kernel"])),
    }


def main():
    result = {
        "machine": machine(),
        "command": "python scripts/record_step6.py",
        "bench": "cargo bench --features step6 --bench kernels",
        # Bytes of v0's scores, [heads, tokens, tokens], f32.
        "scores": [{"tokens": tokens, "bytes": 32 * tokens * tokens * 4} for tokens in (1024, 4096, 16384, 131072)],
    }
    for row in bench():
        result.setdefault(row.pop("section"), []).append(short(row))
    result |= derived(result)
    path = ROOT / "benches" / "results" / "step6.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{path.relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
