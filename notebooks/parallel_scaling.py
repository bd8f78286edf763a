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
# # Step 7: cutting a model, on machines that we have not
#
# [Chapter 7](../steps/step7-parallel/README.md) cuts a model among ranks. Its machine has two cores. This notebook works out on paper what the same cuts cost and bring on GPUs, and checks the
# arithmetic where it can: against what was measured here, and against figures that others have published.
#
# 1. **A sum**: α for a step, β for a byte; fitted to what threads and MPI processes took here.
# 2. **The bubble**: measured against the formula.
# 3. **A decode step** of Llama 3 8B and 70B and Qwen3 32B: weights, K and V, and sums, over NVLink, PCIe and Ethernet.
# 4. **Tensor against pipeline against both**: latency, and throughput.
# 5. **A prompt**, and the pipeline's bubble.
# 6. **Published figures** beside the model's.
#
# It reads `benches/results/step7.json`, and needs no model and no GPU. To record yours:
#
# ```text
# python scripts/record_step7.py
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
STEP7 = json.loads((ROOT / "benches/results/step7.json").read_text(encoding="utf-8"))
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


print(STEP7["command"], "on", STEP7["machine"])

# %% [markdown]
# ## 1. A sum
#
# An all_reduce of n bytes among p ranks can be done in many ways. Two of them:
#
# - everybody sends everything to everybody, and adds up (what `Threads` and `Mpi` do): one step, and each receives p − 1 times n bytes: α + (p − 1) n β;
# - a ring: 2 (p − 1) steps, and each sends 2 (p − 1) / p times n bytes: 2 (p − 1) α + 2 (p − 1) / p · n β.
#
# α is what a step takes however short, β what a byte takes. Here is what was measured, and the first formula with α and β fitted to it, by least squares of relative errors. Numbers are f32: 4 bytes.


# %%
def fit(rows):
    """α and β of one means and one number of ranks."""
    seconds = np.array([row["seconds"] for row in rows])
    x = np.array([[1.0, (row["ranks"] - 1) * 4 * row["numbers"]] for row in rows])
    (alpha, beta), *_ = np.linalg.lstsq(x / seconds[:, None], np.ones(len(rows)), rcond=None)
    return max(alpha, 0.0), max(beta, 0.0)


groups = sorted({(row["comm"], row["ranks"]) for row in STEP7["all_reduce"]})
fig, axes = plt.subplots(1, len(groups), figsize=(11, 2.9), sharey=True, squeeze=False)
for axis, (comm, ranks) in zip(axes[0], groups):
    rows = [row for row in STEP7["all_reduce"] if (row["comm"], row["ranks"]) == (comm, ranks)]
    alpha, beta = fit(rows)
    n = np.array([row["numbers"] for row in rows])
    axis.loglog(n, [row["seconds"] * 1e6 for row in rows], "o", color=BLUE, label="measured")
    axis.loglog(n, (alpha + (ranks - 1) * 4 * n * beta) * 1e6, color=ORANGE, label="α + (p − 1) n β")
    axis.set_title(f"{comm}, {ranks} ranks")
    axis.set_xlabel("numbers")
    assert alpha > 0 and beta > 0
    print(f"{comm:8} {ranks} ranks: α = {alpha * 1e6:6.1f} µs, 1/β = {1e-9 / beta:5.2f} GB/s")
axes[0][0].set_ylabel("µs")
axes[0][0].legend()
show(fig)

# %% [markdown]
# One line does not fit everything: small sums stay in a core's cache, large ones don't, and processes copy through memory that they share. For a decode step only the left end counts. A row of hidden states
# is 1,024 numbers here, and 8,192 in a model of 70 billion.
#
# ## 2. The bubble

# %%
stages = STEP7["bubbles"]
m = np.array([row["micro_batches"] for row in stages])
fig, axis = plt.subplots(figsize=(6, 2.8))
axis.plot(m, [row["bubble"] for row in stages], "o", color=BLUE, label="measured, 2 stages")
axis.plot(m, 1 / (m + 1), color=ORANGE, label="(stages − 1) / (m + stages − 1)")
axis.set_xlabel("micro-batches m")
axis.set_ylabel("part of the time")
axis.set_ylim(0)
axis.legend()
show(fig)
for row in stages:
    assert abs(row["bubble"] - row["bubble_formula"]) < 0.12, row

