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
# # Step 4: memory, in slots and in blocks
#
# [Chapter 4](../steps/step4-paged-kv/README.md) keeps K and V in blocks of a few tokens, which a request gets as it grows. This notebook
# reads what was recorded, and checks the chapter's claims on it.
#
# 1. **Waste**: memory that is held and has no token, in slots and in blocks of several sizes.
# 2. **Concurrency**: requests at a time in the same memory.
# 3. **The table**: what it costs attention to follow one.
# 4. **The prefix cache**: prompts that begin the same way.
# 5. **Preemption**: a pool that is too small.
# 6. **Bytes**: K and V in f32, bf16 and fp8.
# 7. **The manager**: its operations against a step of the model.
#
# It reads `benches/results/step4.json`, and needs no model and no GPU. To record yours:
#
# ```text
# cargo bench --features step4 --bench step4
# python scripts/record_bench.py step4
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
STEP4 = json.loads((ROOT / "benches/results/step4.json").read_text(encoding="utf-8"))
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


def by_way(part):
    return {row["way"]: row for row in STEP4[part]["rows"]}


print(STEP4["command"], "on", STEP4["machine"])
print("load average while it was recorded:", STEP4["load_average"])
if "provisional" in STEP4:
    print("provisional:", STEP4["provisional"])

# %% [markdown]
# ## 1. Waste
#
# Step 3's mixed workload: most outputs are short, one in eight is long. A slot must be as long as the longest sequence that may
# come. Of blocks, only the last one is not full: if lengths are spread evenly, $(b - 1) / 2$ places of $b$ are unused.

# %%
waste = by_way("waste")
slots, slots_2048 = waste["slots"], waste["slots_2048"]
paged = [row for row in STEP4["waste"]["rows"] if row["attention"] == "paged"]
sizes, unused = column(paged, "block_size"), column(paged, "kv_unused_tokens_per_request")
names = [f"slots of {slots_2048['max_model_len']:,}", f"slots of {slots['max_model_len']}"]
names += [f"blocks of {size}" if size > 1 else "blocks of 1" for size in sizes[::-1]]
rows = [slots_2048, slots, *paged[::-1]]

fig, (left, right) = plt.subplots(1, 2, figsize=(7.8, 2.7), width_ratios=[3, 2])
used = 100 * column(rows, "kv_utilization")
left.barh(names, used, color=[GREY, GREY] + [PURPLE] * len(paged))
for i, percent in enumerate(used):
    left.text(percent + 1, i, f"{percent:.0f}", va="center")
left.set(xlabel="% of what requests held that had a token", xlim=(0, 112))
left.invert_yaxis()
left.grid(False)
right.plot(sizes, unused, "o", color=PURPLE, label="recorded")
right.plot(sizes, (sizes - 1) / 2, "-", color=GREY, linewidth=1, label="(b − 1) / 2")
right.set(xlabel="tokens of a block, b", ylabel="unused tokens a request")
right.set_xticks(sizes)
right.legend()
show(fig)

for name, row in zip(names, rows):
    print(f"{name:15} {row['kv_utilization']:6.1%} used, {row['kv_unused_tokens_per_request']:7.1f} tokens unused a request")
assert len({row["steps"] for row in rows}) == 1, "the same schedule, whatever the memory looks like"
assert (unused <= sizes - 1).all() and unused[0] == 0, "less than a block a request"
assert (abs(unused - (sizes - 1) / 2) < 0.25 * sizes).all(), "about half a block"
assert slots["kv_utilization"] < 0.5 < 0.85 < waste["paged_16"]["kv_utilization"]

# %% [markdown]
# ## 2. Concurrency
#
# nano-vllm's workload: 256 requests, prompts and outputs of 100 to 1,024 tokens, all of them there at the start. Its own setting for
# the longest sequence is 4,096. Every way below has the same memory, 32,768 tokens. Slots of 2,048 are for somebody who knows
# beforehand how long the longest request will be.

