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
# # Step 4: a CPU under its roofline
#
# [The speed of light on a CPU](../steps/step4-paged-kv/cpu-speed.md) counts what a model asks of memory and of multipliers. This notebook draws the two limits of the machine that was recorded, what was
# measured beneath them, and how far a prediction from the limits alone comes.
#
# 1. **The weights**, counted from the shapes.
# 2. **The roofline**: linear layers with 1 to 512 rows, and whole prompts and steps.
# 3. **Predicted against measured.**
# 4. **What another machine would do.**
#
# It reads `benches/results/cpu_linear.json` and `benches/results/cpu.json`, and needs no model. To record yours:
#
# ```text
# cargo bench --features step4 --bench cpu_linear
# python scripts/compare_cpu.py FOLDER
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
LINEAR, WHOLE = (json.loads((ROOT / f"benches/results/{name}.json").read_text(encoding="utf-8")) for name in ("cpu_linear", "cpu"))
PALETTE = "#1c2430", "#1a5fb0", "#d9720b", "#25713a", "#6d3fb4", "#bd2430", "#59636f"
INK, BLUE, ORANGE, GREEN, PURPLE, RED, GREY = PALETTE
# Opaque and light, so that the pictures read in dark viewers too.
plt.rcParams.update({
    "figure.dpi": 80, "figure.facecolor": "white", "figure.constrained_layout.use": True,
    "axes.facecolor": "white", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e3e5e8",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
    "xtick.color": INK, "ytick.color": INK,
    "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left",
    "legend.fontsize": 8.5, "legend.frameon": False,
})  # fmt: skip
COLOURS = {"portable": GREY, "avx2": GREEN, "avx512": ORANGE, "avx512bf16": PURPLE, "amx": BLUE}