# %% [markdown]
# ## 3. A decode step
#
# The model's arithmetic, for one rank of p slices and s stages, a batch of b sequences of c tokens:
#
# - weights: their bytes / (p · s) over the memory's bandwidth;
# - K and V: b · c · bytes per token / (p · s) over the same. A rank holds whole heads: more slices than heads of K and V do not make its part smaller;
# - products: 2 · weights · b / (p · s) over the peak of its units. It takes the larger of reading and computing;
# - sums: (2 · layers / s) all_reduces of b · hidden · 2 bytes, at once or by a ring, whichever takes less;
# - between stages: b · hidden · 2 bytes once.
#
# A stage waits for the one before it, so a token of one batch takes s times a stage's time. With s batches in flight, all stages work, and tokens come s times as often.
#
# **Assumed.** bf16 everywhere. An H100 SXM as in [NVIDIA's data sheet](https://www.nvidia.com/en-us/data-center/h100/): 3.35 TB/s of memory, 989 · 10¹² operations a second in bf16 without sparsity, 900 GB/s of NVLink in both
# directions, so 450 in one. PCIe 5 × 16: 64 GB/s in one, PCIe 4 half of it. Ethernet: 100 Gbit/s. A step of a collective takes α = 3 µs by NVLink, 8 µs by PCIe, 25 µs by Ethernet: these are round guesses of ours, not measured. Section 4 asks what larger
# ones would change. One measurement by others: about 6 µs for a small all_reduce on 2 H100s ([NCCL issue 1259](https://github.com/NVIDIA/nccl/issues/1259), 22 April 2024). We reckon with 70 % of the
# memory's bandwidth and 60 % of the units' peak. Shapes are those of each model's config.json on the Hugging Face hub.

# %%
MODELS = {  # layers, hidden, heads of K and V, width of a head, billions of weights
    "Llama 3 8B": (32, 4096, 8, 128, 8.03),
    "Qwen3 32B": (64, 5120, 8, 128, 32.8),
    "Llama 3 70B": (80, 8192, 8, 128, 70.6),
}
LINKS = {"NVLink": (3e-6, 450e9), "PCIe 5": (8e-6, 64e9), "PCIe 4": (8e-6, 32e9), "100 Gbit Ethernet": (25e-6, 12.5e9)}
MEMORY, PEAK = 0.7 * 3.35e12, 0.6 * 989e12


def all_reduce(p, n, link):
    """Seconds, in the better of the two ways."""
    alpha, bandwidth = LINKS[link]
    ring = 2 * (p - 1) * alpha + 2 * (p - 1) / p * n / bandwidth
    at_once = alpha + (p - 1) * n / bandwidth
    return min(ring, at_once) if p > 1 else 0.0


def stage(name, p, s, link, b=1, c=1024, rows=None, weight_bytes=2, kv_bytes=2):
    """Seconds of one stage in a pass of `rows` rows (b sequences that decode, unless it is said), and of them in sums."""
    layers, hidden, kv_heads, head_dim, billions = MODELS[name]
    rows = b if rows is None else rows
    weights = billions * 1e9
    kv = b * c * 2 * layers * kv_heads * head_dim * kv_bytes
    read = (weights * weight_bytes / p + kv / min(p, kv_heads)) / s / MEMORY
    compute = 2 * weights * rows / (p * s) / (PEAK * 2 / weight_bytes)  # fp8 multiplies twice as fast as bf16
    sums = 2 * layers / s * all_reduce(p, rows * hidden * 2, link)
    return max(read, compute) + sums, sums


def hop(name, rows, link):
    alpha, bandwidth = LINKS[link]
    return alpha + rows * MODELS[name][1] * 2 / bandwidth


fig, axes = plt.subplots(1, 3, figsize=(11, 3), sharex=True)
for axis, name in zip(axes, MODELS):
    for link, color in zip(LINKS, (BLUE, ORANGE, PURPLE, GREEN)):
        p = np.array([1, 2, 4, 8])
        axis.plot(p, [stage(name, int(k), 1, link)[0] * 1e3 for k in p], "o-", color=color, label=link)
    axis.set_title(name)
    axis.set_xlabel("slices")
    axis.set_ylim(0)
