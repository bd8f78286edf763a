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
# # Step 5: kernels, counted
#
# [Chapter 5](../steps/step5-paged-attention/README.md) runs CUDA kernels on a simulator that counts what they read and write. This notebook
# reads what was recorded, works the counters out by hand, and compares.
#
# 1. **RMSNorm's ladder**: requests, sectors and barriers of three versions.
# 2. **Fused**: a sum that is normalised at once.
# 3. **Strides**: sectors and banks, from the formula.
#
# It reads `benches/results/step5.json`, and needs no model and no GPU. To record yours:
#
# ```text
# cargo build --release --features step5
# python scripts/record_step5.py
# python notebooks/build.py    # executes this notebook anew
# ```

# %%
import io
import json
from math import gcd
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
from IPython.display import Image, display

ROOT = next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "Cargo.toml").exists())
STEP5 = json.loads((ROOT / "benches/results/step5.json").read_text(encoding="utf-8"))
PALETTE = "#1c2430", "#1a5fb0", "#d9720b", "#25713a", "#6d3fb4", "#bd2430", "#59636f"
INK, BLUE, ORANGE, GREEN, PURPLE, RED, GREY = PALETTE
# Opaque and light, so that the pictures read in dark viewers too.
plt.rcParams.update({
    "figure.dpi": 80, "figure.facecolor": "white", "figure.constrained_layout.use": True,
    "axes.facecolor": "white", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": "#d5d8db",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
    "xtick.color": INK, "ytick.color": INK,
    "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left",
    "legend.fontsize": 8.5, "legend.frameon": False,
})  # fmt: skip


def show(figure):
    """The figure as a PNG of few colours: a notebook is a file that others load."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    picture = PIL.Image.open(buffer).convert("RGB").quantize(32)
    small = io.BytesIO()
    picture.save(small, format="png", optimize=True)
    display(Image(data=small.getvalue()))


print(STEP5["machine"])
print(STEP5["shape"])

# %% [markdown]
# ## 1. RMSNorm's ladder
#
# 8 rows of 1,024 floats, 128 threads a row. By hand: a row is 4,096 bytes, 128 sectors. v0 and v1 read it twice, and the weight once: 3 · 128
# sectors a row. v2 reads both once: 2 · 128. A request of a warp moves 32 floats, or 32 times 4 floats in v2. A tree over 128 threads has 7 rounds
# with a barrier each, one before and one after.

# %%
ROWS, WIDTH, THREADS = 8, 1024, 128
sectors = WIDTH * 4 // 32
by_hand = {
    "rms_norm_v0": {"sectors_read": ROWS * 3 * sectors, "requests": ROWS * 4 * WIDTH // 32, "barriers": ROWS * 9},
    "rms_norm_v1": {"sectors_read": ROWS * 3 * sectors, "requests": ROWS * 4 * WIDTH // 32, "barriers": ROWS * 2},
    "rms_norm_v2": {"sectors_read": ROWS * 2 * sectors, "requests": ROWS * 3 * WIDTH // 128, "barriers": ROWS * 2},
}
counted = {row["kernel"]: row for row in STEP5["rms_norm"]}
for kernel, expected in by_hand.items():
    for name, value in expected.items():
        assert counted[kernel][name] == value, (kernel, name, counted[kernel][name], value)
    print(kernel, expected)

figure, axes = plt.subplots(1, 3, figsize=(9, 2.4))
for axis, (name, title) in zip(axes, [("requests", "requests to global memory"), ("sectors_read", "sectors read"), ("barriers", "barriers")]):
    values = [counted[kernel][name] for kernel in by_hand]
    bars = axis.bar([kernel[-2:] for kernel in by_hand], values, color=[ORANGE, PURPLE, BLUE])
    axis.bar_label(bars, [f"{value:,}" for value in values], fontsize=8)
    axis.set_title(title)
show(figure)

# %% [markdown]
# ## 2. Fused
#
# x + h and its norm. As two kernels: x and h are read, the sum is written, read twice and the weight once. As one: the sum stays with the thread that
# made it for the first pass.

# %%
add, norm, fused = STEP5["residual"]
row = ROWS * sectors
assert add["sectors_read"] + norm["sectors_read"] == 5 * row
assert fused["sectors_read"] == 4 * row
assert add["sectors_written"] + norm["sectors_written"] == fused["sectors_written"] == 2 * row
print(f"two kernels read {5 * row:,} sectors, one reads {4 * row:,}: {1 - 4 / 5:.0%} less")

# %% [markdown]
# ## 3. Strides
#
# 32 lanes, lane i wants float i · s. Global memory: a sector has 8 floats, so the lanes touch min(32, 4 s) sectors for a stride that divides 8, and 32 from
# 8 on. Shared memory: 32 banks, so 32 / gcd(s, 32) different banks are hit, and gcd(s, 32) lanes wait for each.

# %%
strides = np.arange(1, 41)
touched = [len({lane * s // 8 for lane in range(32)}) for s in strides]
turns = [max(np.bincount([lane * s % 32 for lane in range(32)])) for s in strides]
assert all(turns[s - 1] == gcd(int(s), 32) for s in strides)
for s, want_sectors, want_turns in [(1, 4, 1), (2, 8, 2), (4, 16, 4), (8, 32, 8), (16, 32, 16), (32, 32, 32), (33, 32, 1)]:
    assert (touched[s - 1], turns[s - 1]) == (want_sectors, want_turns), s

figure, axes = plt.subplots(1, 2, figsize=(9, 2.4))
axes[0].bar(strides, touched, color=ORANGE)
axes[0].set_title("global memory: sectors of one request")
axes[1].bar(strides, turns, color=BLUE)
axes[1].set_title("shared memory: turns of one request")
for axis in axes:
    axis.set_xlabel("stride in floats")
show(figure)