def show(figure):
    """The figure as a PNG of few colours: a notebook is a file that others load."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    picture = PIL.Image.open(buffer).convert("RGB").quantize(48)
    small = io.BytesIO()
    picture.save(small, format="png", optimize=True)
    display(Image(data=small.getvalue()))


print("linear layers:", LINEAR["machine"])
print("whole model:  ", WHOLE["machine"])

# %% [markdown]
# ## 1. The weights
#
# Shapes of Qwen3-0.6B. A step reads all of them but the embedding's rows that it looks up; lm_head is the embedding, and multiplies the last row of a prompt only.

# %%
HIDDEN, WIDE, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 1024, 3072, 28, 16, 8, 128, 151_936
layer = HIDDEN * HEAD_DIM * (HEADS + 2 * KV_HEADS + HEADS) + 3 * HIDDEN * WIDE
weights, head = LAYERS * layer, VOCABULARY * HIDDEN
print(f"a layer {layer:,}, all layers {weights:,}, lm_head {head:,}: {2 * (weights + head) / 1e9:.2f} GB a step in bf16")
assert (weights, head) == (WHOLE["derived"]["layer_weights"], WHOLE["derived"]["head_weights"])
# A figure with four digits of the same count.
assert abs(2e-9 * (weights + head) / WHOLE["derived"]["step_gigabytes"] - 1) < 1e-3


def gflop(rows):
    """Of a pass with so many rows of one sequence each in the layers, and one in lm_head."""
    return 2e-9 * (weights * rows + head)


# %% [markdown]
# ## 2. The roofline
#
# Operations for a byte of weights go across, operations a second upwards. The slope is bandwidth, the flat lines are what each instruction set multiplies at most, all measured. With r rows, bf16 weights give
# r operations a byte. Dots are linear layers with 1 to 512 rows; diamonds are the whole model, with attention and everything else in the time.

# %%
peaks = {isa: LINEAR["roofline"][f"{isa}_gflops"] for isa in COLOURS if f"{isa}_gflops" in LINEAR["roofline"]}
read = LINEAR["roofline"]["read_gigabytes_per_second"]
assert read > 0 and peaks and all(p > 0 for p in peaks.values())


def whole_model():
    """Name, operations a byte and GFLOP/s of each that was measured."""
    ours = WHOLE["peers"][0]
    for rows in (128, 512, 4096):
        if speed := ours[f"prefill_{rows}"]:
            yield f"prompt of {rows:,}", gflop(rows) / (2e-9 * (weights + head)), gflop(rows) * speed / rows
    for rows in (1, 8):
        if speed := ours[f"decode_{rows}"]:
            yield f"decode, {rows}", rows, 2e-9 * (weights + head) * speed


figure, axis = plt.subplots(figsize=(9.5, 4.6))
x = np.geomspace(0.5, 6000, 200)
for isa, peak in peaks.items():
    axis.plot(x, np.minimum(read * x, peak), color=COLOURS[isa], linewidth=1)
    axis.annotate(f"{isa}, {peak:,.0f}", (6000, peak), color=COLOURS[isa], fontsize=8, ha="right", va="bottom")
for isa in peaks:
    rows = [row for row in LINEAR["rows"] if row["variant"] == isa]
    axis.plot([row["rows"] for row in rows], [row["gflops"] for row in rows], "o", ms=4, color=COLOURS[isa])
    if rows:
        last = rows[-1]
        axis.annotate(isa, (last["rows"], last["gflops"]), (5, -9), textcoords="offset points", color=COLOURS[isa], fontsize=8)
for name, intensity, speed in whole_model():
    axis.plot([intensity], [speed], "D", ms=6, color=RED)
    axis.annotate(name, (intensity, speed), (6, -11), textcoords="offset points", color=RED, fontsize=8)
    print(f"{name:16} {intensity:7.1f} operations a byte, {speed:7.0f} GFLOP/s")
axis.set_xscale("log"), axis.set_yscale("log")
axis.set_xlabel("operations for a byte of weights (rows)")
axis.set_title(f"GFLOP/s; memory gives {read:.1f} GB/s")
show(figure)

# %% [markdown]
# Points on the slope wait for memory: one row and, for the faster instruction sets, eight. There the instruction set does not matter. To the right of its ridge a variant waits for its multipliers, and only there is a
# better instruction set worth anything.

# %%
for isa, peak in peaks.items():
    print(f"{isa:10} ridge at {peak / read:6.1f} rows")
by_rows = {(row["variant"], row["rows"]): row["gflops"] for row in LINEAR["rows"]}
for isa in peaks:
    few, many = by_rows.get((isa, 1)), by_rows.get((isa, 512))
    if few and many:
        assert many > few, f"{isa}: 512 rows do more operations a second than one"
        # Bandwidth and peaks change while other machines run beside this one: the roof may be exceeded, not by far.
        assert few < 3 * read and many < 3 * peaks[isa], isa
best = list(peaks)[-1]
if (best, 512) in by_rows and ("avx2", 512) in by_rows:
    assert by_rows[best, 512] > by_rows["avx2", 512]

# %% [markdown]
# ## 3. Predicted against measured
#
# The prediction knows the machine's limits in the run of the comparison, and the shapes. Nothing else: no attention, no norms, no waiting of one core for the other.
#
# time = max(bytes / bandwidth, operations / peak)
#
# On the diagonal a variant is as fast as the machine allows. Above it, it is slower than predicted.

# %%
LIMITS = WHOLE["roofline"]
ISAS = {"stairwell, portable": "portable", "stairwell, avx2": "avx2", "stairwell, avx512": "avx512", "stairwell, avx512bf16": "avx512bf16", "stairwell": "amx"}


def predicted(isa, rows, sequences=False):
    """Tokens a second."""
    operations = rows * 2e-9 * (weights + head) if sequences else gflop(rows)
    seconds = max(2e-9 * (weights + head) / LIMITS["read_gigabytes_per_second"], operations / LIMITS[f"{isa}_gflops"])
    return rows / seconds


points = []
for row in WHOLE["peers"]:
    isa = ISAS.get(row["peer"])
    if isa is None or f"{isa}_gflops" not in LIMITS:
        continue
    for rows in (128, 512, 4096):
        if row[f"prefill_{rows}"]:
            points.append((isa, f"prompt of {rows:,}", predicted(isa, rows), row[f"prefill_{rows}"]))
    for rows in (1, 8):
        if row[f"decode_{rows}"]:
            points.append((isa, f"decode, {rows}", predicted(isa, rows, True), row[f"decode_{rows}"]))
figure, axis = plt.subplots(figsize=(6.6, 4.6))
MARKS = {"decode, 1": "o", "decode, 8": "s", "prompt of 128": "^", "prompt of 512": "D", "prompt of 4,096": "v"}
for isa, what, expected, came in points:
    axis.plot([came], [expected], MARKS[what], ms=5, color=COLOURS[isa])
for isa in dict.fromkeys(point[0] for point in points):
    axis.plot([], [], "o", color=COLOURS[isa], label=isa)
for what, mark in MARKS.items():
    if any(point[1] == what for point in points):
        axis.plot([], [], mark, color=INK, label=what)
ends = np.array([min(min(p[2:]) for p in points) / 1.5, max(max(p[2:]) for p in points) * 1.5])
axis.plot(ends, ends, color=GREY, linewidth=1)
axis.set_xscale("log"), axis.set_yscale("log")
axis.set_xlabel("measured, tokens a second")
axis.set_ylabel("predicted")
axis.set_title("the diagonal is the speed of light")
axis.legend(ncols=2)
show(figure)
print("variant     what             predicted  measured  measured / predicted")
for isa, what, expected, came in points:
    print(f"{isa:11} {what:15} {expected:10.1f} {came:9.1f} {came / expected:10.2f}")
    assert 0.01 < came / expected < 3, (isa, what)

# %% [markdown]
# What lies far from the diagonal is the to-do list. Prompts of 4,096 have attention on top: half as many operations as the matrices have, which the prediction leaves out.
#
# ## 4. What another machine would do
#
# The same arithmetic, with the same parts of the limits reached as here, for bandwidths and peaks from 1 to 8 times those of this machine. Decode follows the first, prompts the second, and a prompt of 128 soon waits for memory.

# %%
ours = [point for point in points if point[0] == "amx"] or points
reached = {what: came / expected for _, what, expected, came in ours}
isa = ours[0][0]
print(f"tokens a second by {isa}")
print("times bandwidth  times peak   " + "  ".join(f"{what:>15}" for what in reached))
recorded = dict(LIMITS)
for bandwidth, peak in [(1, 1), (4, 1), (1, 4), (4, 4), (8, 4)]:
    LIMITS["read_gigabytes_per_second"] = recorded["read_gigabytes_per_second"] * bandwidth
    LIMITS[f"{isa}_gflops"] = recorded[f"{isa}_gflops"] * peak
    rows = {what: int(what.split()[-1].replace(",", "")) for what in reached}
    speeds = [part * predicted(isa, rows[what], what.startswith("decode")) for what, part in reached.items()]
    print(f"{bandwidth:15}  {peak:10}   " + "  ".join(f"{speed:15.1f}" for speed in speeds))
LIMITS.update(recorded)
