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
# # Step 3: a schedule, looked at
#
# [Chapter 3](../steps/step3-scheduling/README.md) puts rows of many requests into one batch. This notebook reads what the engine
# recorded, and checks the chapter's promises on it.
#
# 1. **A trace**: requests as lanes, tokens of each step against the budget, K and V reserved and used.
# 2. **The promises**, step by step: the budget, one unfinished prompt at most, nobody stalls.
# 3. **Policies**: steps and tokens a second, one at a time, static, continuous.
# 4. **Lengths**: how the gain of continuous batching depends on how much lengths differ. A simulation.
# 5. **The budget**: gaps between tokens against the first token of a long prompt.
# 6. **Slots**: how much of the reserved memory holds a token.
#
# It reads `benches/results/step3.json` and `notebooks/data/step3_trace.json`, and needs no model and no GPU. To record yours:
#
# ```text
# stairwell bench throughput --num-requests 8 --max-num-seqs 6 --max-batched-tokens 16 --input-len 4..12 \
#     --output-len 14..18:2,24..32:1 --late-prompt 50 --trace notebooks/data/step3_trace.json
# cargo bench --features step3 --bench step3
# python scripts/record_bench.py step3
# python notebooks/build.py    # executes this notebook anew
# ```

# %%
import io
import json
import random
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
from IPython.display import Image, display
from matplotlib.colors import to_rgb

ROOT = next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "Cargo.toml").exists())
STEP3 = json.loads((ROOT / "benches/results/step3.json").read_text(encoding="utf-8"))
TRACE = json.loads((ROOT / "notebooks/data/step3_trace.json").read_text(encoding="utf-8"))
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


print("policies:", STEP3["command"], "on", STEP3["machine"])
print("load average while it was recorded:", STEP3["load_average"])

# %% [markdown]
# ## 1. A trace
#
# The file is in Chrome's trace format: [ui.perfetto.dev](https://ui.perfetto.dev) opens it, and `stairwell timeline` draws it.
# A complete event has a start and a duration in microseconds. Thread 0 is the engine's steps, thread $i + 1$ is request $i$.

# %%
events = TRACE["traceEvents"]
budget, max_num_seqs = (TRACE["otherData"][key] for key in ("max_batched_tokens", "max_num_seqs"))
steps = sorted((e for e in events if e.get("cat") == "step"), key=lambda e: e["ts"])
prompts = {
    e["tid"]: e["args"]["prompt_tokens"]
    for e in events
    if e["name"] == "thread_name" and e["tid"] != 0
}
queued = {e["tid"]: e for e in events if e.get("cat") == "queued"}
chunks = [[] for _ in steps]  # of each step: (lane, first position, end)
number = {e["ts"]: i for i, e in enumerate(steps)}
for e in events:
    if e.get("cat") in ("prefill", "decode"):
        chunks[number[e["ts"]]].append((e["tid"], e["args"]["from"], e["args"]["to"]))
print(f"{len(prompts)} requests, {len(steps)} steps; at most {max_num_seqs} requests and {budget} tokens a step")

fig, ax = plt.subplots(figsize=(7.8, 2.9))
for lane in prompts:
    wait = queued[lane]
    ax.plot([wait["ts"] / 1e3, (wait["ts"] + wait["dur"]) / 1e3], [lane - 1] * 2, ":", color=GREY, linewidth=1)
for e in events:
    if e.get("cat") in ("prefill", "decode"):
        colour = ORANGE if e["cat"] == "prefill" else BLUE
        ax.barh(e["tid"] - 1, e["dur"] / 1e3, left=e["ts"] / 1e3, height=0.7, color=colour, edgecolor="white", linewidth=0.4)
ax.set(xlabel="ms", ylabel="request", title="Waiting (dotted), prefill (orange), decode (blue)")
ax.set_yticks(range(len(prompts)))
ax.invert_yaxis()
ax.grid(False)
show(fig)

# %%
fig, (top, bottom) = plt.subplots(2, 1, figsize=(7.8, 3.6), sharex=True)
prefill = np.array([sum(b - a for lane, a, b in c if a < prompts[lane]) for c in chunks])
decode = np.array([sum(b - a for lane, a, b in c if a >= prompts[lane]) for c in chunks])
x = np.arange(1, len(steps) + 1)
top.bar(x, decode, color=BLUE, label="decode")
top.bar(x, prefill, bottom=decode, color=ORANGE, label="prefill")
top.axhline(budget, color=RED, linestyle="--", linewidth=1, label="budget")
top.set(ylabel="tokens of a step", ylim=(0, 1.3 * budget))
top.legend(loc="upper center", ncols=3)
kv = [e["args"] for e in events if e["ph"] == "C" and e["name"] == "KV tokens"]
used = np.array([k["used"] for k in kv])
reserved = used + np.array([k["reserved, unused"] for k in kv])
bottom.bar(x, reserved, color=GREY, alpha=0.3, label="reserved")
bottom.bar(x, used, color=PURPLE, label="holds a token")
bottom.set(xlabel="step", ylabel="tokens in the KV cache")
bottom.legend(loc="upper right", ncols=2)
show(fig)