axes[0].set_ylabel("ms for a token, batch 1")
axes[0].legend()
show(fig)
for name in MODELS:
    times = {link: stage(name, 8, 1, link) for link in LINKS}
    print(f"{name}: 8 slices, batch 1: " + ", ".join(f"{link} {t * 1e3:.1f} ms, {100 * s / t:.0f} % of it sums" for link, (t, s) in times.items()))
    assert times["NVLink"][0] < times["PCIe 5"][0] < times["PCIe 4"][0] < times["100 Gbit Ethernet"][0]

# %% [markdown]
# The larger the model, the better it is cut: its bytes grow faster than its rows. By NVLink sums are a small part. By Ethernet they are most of the small model's time: eight machines, and not three times as fast.
#
# ## 4. Tensor against pipeline against both
#
# Sixteen GPUs: two machines of eight, NVLink within and Ethernet between. Slices that cross machines are counted with Ethernet's α and β, which is what a ring through both waits for.
# A sum in two levels, within machines first, would send less: 16 × 1 is drawn worse than it need be.
#
# All cuts get the same sequences. A pipeline of s stages must share them among s batches to have all stages at work; each of the batches is then that much smaller.

# %%
CUTS = [(16, 1), (8, 2), (4, 4), (2, 8), (1, 16)]


def cut(name, p, s, b):
    """Seconds for a token of a batch of b, and tokens a second with s such batches in flight: s · b sequences."""
    link = "NVLink" if p <= 8 else "100 Gbit Ethernet"
    between = "100 Gbit Ethernet" if s > 1 else None
    one, _ = stage(name, p, s, link, b=b)
    hops = hop(name, b, between) if between else 0.0
    latency = s * one + (s - 1) * hops
    return latency, b / (one + hops)


TOTALS = (256, 1024)
fig, axes = plt.subplots(1, 3, figsize=(11, 3))
for name, color in zip(MODELS, (BLUE, ORANGE, GREEN)):
    x = range(len(CUTS))
    axes[0].plot(x, [cut(name, p, s, 1)[0] * 1e3 for p, s in CUTS], "o-", color=color, label=name)
    for axis, total in zip(axes[1:], TOTALS):
        axis.plot(x, [cut(name, p, s, total / s)[1] for p, s in CUTS], "o-", color=color)
for axis, title in zip(axes, ["ms for a token, batch 1", *[f"tokens/s, {n:,} sequences in all" for n in TOTALS]]):
    axis.set_title(title)
    axis.set_xticks(range(len(CUTS)), [f"{p} × {s}" for p, s in CUTS])
    axis.set_xlabel("slices × stages")
    axis.set_ylim(0)
axes[0].legend()
show(fig)
best = {name: min(CUTS, key=lambda c: cut(name, *c, 1)[0]) for name in MODELS}
print("least time for a token:", best)
assert set(best.values()) == {(8, 2)}
for total in TOTALS:
    most = {name: max(CUTS, key=lambda c: cut(name, *c, total / c[1])[1]) for name in MODELS}
    print(f"most tokens a second, {total} sequences:", most)
    assert set(most.values()) <= {(8, 2), (4, 4)}
guess = LINKS["NVLink"]
for alpha in (1e-6, 3e-6, 10e-6, 20e-6):
    LINKS["NVLink"] = (alpha, guess[1])
    assert all(min(CUTS, key=lambda c: cut(name, *c, 1)[0]) == (8, 2) for name in MODELS)
    shares = {name: stage(name, 8, 1, "NVLink") for name in MODELS}
    print(f"α = {alpha * 1e6:2.0f} µs by NVLink, 8 slices: " + ", ".join(f"{name} {100 * s / t:.0f} % sums" for name, (t, s) in shares.items()))
LINKS["NVLink"] = guess

# %% [markdown]
# The least latency is slices within a machine and stages between: 8 × 2. More slices would send sums over Ethernet; fewer slices read more on each GPU. That holds for α from 1 to 20 µs by NVLink,
# though how much sums cost does not.
#
# For throughput the same 8 × 2 gives most with 256 sequences. With 1,024 it is about even with 4 × 4, or behind it. A long pipeline says least, and still loses at the same load: each of its batches is small, and a stage reads all of
# its weights for it. It catches up only where it is given more sequences than the others.
#
# ## 5. A prompt, and the pipeline's bubble
#
# A prompt of 4,096 tokens on eight GPUs. Stages get 4 micro-batches each, as `micro_batch_count` gives, so m = 4 s: m + s − 1 turns, and each stage waits (s − 1) / (m + s − 1) of the time. Each turn ends with a hop that nothing
# hides. Left out: attention's own products, which grow with the square of the prompt and are cut as the rest is.

