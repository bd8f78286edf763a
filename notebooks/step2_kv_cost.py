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
# # Step 2: what the KV cache costs, and what it saves
#
# [Chapter 2](../steps/step2-kv-cache/README.md) keeps K and V of every token. It trades arithmetic for memory. This
# notebook does the sums on both sides.
#
# 1. **Time**: the next token by recomputing and from the cache, as recorded by the benches of steps 1 and 2.
# 2. **Memory**: bytes of K and V for four models, with shared heads and without.
# 3. **Traffic**: what a decode step reads, weights against cache.
# 4. **Rings**: why `window + chunk − 1`, by trying every length.
# 5. **bf16**: what rounding K and V does to attention's output.
#
# It reads `benches/results/step1.json` and `step2.json` and needs no model and no GPU. To measure on your machine:
#
# ```text
# cargo bench --features step2 --bench step2
# python scripts/record_bench.py step2
# python notebooks/build.py    # executes this notebook anew
# ```

# %%
import io
import json
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
from IPython.display import Image, display
from matplotlib.colors import to_rgb

ROOT = next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "Cargo.toml").exists())
STEP1, STEP2 = (
    json.loads((ROOT / f"benches/results/step{n}.json").read_text(encoding="utf-8")) for n in (1, 2)
)
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


def column(rows, name):
    return np.array([row[name] for row in rows])


print("step 1:", STEP1["command"], "on", STEP1["machine"])
print("step 2:", STEP2["command"], "on", STEP2["machine"])
if "provisional" in STEP2:
    print("step 2 is provisional:", STEP2["provisional"])

# %% [markdown]
# ## 1. Time
#
# Step 1 first. One token by recomputing costs a forward pass over the whole sequence. Linear layers and norms do the same
# work for each row; attention's work grows with the square of the length. So the time of a pass should follow
# $a\,t + b\,t^2$. The recorded parts say which is which.

# %%
parts = STEP1["parts"]
t = column(parts, "tokens")
per_row = sum(column(parts, name) for name in ("embedding", "norms", "linear"))
attention = column(parts, "attention")
a = np.median(per_row / t)
b = np.median(attention[-3:] / t[-3:] ** 2.0)

fig, ax = plt.subplots(figsize=(6.8, 2.7))
lengths = np.linspace(1, t[-1], 200)
ax.plot(t, per_row * 1e3, "o", color=BLUE, label="embedding, norms, linear")
ax.plot(lengths, a * lengths * 1e3, "-", color=BLUE, linewidth=1, label="a · t")
ax.plot(t, attention * 1e3, "o", color=ORANGE, label="attention")
ax.plot(lengths, b * lengths**2 * 1e3, "-", color=ORANGE, linewidth=1, label="b · t²")
ax.set(xlabel="tokens in the sequence", ylabel="ms of one forward pass")
ax.set_title("Step 1: the parts of a pass, and the two terms")
ax.legend(loc="upper left", ncols=2)
show(fig)

slope = {
    name: np.polyfit(np.log(t[-3:]), np.log(y[-3:]), 1)[0]
    for name, y in [("per row", per_row), ("attention", attention)]
}
print(
    f"exponent of the length, over the last three: per row {slope['per row']:.2f}, attention {slope['attention']:.2f}"
)
# A little above 1 where the rows no longer fit into the cache beside the weights.
assert 0.8 < slope["per row"] < 1.5, "work per row is about linear in the length"
assert 1.7 < slope["attention"] < 2.3, "attention is quadratic"

# %% [markdown]
# Now the next token by both ways. With the cache, one row goes through the linear layers, whatever the length. Only
# attention's dot products grow, and those linearly: one query against $t$ keys.

# %%
rows = STEP2["next_token"]
n = column(rows, "tokens")
ways = {"recompute": ORANGE, "cache_f32": BLUE, "cache_bf16": GREEN}
seconds = {name: column(rows, name) for name in ways}
labels = {"recompute": "recompute", "cache_f32": "cache, f32", "cache_bf16": "cache, bf16"}
fig, (left, right) = plt.subplots(1, 2, figsize=(7.6, 2.9))
for name, colour in ways.items():
    dashed = "--" if name == "cache_bf16" else "-"
    left.plot(
        n, seconds[name] * 1e3, dashed, marker="o", markersize=4, color=colour, label=labels[name]
    )