# %%
concurrency = by_way("concurrency")
room = STEP4["concurrency"]["max_kv_tokens"]
ways = {
    "contiguous_4096": ("slots of 4,096", GREY), "contiguous_2048": ("slots of 2,048", GREY), "paged": ("blocks of 16", PURPLE),
    "paged_32": ("blocks, 32 at a time", BLUE), "paged_swap": ("blocks, swap", GREEN),
}  # fmt: skip
fig, axes = plt.subplots(1, 3, figsize=(7.8, 2.5), sharey=True)
labels, colours = [label for label, _ in ways.values()], [colour for _, colour in ways.values()]
rows = [concurrency[way] for way in ways]
for ax, key, title in zip(axes, ["mean_running", "steps", "tokens_computed"], ["requests at a time, mean", "steps", "tokens computed"]):
    values = column(rows, key)
    ax.barh(labels, values, color=colours)
    for i, value in enumerate(values):
        ax.text(value, i, f" {value:,.0f}", va="center", fontsize=8)
    ax.set(title=title, xlim=(0, 1.35 * values.max()))
    ax.set_xticks([])
    ax.grid(False)
axes[0].invert_yaxis()
show(fig)

for (label, _), row in zip(ways.values(), rows):
    print(
        f"{label:20} mean {row['mean_running']:4.1f}, peak {row['peak_running']:2}; {row['steps']:6,} steps,"
        f" {row['kv_utilization']:.0%} used, {row['preemptions']:3} preemptions"
    )
for length in (4096, 2048):
    ratio = STEP4["concurrency"][f"paged_over_contiguous_{length}"]
    print(f"blocks over slots of {length:,}: {ratio['mean_running']:.1f} times as many on average, {ratio['peak_running']:.1f} at the peak")
assert STEP4["concurrency"]["paged_over_contiguous_4096"]["mean_running"] >= 2.5
assert concurrency["contiguous_4096"]["peak_running"] == room // 4096
assert concurrency["contiguous_2048"]["peak_running"] == room // 2048

# %% [markdown]
# **Where the number comes from.** A request with a prompt of $p$ and an output of $o$ tokens runs for $o$ steps and has
# $p + o / 2$ tokens on average. At a random moment a long output is met more often than a short one, so the mean over the requests
# that run is $E[o \, (p + o / 2)] / E[o]$.

# %%
lengths = np.arange(100, 1025)
mean_tokens = lengths.mean() + (lengths**2).mean() / (2 * lengths.mean())
at_most = room / (mean_tokens + concurrency["paged"]["kv_unused_tokens_per_request"])
print(f"{mean_tokens:.0f} tokens a running request: room for {at_most:.1f} at a time; recorded {concurrency['paged']['mean_running']}")
print(f"in slots of 4,096, {mean_tokens / 4096:.0%} would be used; recorded {concurrency['contiguous_4096']['kv_utilization']:.0%}")
assert 0.8 * at_most < concurrency["paged"]["mean_running"] < at_most, "less where it starts and ends with few"
assert abs(mean_tokens / 4096 - concurrency["contiguous_4096"]["kv_utilization"]) < 0.02

# %% [markdown]
# The peak is higher than that: prompts are let in as long as they fit, and they grow. Then the pool is full and the newest give way.
# Almost every request does so once here, and what it had is computed again. A limit of 32 at a time avoids nearly all of it.

# %%
again = {way: concurrency[way]["tokens_computed"] / concurrency["contiguous_4096"]["tokens_computed"] - 1 for way in ways}
print(", ".join(f"{ways[way][0]}: {extra:.1%}" for way, extra in again.items()), "computed again")
assert again["paged"] > 0.1 and again["paged_32"] < 0.05, "the limit is worth having"
assert again["paged_swap"] == 0, "what is swapped out is not computed again"

# %% [markdown]
# ## 3. The table
#
# Attention follows a block table: a piece of memory for each block instead of one. Left: a decode step of the demo model. Blocks of
# 2,048 hold a whole sequence, so there the layout is that of blocks, and there is nothing to follow. Right: the shapes of Qwen3-0.6B,
# blocks of 16 over slots.

# %%
decode, large = STEP4["decode"]["rows"], STEP4["indirection"]["rows"]
n = column(decode, "tokens")
fig, (left, right) = plt.subplots(1, 2, figsize=(7.8, 2.7))
lines = {
    "contiguous": ("slot", GREY), "paged_1": ("blocks of 1", RED), "paged_8": ("of 8", ORANGE), "paged_16": ("of 16", PURPLE),
    "paged_32": ("of 32", BLUE), "paged_2048": ("of 2,048", GREEN),
}  # fmt: skip
for way, (label, colour) in lines.items():
    dashed = "--" if way in ("contiguous", "paged_2048") else "-"
    left.plot(n, column(decode, way) * 1e3, dashed, marker="o", markersize=4, color=colour, label=label)