print(f"a step had {(prefill + decode).mean():.1f} of {budget} tokens on average, {(prefill + decode).max()} at most")
print(f"of the reserved K and V {used.sum() / reserved.sum():.0%} held a token")
assert ((prefill + decode) == [e["args"]["tokens"] for e in steps]).all()
assert (used <= reserved).all()

# %% [markdown]
# The last request's prompt is longer than the budget. It arrives while others decode, and takes what they leave.
#
# ## 2. The promises
#
# Each is checked on every step of the trace.

# %%
assert ((prefill + decode) <= budget).all(), "the budget"
assert max(len(c) for c in chunks) <= max_num_seqs, "requests at a time"

computed = dict.fromkeys(prompts, 0)
decoding, cut = set(), 0
for step, parts in enumerate(chunks):
    assert len({lane for lane, _, _ in parts}) == len(parts), "one chunk a request and step"
    for lane, a, b in parts:
        assert a == computed[lane] and b > a, "positions follow one another"
        assert a < prompts[lane] or b == a + 1, "a decode is one token"
        computed[lane] = b
    unfinished = [lane for lane, _, b in parts if b < prompts[lane]]
    assert len(unfinished) <= 1, "at most one prompt is unfinished"
    assert not unfinished or unfinished[0] == parts[-1][0], "and it is the last one"
    cut += len(unfinished)
    ended = {e["tid"] for e in events if e["name"] == "finished" and e["ts"] < steps[step]["ts"]}
    assert decoding - ended <= {lane for lane, _, _ in parts}, "nobody who decodes stalls"
    decoding |= {lane for lane, _, b in parts if b >= prompts[lane]}
print(f"all of it holds in {len(steps)} steps; in {cut} of them a prompt was cut")
admitted = [queued[lane]["ts"] + queued[lane]["dur"] for lane in sorted(prompts)]
assert admitted == sorted(admitted), "first come, first served"

# %% [markdown]
# **The bound on waiting.** Everybody who runs computes a token a step, so a request ends after at most as many steps as there are
# tokens in all requests up to it.

# %%
last_step = {lane: max(i for i, c in enumerate(chunks) if any(part[0] == lane for part in c)) for lane in prompts}
tokens = {lane: computed[lane] + 1 for lane in prompts}  # the last one is drawn and not computed
bound = 0
print("request   ended in step   bound")
for lane in sorted(prompts):
    bound += tokens[lane]
    print(f"{lane - 1:7}   {last_step[lane] + 1:13}   {bound:5}")
    assert last_step[lane] < bound

# %% [markdown]
# ## 3. Policies
#
# 32 requests at the shapes of Qwen3-0.6B: `mixed` has short outputs and a few long ones, in `equal` all have the same length.

# %%
names = ["one-at-a-time", "static", "continuous"]
fig, (left, right) = plt.subplots(1, 2, figsize=(7.8, 2.6))
for i, (workload, colour) in enumerate([("mixed", BLUE), ("equal", ORANGE)]):
    rows = {row["policy"]: row for row in STEP3["large"][workload]["policies"]}
    at = np.arange(3) + 0.38 * i - 0.19
    left.bar(at, [rows[n]["steps"] for n in names], 0.36, color=colour, label=workload)
    right.bar(at, [rows[n]["output_tokens_per_second"] for n in names], 0.36, color=colour, label=workload)
    for n in names:
        row = rows[n]
        print(
            f"{workload:6} {n:14} {row['steps']:4} steps of {row['seconds'] / row['steps'] * 1e3:4.0f} ms,"
            f" {row['output_tokens_per_second']:5.1f} tokens/s, weights at {row['weight_gigabytes_per_second']:.1f} GB/s"
        )
    tokens_of = {rows[n]["output_tokens"] for n in names}
    assert len(tokens_of) == 1, "every policy does the same work"
    assert rows["continuous"]["steps"] <= rows["static"]["steps"] < rows["one-at-a-time"]["steps"]
    assert rows["one-at-a-time"]["steps"] == rows["one-at-a-time"]["output_tokens"], "a step is a token"
for ax, title in [(left, "steps"), (right, "output tokens/s")]:
    ax.set_xticks(range(3), names)
    ax.set(title=title)
left.legend()
show(fig)

for row in STEP3["steps_by_seed"]:
    assert row["continuous"] < row["static"]
ratios = np.array([row["static"] / row["continuous"] for row in STEP3["steps_by_seed"]])
print(f"static / continuous in steps, over {len(ratios)} seeds: {ratios.min():.1f} to {ratios.max():.1f}, median {np.median(ratios):.1f}")

