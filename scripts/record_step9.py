"""What chapter 9 says of quality: `python scripts/record_step9.py` writes benches/results/step9.json.

    cargo build --release --features step9       # first
    python scripts/record_step9.py               # a few minutes

It packs the demo model by every method of `stairwell quantize` and records, for each, the bytes of the layers' matrices, the error of each matrix's products on the inputs of
the calibration text, how likely the model finds a text that it has not seen, and the story that it tells. The kernels' counters are those of
`kernels profile`. Nothing here is a time, so the machine may be busy. Standard library only.
"""

import json
import math
import struct
import subprocess
import tempfile
from pathlib import Path

from recording import ROOT, TARGET, machine, significant

CHAPTER = ROOT / "steps" / "step9-quantized"
CALIBRATION, UNSEEN = CHAPTER / "calibration.txt", CHAPTER / "unseen.txt"
PROMPT, STORY = "Once upon a time", 40
PROGRAM = TARGET / "release" / "stairwell"
END = "<|endoftext|>"
# "rounded" and "GPTQ" differ in the algorithm only: the text measures both.
GPTQ = ["--method", "gptq", "--asymmetric", "--calibration", CALIBRATION, "--calibration-tokens", "16384"]
G32, G128 = [*GPTQ, "--group-size", "32"], [*GPTQ, "--group-size", "128"]
METHODS = [
    ("fp8", ["--method", "fp8"]),
    ("int8", ["--method", "int8"]),
    ("4 bits, rounded, groups of 128", [*G128, "--round"]),
    ("4 bits, GPTQ, groups of 128", G128),
    *[(f"{bits} bits, {how}", [*G32, "--bits", str(bits), *flags]) for bits in (4, 3, 2) for how, flags in (("rounded", ["--round"]), ("GPTQ", []))],
]
# The calibration text in other ways: its first 2,048 tokens, and its stories run together without the token that ends a text.
SHORT, TOGETHER = "3 bits, GPTQ, 2,048 tokens", "3 bits, GPTQ, stories run together"


def run(*words):
    """Stdout of a command, by the arithmetic that every CPU has."""
    command = [str(word) for word in (PROGRAM, *words)]
    env = {"STAIRWELL_ISA": "portable", "PATH": "/usr/bin:/bin", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env).stdout


def packed_bytes(directory):
    """Bytes of the layers' matrices: all that is no norm, no embedding and no g_idx, which counts up and could be left out."""
    total = 0
    for file in directory.glob("*.safetensors"):
        with file.open("rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(length))
        for name, tensor in header.items():
            if "_proj." in name and not name.endswith("g_idx"):
                start, end = tensor["data_offsets"]
                total += end - start
    return total


def perplexity(directory):
    """e to the mean surprise for each token of the unseen text, story by story."""
    stories = [story.strip() for story in UNSEEN.read_text(encoding="utf-8").split(END)]
    with tempfile.TemporaryDirectory() as temporary:
        requests = Path(temporary) / "requests.jsonl"
        line = {"max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        requests.write_text("".join(json.dumps({"id": str(i), "prompt": text} | line) + "\n" for i, text in enumerate(stories)))
        lines = run("batch", "--model", directory, "--input", requests, "--output", "-").splitlines()
    surprises = []
    for result in map(json.loads, lines):
        # The first token follows nothing, and the last one is no part of the text.
        surprises += [-token["logprob"] for token in result["logprobs"][1:-1]]
    return math.exp(sum(surprises) / len(surprises)), len(surprises)


def story(directory):
    words = ("--prompt", PROMPT, "--max-tokens", STORY, "--temperature", "0", "--ignore-eos")
    return run("generate", "--model", directory, *words).strip().replace("\n", " ")


def same(a, b):
    """How many characters two stories begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def profile(kernel, shape):
    """The counters of a kernel, with the numbers of its shape as columns."""
    report = json.loads(run("kernels", "profile", kernel, "--shape", shape, "--json"))
    sites, read = report["sites"], report["read"]
    numbers = {key: int(value) for key, value in (part.split("=") for part in report["shape"].split(","))}
    requests = {memory: sum(site["requests"] for site in sites if site["memory"] == memory) for memory in ("global", "shared")}
    counters = {
        "kernel": kernel,
        "requests": requests["global"],
        "bytes_read": read["sector_bytes"],
        "times_the_least": round(read["sector_bytes"] / read["least_bytes"], 3),
        "bits": significant(8 * read["sector_bytes"] / (numbers["inputs"] * numbers["outputs"])),
        "shared_requests": requests["shared"],
        "bank_conflicts": report["bank_conflicts"],
        "barriers": report["barriers"],
    }
    return {**counters, **numbers}


def counted():
    """The ladder of packed products beside bf16, for one row and for 32, and FP8."""
    size = "inputs=1024,outputs=1024"
    ladder = [f"quant_matmul_v{version}_bf16" for version in range(4)]
    return {
        "ladder": [profile(kernel, f"rows={rows},{size},group_size=128") for rows in (1, 32) for kernel in ladder],
        "dense": [profile("matmul_v3_bf16_bf16", f"rows={rows},{size}") for rows in (1, 32)],
        "blocks": [profile("quant_matmul_v4_bf16", f"rows={rows},{size}") for rows in (1, 4)],
    }


def main():
    demo = ROOT / "models" / "demo"
    first, tokens = perplexity(demo)
    told = story(demo)
    matrices = 4 * 7  # of the demo's layers
    rows = [{"method": "bf16", "bytes": packed_bytes(demo), "mean_error": None, "perplexity": significant(first), "story": told, "same": len(told)}]
    errors = {}
    short = [flag if flag != "16384" else "2048" for flag in G32]
    for method, flags in [*METHODS, (SHORT, [*short, "--bits", "3"]), (TOGETHER, [*G32, "--bits", "3"])]:
        with tempfile.TemporaryDirectory() as temporary:
            out = Path(temporary) / "out"
            if method == TOGETHER:
                together = Path(temporary) / "calibration.txt"
                together.write_text(CALIBRATION.read_text(encoding="utf-8").replace(END, "\n"), encoding="utf-8")
                flags = [together if flag == CALIBRATION else flag for flag in flags]
            said = run("quantize", "--out", out, *flags)
            of = [line.split(": error ") for line in said.splitlines() if ": error " in line]
            assert len(of) == matrices, said
            text = story(out)
            rows.append({
                "method": method,
                "bytes": packed_bytes(out),
                "mean_error": significant(sum(float(error) for _, error in of) / len(of)),
                "perplexity": significant(perplexity(out)[0]),
                "story": text,
                "same": same(text, told),
            })
            errors[method] = {module.removeprefix("model.layers."): float(error) for module, error in of}
    numbers = rows[0]["bytes"] / 2
    for row in rows:
        row["bits"] = significant(8 * row["bytes"] / numbers)
    result = {"command": "python scripts/record_step9.py", "machine": machine(), "weights": int(numbers), "tokens": tokens, "methods": rows, "errors": errors, "kernels": counted()}
    path = ROOT / "benches" / "results" / "step9.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
