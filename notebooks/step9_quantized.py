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
# # Step 9: what a smaller weight costs
#
# [Chapter 9](../steps/step9-quantized/README.md) packs the demo model's weights. This notebook draws what that does to each matrix, and to the model.
#
# 1. **The error of each matrix**, rounded to nearest and by GPTQ's algorithm.
# 2. **Quality against bytes**: perplexity on text that the model has not seen.
# 3. **Eight weights**, if you want to turn the knobs of the chapter's first example.
#
# The first two parts read `benches/results/step9.json`, and need no model. To record yours:
#
# ```text
# cargo build --release --features step9
# python scripts/record_step9.py
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
from matplotlib.colors import to_rgb

ROOT = next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "Cargo.toml").exists())
RECORD = ROOT / "benches/results/step9.json"
STEP9 = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else None
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


def show(fig):
    """Displays a figure as a small PNG: a palette of our colours in a few shades."""
    shades = [
        mix * rgb + (1 - mix)
        for rgb in map(np.array, map(to_rgb, PALETTE))
        for mix in (1, 0.65, 0.3)
    ]
    palette = PIL.Image.new("P", (1, 1))
    palette.putpalette((np.array([(1, 1, 1), *shades]) * 255).round().astype(np.uint8).tobytes())
    full, small = io.BytesIO(), io.BytesIO()
    fig.savefig(full)
    plt.close(fig)
    picture = (
        PIL.Image.open(full).convert("RGB").quantize(palette=palette, dither=PIL.Image.Dither.NONE)
    )
    picture.save(small, "png", optimize=True)
    display(Image(small.getvalue()))


# %% [markdown]
# ## 1. The error of each matrix
#
# The error is ‖(W − Ŵ) X‖ / ‖W X‖: how far the matrix's products are off, for the inputs X that it has when the model reads the calibration text. Both algorithms have the same grid and write the same bytes.

# %%
if STEP9 is None:
    print("benches/results/step9.json is not there: python scripts/record_step9.py writes it")
else:
    print(STEP9["machine"], "·", STEP9["command"])
    fig, axes = plt.subplots(1, 3, figsize=(11, 4.6), sharey=True)
    for axis, bits in zip(axes, (4, 3, 2)):
        rounded, gptq = STEP9["errors"][f"{bits} bits, rounded"], STEP9["errors"][f"{bits} bits, GPTQ"]
        names = list(rounded)
        places = np.arange(len(names))
        axis.barh(places - 0.2, list(rounded.values()), 0.4, color=ORANGE, label="rounded to nearest")
        axis.barh(places + 0.2, [gptq[name] for name in names], 0.4, color=GREEN, label="GPTQ")
        axis.set_title(f"{bits} bits, groups of 32")
        axis.set_yticks(places, [name.replace("self_attn.", "").replace("mlp.", "").replace("_proj", "") for name in names], fontsize=7)
        axis.grid(axis="x")
        axis.grid(axis="y", visible=False)
        mean = {way: np.mean(list(errors.values())) for way, errors in (("rounded", rounded), ("GPTQ", gptq))}
        print(f"{bits} bits: mean error {mean['rounded']:.4f} rounded, {mean['GPTQ']:.4f} by GPTQ")
        assert mean["GPTQ"] < mean["rounded"], "that is what the algorithm is for"
    axes[0].invert_yaxis()
    axes[0].legend(loc="lower right")
    show(fig)

# %% [markdown]
# One bit less doubles the steps of the grid, so it about doubles the errors. Which matrices gain most from GPTQ? Those whose inputs come together most: the more one input says about another, the more a weight can make up for its neighbour.
#
# ## 2. Quality against bytes

# %%
if STEP9 is not None:
    rows = STEP9["methods"]
    dense = rows[0]["perplexity"]
    fig, axis = plt.subplots(figsize=(7, 3.4))
    for row in rows:
        colour = GREEN if "GPTQ" in row["method"] else ORANGE if "rounded" in row["method"] else BLUE
        axis.plot(row["bytes"] / 1e6, row["perplexity"], "o", color=colour)
        print(f"{row['method']:32} {row['bytes'] / 1e6:5.2f} MB  perplexity {row['perplexity']:7.3f}  ({row['perplexity'] / dense:.3f} of the original's)")
    axis.axhline(dense, color=GREY, linestyle=":")
    axis.set_yscale("log")
    axis.set_xlabel("MB of the layers' matrices")
    axis.set_title("perplexity on unseen stories (green: GPTQ, orange: rounded, blue: 8 bits and more)")
    show(fig)
    perplexity = {row["method"]: row["perplexity"] for row in rows}
    for bits in (3, 2):
        assert perplexity[f"{bits} bits, GPTQ"] < perplexity[f"{bits} bits, rounded"]
    assert perplexity["int8"] < 1.02 * dense, "8 bits cost next to nothing"

# %% [markdown]
# The lower edge of the cloud is what you can buy with bytes. A point above the edge is a bad deal: another method gives less perplexity for the same bytes.
#
# ## 3. Eight weights
#
# The chapter's first example. Change `BITS`, `GROUP` or a weight, and run the cell again.

# %%
BITS, GROUP = 4, 8
W = np.array([0.12, -0.34, 0.56, -0.08, 0.91, -0.27, 0.03, 0.45])
codes, numbers = [], []
for group in W.reshape(-1, GROUP):
    low, high = min(group.min(), 0), max(group.max(), 0)
    scale = (high - low) / (2**BITS - 1)
    zero = np.round(-low / scale)
    code = np.clip(np.round(group / scale + zero), 0, 2**BITS - 1)
    print(f"scale {scale:.4f}, zero point {zero:.0f}")
    codes += code.astype(int).tolist()
    numbers += ((code - zero) * scale).tolist()
print("codes  ", codes)
print("numbers", [f"{number:.3f}" for number in numbers])
print("errors ", [f"{number - w:+.3f}" for number, w in zip(numbers, W)])
