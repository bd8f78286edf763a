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
# # Step 5: the PagedAttention ladder, counted
#
# [Chapter 5](../steps/step5-paged-attention/README.md) takes attention over a paged cache through four ideas. This notebook reads what the
# simulator counted, works it out by hand, and compares.
#
# 1. **The ladder**: bytes read by v0 to v4.
# 2. **Groups**: query heads that share a head of K and V.
# 3. **Long contexts**: blocks at work, and what dividing costs.
# 4. **Online softmax and the merge of parts**, in f32 and f64.
# 5. **A swizzle**: bank conflicts of `ldmatrix`.
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

# %% [markdown]
# ## 1. The ladder
#
# K and V of all sequences, once: 2 · sequences · tokens · heads of K and V · head_dim numbers of 2 bytes. Queries, tables and positions come on top. v0's lanes
# read K one number from each sector of 32 bytes, and V whole; each for every query head.

# %%
ladder = STEP5["ladder"]
shape = ladder[0]
kept = 2 * shape["sequences"] * shape["tokens"] * shape["kv_heads"] * shape["head_dim"] * 2
group = shape["heads"] // shape["kv_heads"]
# K: a sector for each number; V: whole sectors; both for each query head.
v0 = group * (kept // 2) * (32 // 2) + group * (kept // 2)
counted = {row["kernel"][-2:]: row["bytes_read"] for row in ladder}
assert 1 <= counted["v0"] / v0 < 1.02, counted["v0"] / v0
assert 1 <= counted["v1"] / (group * kept) < 1.1
for version in ["v2", "v3", "v4"]:
    assert 1 <= counted[version] / kept < 1.05, version
print(f"K and V: {kept / 1e6:.2f} MB; " + ", ".join(f"{k}: {v / kept:.2f} times" for k, v in counted.items()))

figure, axes = plt.subplots(1, 2, figsize=(9, 2.6))
for axis, key, title in [(axes[0], "bytes_read", "MB in sectors (log)"), (axes[1], "times_asked", "lanes ask for, times the least")]:
    values = [row[key] / (1e6 if key == "bytes_read" else 1) for row in ladder]
    bars = axis.bar(list(counted), values, color=[RED, ORANGE, PURPLE, GREEN, BLUE])
    axis.bar_label(bars, [f"{v:.1f}" for v in values], fontsize=8)
    axis.set_title(title)
axes[0].set_yscale("log")
show(figure)

# %% [markdown]
# ## 2. Groups
#
# 16 query heads, and 16, 8, 4, 2 or 1 head of K and V. v1 reads for every query head; v2 for every head of K and V.

# %%
rows = STEP5["groups"]
kv_heads = sorted({row["kv_heads"] for row in rows}, reverse=True)
of = lambda version: [next(r["bytes_read"] for r in rows if r["kernel"].endswith(version) and r["kv_heads"] == n) for n in kv_heads]
v1, v2 = of("v1"), of("v2")
assert len(set(v1)) == 1, "v1 reads the same whatever the group"
assert all(0.9 < (a / b) / (16 / n) < 1.2 for a, b, n in zip(v1, v2, kv_heads))
figure, axis = plt.subplots(figsize=(6, 2.6))
x = np.arange(len(kv_heads))
axis.bar(x - 0.2, np.array(v1) / 1e3, 0.4, color=ORANGE, label="v1")
axis.bar(x + 0.2, np.array(v2) / 1e3, 0.4, color=BLUE, label="v2")
axis.set_xticks(x, [f"{16 // n}" for n in kv_heads])
axis.set_xlabel("query heads that share a head of K and V")
axis.set_title("kB read")
axis.legend()
show(figure)

# %% [markdown]
# ## 3. Long contexts
#
# A part of 512 keys leaves head_dim + 2 floats a query head, which are read once. Each part reads its queries again. And in the second kernel each warp reads
# the largest scores (twice) and the totals for every 32 numbers of the output, a sector each time.

# %%
PART = 512
for row in STEP5["long"]:
    parts = -(-row["tokens"] // PART)
    kept = 2 * row["tokens"] * row["kv_heads"] * row["head_dim"] * 2
    if row["kernel"].endswith("v4") and parts > 1:
        left = parts * row["heads"] * (row["head_dim"] + 2) * 4
        queries = (parts - 1) * row["heads"] * row["head_dim"] * 4
        states = row["heads"] * (row["head_dim"] // 32) * 2 * parts * 32
        v2 = next(r for r in STEP5["long"] if r["kernel"].endswith("v2") and r["tokens"] == row["tokens"])
        more = row["bytes_read"] - v2["bytes_read"]
        print(f"{row['tokens']} tokens: {row['blocks']} blocks instead of {v2['blocks']}; {more} bytes more read, {more / kept:.1%} of K and V: "
              f"parts {left}, queries {queries}, states {states}")
        assert 1 <= more / (left + queries + states) < 1.1

# %% [markdown]
# ## 4. Online softmax, and the merge
#
# The same rule in numpy: key by key, and part by part. In f32 both are as near to f64 as softmax over all scores at once.

# %%
rng = np.random.default_rng(5)
scores, values = (8 * rng.standard_normal(2000)).astype(np.float32), rng.standard_normal((2000, 32)).astype(np.float32)


def online(scores, values):
    """(largest, total, sum) of some keys, one after the other."""
    largest, total, weighted = np.float32(-np.inf), np.float32(0), np.zeros(values.shape[1], np.float32)
    for score, value in zip(scores, values):
        new = max(largest, score)
        correction, weight = np.exp(largest - new), np.exp(score - new)
        total, weighted, largest = total * correction + weight, weighted * correction + weight * value, new
    return largest, total, weighted


def merged(parts):
    largest = max(part[0] for part in parts)
    shares = [np.exp(part[0] - largest) for part in parts]
    return sum(s * part[2] for s, part in zip(shares, parts)) / sum(s * part[1] for s, part in zip(shares, parts))


wide = np.exp(scores.astype(np.float64) - scores.max())
exact = (wide[:, None] * values).sum(0) / wide.sum()
_, total, weighted = online(scores, values)
in_parts = merged([online(scores[i : i + 512], values[i : i + 512]) for i in range(0, 2000, 512)])
narrow = np.exp(scores - scores.max())
at_once = (narrow[:, None] * values).sum(0) / narrow.sum()
errors = {"at once": at_once, "key by key": weighted / total, "in parts": in_parts}
for name, result in errors.items():
    error = np.abs(result - exact).max()
    print(f"{name}: largest error {error:.1e}")
    assert error < 1e-5

# %% [markdown]
# ## 5. A swizzle
#
# ldmatrix reads the same piece of 16 bytes of eight rows of 128 bytes. Unswizzled they lie in the same four banks.

# %%
def turns(swizzle):
    most = 0
    for piece in range(8):
        banks = [((piece ^ (row % 8)) if swizzle else piece) * 4 % 32 for row in range(8)]
        most = max(most, max(np.bincount(banks)))
    return most


assert (turns(False), turns(True)) == (8, 1)
unswizzled, swizzled = [next(r for r in STEP5["matmul"] if r["kernel"].startswith(k) and r["rows"] == 64) for k in ("matmul_v3_unswizzled", "matmul_v3_bf16")]
print(f"turns lost: {unswizzled['bank_conflicts']:,} without, {swizzled['bank_conflicts']} with")
assert swizzled["bank_conflicts"] == 0 and unswizzled["bank_conflicts"] % 7 == 0