# %%
EIGHT = [(8, 1), (4, 2), (2, 4), (1, 8)]


def prefill(name, p, s, link, rows=4096):
    """Seconds for a prompt, and the part of it that a stage waits."""
    m = 4 * s if s > 1 else 1
    one, _ = stage(name, p, s, link, c=rows, rows=rows / m)
    turn = one + (hop(name, rows / m, link) if s > 1 else 0.0)
    return (m + s - 1) * turn, (s - 1) / (m + s - 1)


fig, axes = plt.subplots(1, 3, figsize=(11, 3))
for axis, name in zip(axes, MODELS):
    for link, color in zip(LINKS, (BLUE, ORANGE, PURPLE, GREEN)):
        axis.plot(range(len(EIGHT)), [prefill(name, p, s, link)[0] * 1e3 for p, s in EIGHT], "o-", color=color, label=link)
    axis.set_yscale("log")
    axis.set_title(name)
    axis.set_xticks(range(len(EIGHT)), [f"{p} × {s}" for p, s in EIGHT])
    axis.set_xlabel("slices × stages")
axes[0].set_ylabel("ms for the prompt")
axes[0].legend()
show(fig)
for p, s in EIGHT:
    print(f"{p} × {s}: a stage waits {100 * prefill('Llama 3 70B', p, s, 'NVLink')[1]:.0f} %; Llama 3 70B: " + ", ".join(f"{link} {prefill('Llama 3 70B', p, s, link)[0] * 1e3:.0f} ms" for link in LINKS))
for name in MODELS:
    for link in LINKS:
        assert (prefill(name, 1, 8, link)[0] < prefill(name, 8, 1, link)[0]) == (link != "NVLink"), (name, link)

# %% [markdown]
# A prompt has long sums, so here bytes count more than α. By PCIe and Ethernet eight stages beat eight slices, bubble and all. By NVLink they do not: 32 micro-batches of 128 rows are so short that each is bound by reading
# the weights, not by multiplying. Fewer micro-batches would read less and wait more.
#
# ## 6. Published figures
#
# NVIDIA's [TensorRT-LLM 0.5.0](https://raw.githubusercontent.com/NVIDIA/TensorRT-LLM/release/0.5.0/docs/source/performance.md) gives output tokens a second on H100s in fp8: LLaMA 70B, 4 GPUs, 64 sequences. That release is older than Llama 3, so its model is
# Llama 2; we compute with Llama 3's shape, whose vocabulary is larger and whose layers are alike. The page was read on 27 November 2026. Prompts
# first, then a decode step for each token, with one byte for a weight and two for a number of K and V (the page does not say which). For vLLM and SGLang we found plots for these models, and no table with all of what the
# arithmetic needs, so no points of theirs are shown.

# %%
PUBLISHED = {(128, 128): 3317, (128, 2048): 2616, (2048, 128): 843, (2048, 2048): 1583}
print("input  output  published  computed  published / computed")
for (prompt, output), tokens in PUBLISHED.items():
    prefill, _ = stage("Llama 3 70B", 4, 1, "NVLink", b=64, c=prompt, rows=64 * prompt, weight_bytes=1)
    lengths = np.linspace(prompt, prompt + output, 16)
    decode = np.mean([stage("Llama 3 70B", 4, 1, "NVLink", b=64, c=c, weight_bytes=1)[0] for c in lengths])
    computed = 64 * output / (prefill + output * decode)
    print(f"{prompt:5}  {output:6}  {tokens:9}  {computed:8.0f}  {tokens / computed:.2f}")
    assert 0.2 < tokens / computed < 1.2

# %% [markdown]
# The arithmetic is meant as an upper bound, though its 70 % and 60 % are assumed. It leaves out launches, sampling, the scheduler, and sums that are not a perfect ring. An engine of 2023 got a part of it; which part, the last column says.
