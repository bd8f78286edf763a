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
# # Step 8: a server's throughput and latency
#
# [Chapter 8](../steps/step8-serve/README.md) puts a server before the engine. This notebook draws what its clients see when more and more of them come, and checks the figures against each other.
#
# 1. **Throughput and latency** against the number of clients.
# 2. **The choice** between them: the same runs as one curve.
# 3. **Little's law**: the mean number of requests in a system is their rate times the time that each stays. It holds for every server, so it finds mistakes of a measurement.
# 4. **What the server adds** to the engine, for one answer and for each token.
#
# It reads `benches/results/step8.json`, and needs no model and no server. To record yours, on a machine with nothing else to do:
#
# ```text
# cargo bench --features step8 --bench step8
# python scripts/record_step8.py
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
RECORD = ROOT / "benches/results/step8.json"
STEP8 = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else None
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
# ## 1. Throughput and latency
#
# Each point is one run of `stairwell bench serve`: so many clients, each of which sends its next request when it has its answer. Prompts have 16 to 32 tokens, outputs 64. The server has 64 seats.

# %%
SEATS = 64


def column(name):
    return np.array([row[name] for row in STEP8["concurrency"]])


if STEP8 is None:
    print("benches/results/step8.json is not there: python scripts/record_step8.py writes it")
else:
    print(STEP8["machine"], "·", STEP8["command"])
    clients = column("concurrency")
    fig, axes = plt.subplots(1, 3, figsize=(11, 3))
    axes[0].plot(clients, column("output_tokens_per_second"), "o-", color=BLUE)
    axes[0].set_title("output tokens/s")
    for axis, median, tail, title in [
        (axes[1], "ttft_ms_p50", "ttft_ms_p99", "time to the first token, ms"),
        (axes[2], "tpot_ms_p50", "itl_ms_p99", "time for each further token, ms"),
    ]:
        axis.plot(clients, column(median), "o-", color=BLUE, label="median of requests")
        axis.plot(clients, column(tail), "o-", color=ORANGE, label="99 %")
        axis.set_yscale("log")
        axis.set_title(title)
        axis.legend()
    for axis in axes:
        axis.axvline(SEATS, color=GREY, linestyle=":")
        axis.set_xscale("log", base=2)
        axis.set_xticks(clients, [str(n) for n in clients])
        axis.set_xlabel("clients at a time")
    axes[0].set_ylim(0)
    show(fig)
    tokens = dict(zip(clients, column("output_tokens_per_second")))
    print(f"{tokens[max(tokens)] / tokens[1]:.1f} times the throughput of one client, with {max(tokens)}")
    assert tokens[8] > 1.5 * tokens[1], "eight clients share each reading of the weights"
    waits = dict(zip(clients, column("ttft_ms_p50")))
    assert waits[128] > 2 * waits[64], "64 of 128 clients wait for a seat"

# %% [markdown]
# A step reads the weights once for all of its requests, so throughput grows with the number of clients, until arithmetic bounds the step. From the dotted line on, clients wait for a seat: throughput stays, and the time to the first token becomes time in the queue.
#
# ## 2. The choice
#
# An operator does not choose how many clients come, but `--max-num-seqs` chooses how many run at a time. Each point is one such choice.

# %%
if STEP8 is not None:
    seated = [row for row in STEP8["concurrency"] if row["concurrency"] <= SEATS]
    fig, axis = plt.subplots(figsize=(6, 3))
    axis.plot([row["tpot_ms_p50"] for row in seated], [row["output_tokens_per_second"] for row in seated], "o-", color=BLUE)
    for row in seated:
        axis.annotate(str(row["concurrency"]), (row["tpot_ms_p50"], row["output_tokens_per_second"]), textcoords="offset points", xytext=(4, -10))
    axis.set_xlabel("time for each further token of one client, median, ms")
    axis.set_ylabel("output tokens/s of all clients")
    axis.set_ylim(0)
    axis.set_xlim(0)
    show(fig)

# %% [markdown]
# ## 3. Little's law
#
# Clients at a time = requests a second · seconds that a request stays. Requests a second are output tokens a second / 64. We have the median and not the mean of the time that a request stays, and the last requests of a run have fewer neighbours, so the two sides differ a little.

# %%
if STEP8 is not None:
    little = column("output_tokens_per_second") / 64 * column("e2e_ms_p50") / 1e3
    for n, computed in zip(clients, little):
        print(f"{n:4} clients: by Little's law {computed:6.1f}")
        assert 0.5 * n < computed < 1.3 * n

# %% [markdown]
# ## 4. What the server adds
#
# One greedy answer of 16 tokens: by the engine alone, by the three components without HTTP, and over HTTP on loopback.

# %%
if STEP8 is not None:
    ways = {row["way"]: row["ms"] for row in STEP8["request"]}
    fig, axes = plt.subplots(1, 2, figsize=(9, 2.6))
    axes[0].barh(list(ways), list(ways.values()), color=BLUE)
    axes[0].invert_yaxis()
    axes[0].set_title("ms for an answer of 16 tokens")
    parts = {row["part"]: row["us_per_token"] for row in STEP8["parts"]}
    axes[1].barh(list(parts), list(parts.values()), color=ORANGE)
    axes[1].invert_yaxis()
    axes[1].set_title("µs a token")
    show(fig)
    added = (ways["http-stream"] - ways["engine"]) * 1e3 / 16
    print(f"the server adds {added:.0f} µs a token to a stream whose reader is alone")
    for row in STEP8["concurrency"]:
        print(f"{row['concurrency']:4} clients: {row['server_cpu_us_per_token']:.0f} µs of the server's CPU a token, the engine's included")

# %% [markdown]
# Alone, a token wakes a task, is written, and the thread sleeps again. With many clients the same wake serves many tokens, so the CPU time of a token falls with the number of clients although each client waits longer.