# %% [markdown]
# A fuller step takes longer, and how much longer depends on the machine: below $m^*$ rows, weights are what it waits for, above it
# the arithmetic. The GB/s of the table say on which side a machine is.
#
# ## 4. Lengths
#
# Steps need no model, so they can be simulated. Prompts fit the budget here; outputs have a mean of 32 tokens and differ more and
# more: each is 32 times a factor, lognormal with a spread of $\sigma$.


# %%
def simulate(outputs, max_num_seqs, static):
    """Steps that it takes to write all outputs, each prompt taking a part of one step."""
    waiting, running, count = list(outputs), [], 0
    while waiting or running:
        if not static or not running:
            while waiting and len(running) < max_num_seqs:
                running.append(waiting.pop(0))
        running = [left - 1 for left in running if left > 1]
        count += 1
    return count


assert simulate([3, 1, 2], 1, False) == 6 and simulate([3, 1, 2], 3, True) == 3
assert simulate([5, 1, 1, 1], 2, True) == 6 and simulate([5, 1, 1, 1], 2, False) == 5
spreads = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]
generator = random.Random(3)
fig, ax = plt.subplots(figsize=(6.8, 2.5))
for max_running, colour in [(2, GREY), (8, BLUE), (32, ORANGE)]:
    gains = []
    for sigma in spreads:
        draw = lambda: max(1, round(32 * generator.lognormvariate(-sigma * sigma / 2, sigma)))
        outputs = [draw() for _ in range(2000)]
        gains.append(simulate(outputs, max_running, True) / simulate(outputs, max_running, False))
    ax.plot(spreads, gains, marker="o", color=colour, label=f"{max_running} at a time")
    assert abs(gains[0] - 1) < 0.01, "equal lengths: no difference"
    assert gains == sorted(gains), "the more they differ, the larger the gain"
ax.set(xlabel="spread of the lengths, σ", ylabel="static / continuous, in steps", ylim=(0.8, None))
ax.legend()
show(fig)

# %% [markdown]
# A static batch takes as long as its longest output, a continuous one as long as the mean. The more requests are in a batch, the longer
# its longest one. With equal lengths there is nothing to gain.
#
# ## 5. The budget
#
# A long prompt arrives while others decode.

# %%
late = STEP3["late_prompt"]
sizes = column(late["budgets"], "max_batched_tokens")
gap = column(late["budgets"], "longest_gap_seconds") * 1e3
first = column(late["budgets"], "late_ttft_seconds") * 1e3
fig, ax = plt.subplots(figsize=(6.8, 2.5))
ax.plot(sizes, gap, marker="o", color=BLUE, label="longest gap between two tokens of the others")
ax.plot(sizes, first, marker="o", color=ORANGE, label="first token of the long prompt")
ax.set(xscale="log", xlabel="tokens of a step", ylabel="ms", ylim=(0, None))
ax.set_xticks(sizes, [f"{s:,}" for s in sizes])
ax.minorticks_off()
ax.legend(loc="lower right")
show(fig)
for row in late["budgets"]:
    print(
        f"budget {row['max_batched_tokens']:5,}: gap {row['longest_gap_seconds'] * 1e3:5.0f} ms,"
        f" usually {row['typical_gap_seconds'] * 1e3:.1f} ms; first token {row['late_ttft_seconds'] * 1e3:5.0f} ms"
    )
assert sizes[-1] > late["prompt_tokens"], "the largest budget takes the prompt whole"
assert (np.diff(gap) > 0).all(), "the gap grows with the budget"
assert gap[-1] > 3 * gap[0]

# %% [markdown]
# ## 6. Slots
#
# The same requests in slots of different lengths. Only the reservation changes.

# %%
slots = STEP3["kv_waste"]["slots"]
length, utilization = column(slots, "max_model_len"), column(slots, "kv_utilization")
fig, ax = plt.subplots(figsize=(6.8, 2.3))
ax.bar([f"{n:,}" for n in length], 100 * utilization, color=PURPLE)
ax.set(xlabel="tokens of a slot", ylabel="% that held a token")
show(fig)
for row in slots:
    print(
        f"{row['max_model_len']:5,} tokens ({row['chosen']}): {row['kv_reserved_bytes'] / 1e6:5.1f} MB reserved, {row['kv_utilization']:.1%} used"
    )
product = length * utilization
assert np.allclose(product, product[0], rtol=0.02), "the tokens are the same; the length only divides them"
assert (column(slots, "kv_reserved_bytes") / length).std() < 1, "bytes are proportional to the length"

# %% [markdown]
# Chapter 4 hands memory out in blocks of a few tokens, as requests grow.
#
# ## Try it
#
# - Record a trace with `--policy static` and look at its lanes. Which of the promises above still hold?
# - In section 4, let the requests be sorted by length before they are batched. What happens to static batches, and why can't a server
#   do that?
# - In `simulate`, give each step the time $\max(1, m / m^*)$ for its $m$ rows. For which $m^*$ is continuous batching worth as much
#   in time as in steps?