left.set(
    xscale="log", yscale="log", xlabel="tokens in the sequence", ylabel="ms", title="The next token"
)
left.set_xticks(n, [str(x) for x in n])
left.minorticks_off()
left.legend(loc="upper left")
ratio = seconds["recompute"] / seconds["cache_f32"]
right.bar([str(x) for x in n], ratio, color=BLUE)
right.set(
    xlabel="tokens in the sequence", ylabel="recompute / cache", title="How many times as fast"
)
show(fig)

for length, times in zip(n, ratio):
    print(f"{length:5} tokens: {times:6.0f} times as fast")
assert (ratio > 5).all(), "the cache pays at every length that was measured"
assert ratio[-1] > 10 * ratio[0], "and the more, the longer the sequence"
growth = seconds["cache_f32"][-1] / seconds["cache_f32"][0]
assert growth < 0.25 * n[-1] / n[0], "a decode step grows far slower than the length"

# %% [markdown]
# A prompt gets nothing from a cache that is empty: prefill is the same pass as a recomputation, and it writes K and V
# besides. Its rows share every weight that is read, so a row of a prefill is far cheaper than a row alone.

# %%
prefill = column(rows, "prefill")
row_alone = seconds["cache_f32"]
for length, whole, alone in zip(n, prefill, row_alone):
    print(
        f"{length:5} tokens: {whole / length * 1e6:6.0f} µs a row of a prefill, {alone * 1e6:6.0f} µs a row alone"
    )
assert (prefill / n < row_alone).all(), "rows together are cheaper than rows alone"

# %% [markdown]
# Rows through the model for $n$ tokens after a prompt of $p$: $n p + n (n-1)/2$ without a cache, and $p + n - 1$ with
# one. The last token is drawn and never computed.


# %%
def rows_recomputed(p, n):
    return n * p + n * (n - 1) // 2


def rows_cached(p, n):
    return p + n - 1


p = STEP2["generate_prompt_tokens"]
for row in STEP2["generate"]:
    assert row["tokens_computed_by_recompute"] == rows_recomputed(p, row["tokens"])
    assert row["tokens_computed_by_cache"] == rows_cached(p, row["tokens"])
    faster = row["recompute"] / row["cache"]
    print(
        f"{row['tokens']:5} new tokens: {row['recompute']:7.2f} s and {row['cache']:.3f} s, {faster:.0f} times"
    )
assert (rows_recomputed(4, 64), rows_cached(4, 64)) == (2272, 67), (
    "the counters that the chapter shows"
)

# %% [markdown]
# ## 2. Memory
#
# One token's K and V take $2 \cdot \text{layers} \cdot \text{kv heads} \cdot \text{head dim}$ elements. Parameters are
# counted from the shapes too; section 3 needs them.


# %%
class Model(NamedTuple):
    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int
    tied: bool
    head_norms: bool  # q_norm and k_norm, as Qwen3 has

    def elements(self, kv_heads=None):
        """Numbers in K and V of one token."""
        return 2 * self.layers * (kv_heads or self.kv_heads) * self.head_dim

    def parameters(self):
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (q + 2 * kv) + q * self.hidden
        norms = 2 * self.hidden + 2 * self.head_dim * self.head_norms
        table = self.vocab * self.hidden
        layers = self.layers * (attention + 3 * self.hidden * self.inner + norms)
        return layers + self.hidden + table * (1 if self.tied else 2)

    def read_in_a_step(self):
        """Parameters that one row multiplies with: all but the embedding table, unless it is lm_head too."""
        return self.parameters() - (0 if self.tied else self.vocab * self.hidden)


MODELS = [
    Model("demo", 4, 128, 4, 2, 32, 384, 2048, True, True),
    Model("Qwen3-0.6B", 28, 1024, 16, 8, 128, 3072, 151936, True, True),
    Model("Llama-3.2-1B", 16, 2048, 32, 8, 64, 8192, 128256, True, False),
    Model("Llama-3.1-8B", 32, 4096, 32, 8, 128, 14336, 128256, False, False),
]
DEMO, QWEN, LLAMA_1B, LLAMA_8B = MODELS
config = json.loads((ROOT / "models/demo/config.json").read_text(encoding="utf-8"))
for field, key in [
    ("layers", "num_hidden_layers"), ("heads", "num_attention_heads"), ("kv_heads", "num_key_value_heads"),
    ("head_dim", "head_dim"), ("hidden", "hidden_size"), ("inner", "intermediate_size"), ("vocab", "vocab_size"),
]:  # fmt: skip
    assert getattr(DEMO, field) == config[key], key
assert STEP2["kv_bytes_per_token"] == {"f32": 4 * DEMO.elements(), "bf16": 2 * DEMO.elements()}
assert 0.59e9 < QWEN.parameters() < 0.60e9 and 1.23e9 < LLAMA_1B.parameters() < 1.24e9
assert 8.02e9 < LLAMA_8B.parameters() < 8.04e9

