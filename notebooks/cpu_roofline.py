# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The CPU's roofline
#
# [The speed of light on a CPU](../steps/step4-paged-kv/cpu-speed.md) counts what a linear layer asks of memory and of the multipliers. This
# notebook draws both limits, and what each variant reached, from `benches/results/cpu.json`. It needs no model. To record yours:
#
# ```text
# python scripts/compare_cpu.py MODEL --gguf FILE
# python notebooks/build.py    # executes this notebook anew
# ```

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

ROOT = next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "Cargo.toml").exists())
CPU = json.loads((ROOT / "benches/results/cpu.json").read_text(encoding="utf-8"))
LIMITS = CPU["roofline"]
COLORS = {"portable": "#59636f", "avx2": "#25713a", "avx512": "#1a5fb0", "avx512bf16": "#d9720b"}
print(CPU["machine"], LIMITS)

# %% [markdown]
# ## The limits
#
# With r rows of x, a weight of bf16 is 2 bytes and 2r operations: r operations a byte. Memory allows bandwidth · r, the multipliers their
# peak; the lower of the two is the roof. Where they meet, a decode step stops being free for one more request.

# %%
read = LIMITS["read_gigabytes_per_second"]
peaks = {name: LIMITS[f"{name}_gflops"] for name in COLORS if f"{name}_gflops" in LIMITS}
for name, peak in peaks.items():
    print(f"{name}: memory and multiplications meet at {peak / read:.1f} rows")
if {"avx512", "avx512bf16"} <= peaks.keys():
    assert 1.5 < peaks["avx512bf16"] / peaks["avx512"] < 2.5, "one instruction, twice the products"

# %% [markdown]
# ## What was reached
#
# A layer of 1,024 → 6,144, sixteen of them in turn, so that no cache holds them.

# %%
figure, axes = plt.subplots(figsize=(7, 4), dpi=80, constrained_layout=True)
rows = np.geomspace(1, 512, 100)
for name, color in COLORS.items():
    points = [row for row in CPU["linear"] if row["variant"] == name]
    axes.plot([p["rows"] for p in points], [p["gflops"] for p in points], "o-", color=color, label=name, markersize=4)
    if name in peaks:
        axes.plot(rows, np.minimum(read * rows, peaks[name]), ":", color=color, linewidth=1)
axes.set(xscale="log", yscale="log", xlabel="rows of x", ylabel="GFLOP/s", title="Each variant, and its roof (dotted)")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# The share of the roof, row by row. Where it is above 1, another program slowed the measurement of the roof.

# %%
for name in peaks:
    shares = {p["rows"]: p["gflops"] / min(read * p["rows"], peaks[name]) for p in CPU["linear"] if p["variant"] == name}
    print(f"{name:10}", "  ".join(f"{count}: {share:.2f}" for count, share in shares.items()))

# %% [markdown]
# ## Against the peers
#
# Tokens a second of stairwell over each other program.

# %%
for name, ratios in CPU["ratios"].items():
    print(f"{name:20}", {case: ratio for case, ratio in ratios.items() if ratio and case != "memory_bytes"})
assert CPU["ratios"]["llama.cpp"]["prefill_128"] > 1 and CPU["ratios"]["transformers"]["prefill_128"] > 1
