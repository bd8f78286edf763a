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
# # Step 6: kernels compared
#
# [Chapter 6](../steps/step6-flash-attention/README.md) takes attention over prompts from a square of scores to tensor cores. This notebook reads what
# `cargo bench --features step6 --bench kernels` counted, works it out by hand, and draws it under the rooflines of known GPUs.
#
# 1. **Traffic** of v0 to v4.
# 2. **Rooflines**: operations for a byte, and what a GPU could reach at most with that.
# 3. **Banks**: swizzles and padding.
# 4. **From how many rows on** a chunk is a prompt.
# 5. **Rounded weights**: what 16 bits cost.
#
# It reads `benches/results/step6.json`, and needs no model and no GPU. To record yours:
#
# ```text
# python scripts/record_step6.py
# python notebooks/build.py    # executes this notebook anew
# ```

# %%
import io
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
from IPython.display import Image, display

ROOT = next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "Cargo.toml").exists())
STEP6 = json.loads((ROOT / "benches/results/step6.json").read_text(encoding="utf-8"))
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
    picture = PIL.Image.open(buffer).convert("RGB").quantize(64)
    small = io.BytesIO()
    picture.save(small, format="png", optimize=True)
    display(Image(data=small.getvalue()))


print(STEP6["machine"], "·", STEP6["bench"])

# %% [markdown]
# ## 1. Traffic
#
# A tile of B packed rows reads the keys up to its last row: K and V, 2 bytes a number. Q and the output are f32, once. v0 adds the square: scores are written in
# whole tiles of 32 × 32, read by softmax three times (the largest, the total, the weights), written, and read by the last product.

# %%
VERSIONS = {"v0": RED, "v1": ORANGE, "v2": PURPLE, "v3": BLUE, "v4": GREEN}