print("K and V in bf16    a token     4,096 tokens   with a KV head for each head   weights")
for m in MODELS:
    token, mha = 2 * m.elements(), 2 * m.elements(m.heads)
    print(
        f"{m.name:14} {token:9,} B  {4096 * token / 1e9:10.3f} GB  {4096 * mha / 1e9:17.3f} GB"
        f"  {2 * m.parameters() / 1e9:17.3f} GB"
    )
assert [2 * m.elements() for m in MODELS] == [1024, 114_688, 32_768, 131_072]
assert 4096 * 2 * LLAMA_8B.elements(LLAMA_8B.heads) == 2**31, "2.15 GB without sharing"

# %%
fig, ax = plt.subplots(figsize=(6.8, 3))
context = np.geomspace(128, 131072, 60)
for m, colour in zip(MODELS[1:], (BLUE, RED, ORANGE)):
    ax.plot(context, 2 * m.elements() * context / 1e9, color=colour, linewidth=2, label=m.name)
    ax.plot(context, 2 * m.elements(m.heads) * context / 1e9, ":", color=colour)
    ax.axhline(2 * m.parameters() / 1e9, color=colour, linewidth=0.7, linestyle="--")
ax.set(xscale="log", yscale="log", xlabel="tokens kept", ylabel="GB in bf16")
ax.set_xticks([128, 1024, 4096, 16384, 131072], ["128", "1,024", "4,096", "16,384", "131,072"])
ax.minorticks_off()
ax.set_title("K and V (dotted: without head sharing) and the weights (dashed)")
ax.legend(loc="lower right")
show(fig)

# %% [markdown]
# **Reserved against used.** A contiguous slot must be as long as the longest sequence that it may hold. Take a machine
# with 24 GB and Llama-3.1-8B in bf16, nine tenths of what the weights leave for K and V, and sequences that end
# after 1,000 tokens on average.