left.set(xscale="log", xlabel="tokens in the sequence", ylabel="ms of a decode step", ylim=(0, None), title="Demo model")
left.set_xticks(n, [f"{x:,}" for x in n])
left.minorticks_off()
left.legend(loc="upper left", ncols=2)
labels = [f"{row['sequences']} × {row['tokens']:,}" for row in large]
ratio = column(large, "paged_over_contiguous")
spread = [ratio - column(large, "lowest"), column(large, "highest") - ratio]
right.bar(labels, ratio, yerr=spread, color=PURPLE, ecolor=INK, capsize=3)
right.axhline(1, color=GREY, linestyle="--", linewidth=1)
right.set(xlabel="sequences × tokens", ylabel="blocks / slot, in time", title="Qwen3-0.6B's shapes", ylim=(0, 1.3))
show(fig)

for row in large:
    print(
        f"{row['sequences']} × {row['tokens']:5,} tokens: slot {row['contiguous_tokens_per_second']:5.1f} tokens/s,"
        f" blocks {row['paged_tokens_per_second']:5.1f}; {row['paged_over_contiguous']:.2f} of the time"
    )
assert (ratio < 1.1).all(), "within 10 %"
assert decode[-1]["paged_1"] > decode[-1]["paged_32"], "many small pieces take longer than few large ones"

# %% [markdown]
# A slot is laid out as `[tokens, kv_heads, head_dim]`, a block as `[kv_heads, block_size, head_dim]`: in a block, the tokens of one
# head lie side by side. Where a ratio is below 1, that is worth more than the table costs.
#
# ## 4. The prefix cache
#
# 32 prompts begin with the same 1,000 tokens and go on with 8 to 32 of their own.

# %%
shared = by_way("shared_prefix")
cache, no_cache = shared["cache"], shared["no_cache"]
fig, axes = plt.subplots(1, 3, figsize=(7.8, 2.1))
for ax, key, title, scale in [
    (axes[0], "tokens_computed", "tokens computed", 1), (axes[1], "ttft_seconds_p50", "first token, median, s", 1), (axes[2], "seconds", "all requests, s", 1),
]:  # fmt: skip
    values = [row[key] * scale for row in (no_cache, cache)]
    ax.bar(["without", "with"], values, color=[GREY, PURPLE])
    for i, value in enumerate(values):
        ax.text(i, value, f"{value:,.0f}" if value > 100 else f"{value:.2g}", ha="center", va="bottom", fontsize=8)
    ax.set(title=title, ylim=(0, 1.15 * max(values)))
    ax.set_yticks([])
    ax.grid(False)
show(fig)