def tiles(row, rows):
    """The keys that each tile of packed rows sees."""
    group = row["heads"] // row["kv_heads"]
    packed = row["tokens"] * group
    return [-(-min(start + rows, packed) // group) for start in range(0, packed, rows)], group


def k_and_v(row, rows):
    seen, _ = tiles(row, rows)
    return row["kv_heads"] * sum(seen) * 2 * row["head_dim"] * 2


def predicted(row):
    version = row["kernel"].removeprefix("flash_attention_")[:2]
    rows = {"v0": 32, "v1": 32, "v4": 128}.get(version, 64)
    activations = row["tokens"] * row["heads"] * row["head_dim"] * 4
    read, written = k_and_v(row, rows) + activations, activations
    if version == "v0":
        seen, group = tiles(row, 32)
        square = row["kv_heads"] * sum(32 * (-(-keys // 32) * 32) for keys in seen) * 4
        softmax = row["kv_heads"] * sum(32 * keys for keys in seen) * 4
        read += 3 * softmax + square
        written += square + softmax
    return read, written


for row in STEP6["prefill"]:
    read, written = predicted(row)
    errors = row["bytes_read"] / read - 1, row["bytes_written"] / written - 1
    print(f"{row['kernel']:30} {row['tokens']:4} tokens: read {read / 1e6:6.2f} MB by hand, {errors[0]:+.1%} counted; written {written / 1e6:6.2f}, {errors[1]:+.1%}")
    assert -0.01 < errors[0] < 0.05 and -0.01 < errors[1] < 0.05

figure, axis = plt.subplots(figsize=(6, 2.8))
lengths = sorted({row["tokens"] for row in STEP6["prefill"]})
for version, colour in VERSIONS.items():
    rows = [r for n in lengths for r in STEP6["prefill"] if r["tokens"] == n and r["kernel"] == f"flash_attention_{version}"]
    axis.plot(lengths, [(r["bytes_read"] + r["bytes_written"]) / 1e6 for r in rows], "o-", color=colour, label=version)
axis.set_xlabel("tokens of the prompt")
axis.set_title("MB moved")
axis.legend()
show(figure)

# %% [markdown]
# ## 2. Rooflines
#
# A kernel that does i operations for each byte cannot be faster than bandwidth · i, nor than the arithmetic's peak. Peaks for dense bf16 and bandwidths are NVIDIA's
# (data sheets: A100 80 GB SXM 312 TFLOP/s and 2.04 TB/s; H100 SXM 989 and 3.35; H200 989 and 4.8). The points are counted; that is where a kernel would lie if memory were all
# that kept it, and if no cache helped. **Nothing here was measured on a GPU.**

# %%
GPUS = {"A100": (312e12, 2.04e12, GREY), "H100": (989e12, 3.35e12, BLUE), "H200": (989e12, 4.8e12, GREEN)}
x = np.geomspace(0.03, 2000, 200)
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.2), sharey=True)
for axis, title in zip(axes, ["Norms, products, decode", "Prompts: 512 tokens, and what v3's intensity grows to"]):
    for name, (peak, bandwidth, colour) in GPUS.items():
        axis.plot(x, np.minimum(peak, bandwidth * x) / 1e12, color=colour, linewidth=1, label=name)
    axis.set_xscale("log"), axis.set_yscale("log")
    axis.set_xlabel("operations for a byte moved")
    axis.set_title(title)
axes[0].set_ylabel("TFLOP/s at most")
peak, bandwidth, _ = GPUS["H100"]
best = [("rms_norm_v2", "norm"), ("matmul_v0_bf16_bf16", "matmul"), ("matmul_v3_bf16_bf16", "matmul"), ("paged_attention_v0", "decode"), ("paged_attention_v4", "decode")]
for kernel, section in best:
    i = next(r for r in STEP6[section] if r["kernel"] == kernel)["operations_per_byte"]
    axes[0].plot(i, min(peak, bandwidth * i) / 1e12, "o", color=ORANGE)
    axes[0].annotate(kernel, (i, min(peak, bandwidth * i) / 1e12), textcoords="offset points", xytext=(8, -4), fontsize=7.5)
for row in STEP6["ladder"]:
    version = row["kernel"].removeprefix("flash_attention_")
    if version in ("v0", "v1", "v3", "v4"):
        i = row["operations_per_byte"]
        axes[1].plot(i, min(peak, bandwidth * i) / 1e12, "o", color=VERSIONS[version])
        axes[1].annotate("v2, v3" if version == "v3" else version, (i, min(peak, bandwidth * i) / 1e12), textcoords="offset points", xytext=(6, -10), fontsize=7.5)
# With longer prompts K and V of all tiles are what is moved: 4 d operations a score, and 4 d / B bytes.
limit = 64
axes[1].axvline(limit, color=PURPLE, linestyle=":", linewidth=1)
axes[1].annotate("64 queries a tile: 64 operations a byte,\nunless K and V come from a cache", (limit, 2), textcoords="offset points", xytext=(5, 0), fontsize=7.5)
axes[1].legend(loc="upper left")
show(figure)
v3 = next(row for row in STEP6["ladder"] if row["kernel"].endswith("v3"))
print(f"v3 at 512 tokens: {v3['operations_per_byte']} operations a byte; H100's ridge is at {peak / bandwidth:.0f}")
assert v3["operations_per_byte"] < limit

# %% [markdown]
# So without a cache even v3 would be bound by memory. A GPU has one: all tiles of a head read the same K and V, at nearly the same time, and 50 MB of second cache hold them (16,384
# tokens of 128 numbers are 8 MB for a head). The counters don't know that; they give the upper limit of what is moved.

# %% [markdown]
# ## 3. Banks
#
# ldmatrix reads the same piece of 8 vectors. Turns: how many of them lie in the same group of 4 banks.


# %%
def turns(pieces, place):
    most = 0
    for piece in range(pieces):
        banks = [place(row, piece) % 8 for row in range(8)]
        most = max(most, int(np.bincount(banks).max()))
    return most


for head_dim in (64, 80, 96, 128, 256):
    pieces = head_dim // 8
    plain = turns(pieces, lambda row, piece: row * pieces + piece)
    if head_dim % 64 == 0:
        chosen = turns(pieces, lambda row, piece: row * pieces + (piece ^ (row % 8)))
    else:
        chosen = turns(pieces, lambda row, piece: row * (pieces | 1) + piece)
    print(f"head_dim {head_dim:3}: {plain} turns as they come, {chosen} as they are kept ({'XOR' if head_dim % 64 == 0 else 'a piece of padding'})")
    assert chosen == 1
lost = {row["kernel"]: row["bank_conflicts"] for row in STEP6["ladder"]}
print(f"turns lost at 512 tokens: {lost['flash_attention_v2_unswizzled']:,} without the swizzle, {lost['flash_attention_v2']} with it")
assert lost["flash_attention_v2"] == 0 and lost["flash_attention_v2_unswizzled"] > 1e6

# %% [markdown]
# ## 4. From how many rows on
#
# Behind 512 cached tokens: a chunk as a prompt, and each of its rows as one that decodes.

# %%
cut = STEP6["cut_over"]
rows = sorted({row["tokens"] for row in cut})
figure, axis = plt.subplots(figsize=(6, 2.6))
for kernel, colour in [("flash_attention_v3", BLUE), ("paged_attention_v4", ORANGE)]:
    values = [next(r["bytes_read"] for r in cut if r["tokens"] == n and r["kernel"] == kernel) / 1e6 for n in rows]
    axis.plot(rows, values, "o-", color=colour, label=kernel)
    print(kernel, [f"{v:.2f} MB" for v in values])
axis.set_xscale("log", base=2), axis.set_yscale("log")
axis.set_xticks(rows, [str(n) for n in rows])
axis.set_xlabel("rows of the chunk")
axis.set_title("MB read")
axis.legend()
show(figure)
read = {(r["kernel"], r["tokens"]): r["bytes_read"] for r in cut}
assert abs(read["flash_attention_v3", 1] / read["paged_attention_v4", 1] - 1) < 0.05
assert read["paged_attention_v4", 2] / read["flash_attention_v3", 2] > 1.9

# %% [markdown]
# ## 5. Rounded weights
#
# Softmax by tiles of 64 keys in numpy, once in f32, once with weights rounded to bf16 before they meet V, as v2 and v3 do.

# %%
rng = np.random.default_rng(6)
D, KEYS = 64, 2048


def to_bf16(x):
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def by_tiles(scores, values, rounded):
    largest, total, weighted = np.float32(-np.inf), np.float32(0), np.zeros(D, np.float32)
    for start in range(0, KEYS, 64):
        tile = scores[start : start + 64]
        new = max(largest, tile.max())
        correction, weights = np.exp(largest - new), np.exp(tile - new)
        total = total * correction + weights.sum()
        weighted = weighted * correction + (to_bf16(weights) if rounded else weights) @ values[start : start + 64]
        largest = new
    return weighted / total


worst = {False: 0.0, True: 0.0}
for _ in range(40):
    scores, values = (3 * rng.standard_normal(KEYS)).astype(np.float32), to_bf16(rng.uniform(-2, 2, (KEYS, D)).astype(np.float32))
    wide = np.exp(scores.astype(np.float64) - scores.max())
    exact = (wide[:, None] * values).sum(0) / wide.sum()
    for rounded in worst:
        worst[rounded] = max(worst[rounded], float(np.abs(by_tiles(scores, values, rounded) - exact).max()))
print(f"largest error: {worst[False]:.1e} with weights in f32, {worst[True]:.1e} with weights in bf16")
assert worst[False] < 4e-5 and 1e-4 < worst[True] < 6e-3