# %%
free = 0.9 * (24e9 - 2 * LLAMA_8B.parameters())
token = 2 * LLAMA_8B.elements()
print(f"room for {free / token:,.0f} tokens of K and V")
for longest in (2048, 8192, 32768, 131072):
    slots = int(free // (longest * token))
    used = 1000 * token * slots / free
    print(f"max_model_len {longest:7,}: {slots:3} slots, {used:6.1%} of the memory used")
assert free // (131072 * token) == 0, "the whole context does not fit once"
print(f"if every sequence took what it uses: {free / (1000 * token):.0f} sequences")

# %% [markdown]
# That gap is the reason for chapter 4. With blocks of a few tokens, a sequence holds what it uses.
#
# ## 3. Traffic
#
# A decode step multiplies one row with every weight, and reads K and V of every token before it. There
# is one row, so each byte is read for it alone. Once a model is too large for the processor's own caches, the step cannot be
# faster than $\text{bytes} / \text{bandwidth}$. At which length do K and V outweigh the weights?

# %%
fig, axes = plt.subplots(1, 3, figsize=(7.8, 2.7), sharex=True)
context = np.array([1024, 4096, 16384, 65536])
for ax, m in zip(axes, MODELS[1:]):
    weights, kept = 2 * m.read_in_a_step() / 1e9, 2 * m.elements() * context / 1e9
    labels = [f"{x // 1024}k" for x in context]
    ax.bar(labels, weights, color=GREY, label="weights")
    ax.bar(labels, kept, bottom=weights, color=BLUE, label="K and V")
    ax.set(title=m.name, xlabel="tokens kept")
axes[0].set_ylabel("GB read by a decode step, bf16")
axes[0].legend(loc="upper left")
show(fig)

for m in MODELS:
    equal = m.read_in_a_step() / m.elements()
    print(
        f"{m.name:14} reads {2 * m.read_in_a_step() / 1e9:7.3f} GB of weights; as much K and V at {equal:9,.0f} tokens"
    )
assert 10_000 < QWEN.read_in_a_step() / QWEN.elements() < 11_000
assert 110_000 < LLAMA_8B.read_in_a_step() / LLAMA_8B.elements() < 120_000

# %% [markdown]
# Up to there, most of a decode step goes into reading weights for a single row. Several sequences in one batch read them
# once together. That is chapter 3.
#
# ## 4. Rings
#
# A layer with a sliding window of $w$ keys needs no more than $w$ tokens, if they come one at a time. A chunk of $c$ tokens is
# written at once and then attends, row by row. Try every ring against every window and chunk, over a sequence of 40 tokens,
# and note the smallest that never loses a key that a row must see.


# %%
def loses(ring, window, chunk, length=40):
    """Whether some row of some chunk finds another token than its own key."""
    places = np.full(ring, -1)
    for start in range(0, length, chunk):
        rows = np.arange(start, min(start + chunk, length))
        for row in rows:
            places[row % ring] = row
        for row in rows:
            seen = np.arange(max(0, row - window + 1), row + 1)
            if (places[seen % ring] != seen).any():
                return True
    return False


windows, chunks = range(1, 9), range(1, 7)
smallest = {
    (w, c): next(ring for ring in range(1, 41) if not loses(ring, w, c))
    for w in windows
    for c in chunks
}
assert all(ring == w + c - 1 for (w, c), ring in smallest.items()), "window + chunk − 1, always"
assert all(loses(w, w, c) for w in windows for c in chunks if c > 1), "the window alone never does"
assert not any(loses(w, w, 1) for w in windows), "but for chunks of one token, as in decode"
print(f"{len(smallest)} windows and chunks: the smallest ring is window + chunk − 1 in each")

# %% [markdown]
# What a ring saves, for Mistral 7B v0.1 (32 layers, 8 KV heads of 128, a window of 4,096 in every layer), one sequence
# of 32,768 tokens in bf16:

# %%
token = 2 * 2 * 32 * 8 * 128
for chunk in (1, 512, 4096, 32768):
    kept = min(32768, 4096 + chunk - 1)
    print(f"chunks of {chunk:6,}: {kept:6,} tokens kept, {kept * token / 1e9:.2f} GB")
assert min(32768, 4096 + 32768 - 1) == 32768, "a prompt in one piece leaves nothing to save"

# %% [markdown]
# ## 5. bf16
#
# `--kv-dtype bf16` rounds K and V to 8 significant bits as they are written. Scores and sums stay f32. How far does attention's
# output move? Random queries, keys and values of a head of 128, over a growing number of keys; the error is relative to
# the output's size.


# %%
def to_bf16(x):
    """Rounded to nearest, ties to even, as f32."""
    bits = x.astype(np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded & 0xFFFF0000).view(np.float32)


def attend(q, k, v):
    """softmax(q kᵀ / √d) v for queries [m, d] over keys [n, d]."""
    scores = q @ k.T / np.sqrt(k.shape[1])
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ v


rng = np.random.default_rng(2)
sizes = [16, 64, 256, 1024, 4096]
errors = []
for count in sizes:
    q, k, v = (rng.standard_normal((m, 128)).astype(np.float32) for m in (64, count, count))
    exact, rounded = attend(q, k, v), attend(q, to_bf16(k), to_bf16(v))
    errors.append(np.linalg.norm(rounded - exact) / np.linalg.norm(exact))
fig, ax = plt.subplots(figsize=(6.8, 2.3))
ax.plot(sizes, errors, marker="o", color=GREEN, label="K and V in bf16")
ax.axhline(
    2.0**-8, color=GREY, linewidth=0.9, linestyle=":", label="largest error of one rounding, 2⁻⁸"
)
ax.set(xscale="log", xlabel="keys", ylabel="relative error of the output", ylim=(0, None))
ax.set_xticks(sizes, [f"{s:,}" for s in sizes])
ax.minorticks_off()
ax.legend(loc="lower right")
show(fig)

print("relative error:", ", ".join(f"{e:.1e} at {s:,} keys" for s, e in zip(sizes, errors)))
x = rng.standard_normal(100_000).astype(np.float32)
assert np.abs(to_bf16(x) / x - 1).max() <= 2.0**-8, "half a unit of the last of 8 significant bits"
assert to_bf16(np.float32([1.0, -2.5, 0.0])).tolist() == [1.0, -2.5, 0.0], "what bf16 holds stays"
assert max(errors) < 2.0**-7, "attention averages over many keys: errors do not add up"

# %% [markdown]
# It is small, and it is not nothing: the same prompt may take another word where two logits are close. So f32 is the default
# here, and bf16 is for those who need the memory.
#
# ## Try it
#
# - A sequence of 8,192 tokens of Llama-3.1-8B in f32, in bf16, in 8 bits: how many GB each? Predict, then extend section 2.
# - How long must the prompts be until a decode step of Llama-3.2-1B reads more K and V than weights? And with 8 sequences in
#   one batch, which share the weights but not K and V?
# - In section 4, let rows attend one by one, each right after its own write. Which ring is large enough now, and what would it
#   cost the engine?