prefix, size = STEP4["shared_prefix"]["prefix_tokens"], cache["block_size"]
found = (32 - 1) * (prefix // size * size)
print(f"{cache['cached_tokens']:,} of {cache['prompt_tokens']:,} prompt tokens were there: {cache['cached_tokens'] / cache['prompt_tokens']:.1%}")
print("without over with:", STEP4["shared_prefix"]["no_cache_over_cache"])
assert cache["cached_tokens"] == found, "all full blocks of the prefix, for all requests but the first"
assert no_cache["cached_tokens"] == 0
assert no_cache["tokens_computed"] - cache["tokens_computed"] == found, "what is cached is not computed"
assert STEP4["shared_prefix"]["no_cache_over_cache"]["seconds"] > 2

# %% [markdown]
# Shared blocks are also held once: with the cache, all the prefixes take the place of one.
#
# ## 5. Preemption
#
# 16 requests may run at a time, and the pool is too small for them. Those who give way are computed again, or swapped out
# to host memory and back. The tokens that they get are the same in every case.

# %%
preemption = by_way("preemption")
ways = {
    "enough": ("a pool that is large enough", GREY), "recompute_no_cache": ("recompute, no prefix cache", RED),
    "recompute": ("recompute", ORANGE), "swap_no_cache": ("swap, no prefix cache", BLUE), "swap": ("swap", GREEN),
}  # fmt: skip
rows = [preemption[way] for way in ways]
fig, axes = plt.subplots(1, 3, figsize=(7.8, 2.5), sharey=True)
labels, colours = [label for label, _ in ways.values()], [colour for _, colour in ways.values()]
for ax, key, title in zip(axes, ["preemptions", "tokens_computed", "seconds"], ["preemptions", "tokens computed", "seconds"]):
    values = column(rows, key)
    ax.barh(labels, values, color=colours)
    for i, value in enumerate(values):
        ax.text(value, i, f" {value:.2f}" if key == "seconds" else f" {value:,}", va="center", fontsize=8)
    ax.set(title=title, xlim=(0, 1.4 * values.max()))
    ax.set_xticks([])
    ax.grid(False)
axes[0].invert_yaxis()
show(fig)

for label, row in zip(labels, rows):
    print(f"{label:28} {row['steps']:4} steps, {row['mean_running']:4.1f} at a time, blocks out and back: {row['swapped_out']}, {row['swapped_in']}")
enough = preemption["enough"]
computed = {way: preemption[way]["tokens_computed"] for way in ways}
assert enough["preemptions"] == 0 and all(preemption[way]["preemptions"] > 0 for way in ways if way != "enough")
assert computed["enough"] == computed["swap"] == computed["swap_no_cache"], "nothing is computed twice"
assert computed["enough"] < computed["recompute"] < computed["recompute_no_cache"], "the cache still has a part of it"
assert all(row["swapped_out"] == row["swapped_in"] for row in rows), "all that goes out comes back"

# %% [markdown]
# ## 6. Bytes
#
# What a token takes decides how many fit. A decode step of the demo model, four sequences of 1,900 tokens:

# %%
dtypes = STEP4["kv_dtype"]["rows"]
demo = json.loads((ROOT / "models/demo/config.json").read_text(encoding="utf-8"))
vectors = 2 * demo["num_hidden_layers"] * demo["num_key_value_heads"]
for row in dtypes:
    print(
        f"{row['kv_dtype']:9} {row['bytes_per_token']:5,} bytes a token, {2**30 / row['bytes_per_token']:9,.0f} tokens in 1 GiB,"
        f" {row['decode_tokens_per_second']:6,.0f} tokens/s"
    )
assert [row["bytes_per_token"] for row in dtypes] == [vectors * demo["head_dim"] * 4, vectors * demo["head_dim"] * 2, vectors * (demo["head_dim"] + 4)]

# %% [markdown]
# In fp8 each vector has a scale of 4 bytes, so it is a little more than a quarter. Fewer bytes are faster only where a step waits for
# memory; converting them costs arithmetic. What rounding does to the output is not in this table.
#
# ## 7. The manager
#
# Its operations for a prompt of 1,000 tokens, in a pool of 4,096 blocks of 16.

# %%
seconds = STEP4["manager"]["seconds"]
meaning = {
    "reserve_release": "63 blocks taken and given back", "new_prompt": "a prompt that is not known: looked up, taken, hashed, given back",
    "append": "one more token of a decoding request", "lookup": "a prompt that is known: looked up", "adopt_release": "the same, taken and given back",
    "fork_write": "another sample of it: shared, one block copied, given back",
}  # fmt: skip
for name, text in meaning.items():
    print(f"{seconds[name] * 1e6:7.2f} µs  {text}")
step = decode[0]["paged_16"]
print(f"a decode step of the demo model takes {step * 1e6:,.0f} µs; {seconds['append'] / step:.4%} of that for each request's block table")
assert seconds["append"] < 0.01 * step
assert max(seconds.values()) < step, "no operation takes as long as a step of the smallest model"

# %% [markdown]
# ## Try it
#
# - In section 2, set the lengths of prompts and outputs to your own. How many requests fit into 32,768 tokens, and how many slots?
# - With blocks of 64, how much of section 1's gain is left for outputs of 8 tokens? Predict, then record it with `--output-len 8`.
# - Record section 5 with `--max-kv-tokens 1024`. When is swapping slower than computing again? Think of a model whose K and V are
#   large and whose weights are few.
