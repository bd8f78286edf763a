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
# # Step 1: precision and positions
#
# Two ways to be wrong belong to [chapter 1](../steps/step1-forward/README.md). One is slow and normal: every operation
# rounds. The other is a bug: the right rotation applied to the wrong pairs. Both give numbers that look fine at first.
#
# 1. **Errors per module**: stairwell and transformers, against double precision.
# 2. **RoPE's frequencies**, from the formulas, under each scaling.
# 3. **Rotate-half against interleaved**: why gibberish starts late.
#
# The notebook reads small recorded data and needs no model, no torch, and no GPU. To record again, after
# `pip install -r scripts/requirements.txt`:
#
# ```text
# cargo build --release
# python scripts/record_precision.py
# python notebooks/build.py    # executes this notebook anew
# ```

# %%
import hashlib
import io
import itertools
import json
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
from IPython.display import Image, display
from matplotlib.colors import to_rgb

ROOT = next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "Cargo.toml").exists())
DATA = json.loads((ROOT / "notebooks/data/step1_precision.json").read_text(encoding="utf-8"))
PALETTE = "#1c2430", "#1a5fb0", "#d9720b", "#25713a", "#6d3fb4", "#bd2430", "#59636f"
INK, BLUE, ORANGE, GREEN, PURPLE, RED, GREY = PALETTE
# Opaque and light, so that the pictures read in dark viewers too.
plt.rcParams.update({
    "figure.dpi": 80, "figure.facecolor": "white", "figure.constrained_layout.use": True,
    "axes.facecolor": "white", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": "#d5d8db",
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
    palette.putpalette(
        (np.array([(1, 1, 1), *shades]) * 255).round().astype(np.uint8).tobytes()
    )
    full, small = io.BytesIO(), io.BytesIO()
    fig.savefig(full)
    plt.close(fig)
    picture = (
        PIL.Image.open(full)
        .convert("RGB")
        .quantize(palette=palette, dither=PIL.Image.Dither.NONE)
    )
    picture.save(small, "png", optimize=True)
    display(Image(small.getvalue()))


print(DATA["command"], "on", DATA["machine"])
print(", ".join(f"{name} {version}" for name, version in DATA["versions"].items()))

# %% [markdown]
# The record belongs to certain weights. If the demo model was trained anew, this cell fails; record again.

# %%
for model in DATA["models"]:
    digest = hashlib.sha256()
    shards = sorted((ROOT / model["model"]).glob("model*.safetensors"))
    for shard in shards:
        digest.update(shard.read_bytes())
    if shards:
        assert digest.hexdigest() == model["weights_sha256"], (
            f"{model['model']}: new weights; {DATA['command']}"
        )
    count = len(model["prompt_ids"])
    print(f"{model['model']}: {model['weights_dtype']} weights, {count} prompt tokens")

# %% [markdown]
# ## 1. Errors per module
#
# The reference is transformers in double precision (`scripts/dump_hf_reference.py --double`). Each other run gets the
# same token ids. The error of a module is the largest $|x - x_\text{reference}|$ over all tokens and columns of its
# output; `stairwell verify` prints the same figure.
#
# - *stairwell f32* and *transformers f32*: weights as stored, arithmetic in f32 (24 significant bits).
# - *transformers bf16*: weights, products and activations rounded to bf16 (8 significant bits).
#
# In the reference, RMSNorm, softmax, and the rotary angles are f32, because transformers casts there whatever the
# model's dtype. So it has a small error of its own, and a factor of two between the f32 curves means nothing.

# %%
RUNS = {"transformers bf16": ORANGE, "transformers f32": GREEN, "stairwell f32": BLUE}


def columns(model):
    """A record's columns by name, as arrays."""
    names, *numbers = zip(*model["modules"])
    return {"module": names} | {c: np.array(n) for c, n in zip(model["columns"][1:], numbers)}


def plot_errors(ax, model):
    """Errors and largest value of each module, in the order of the forward pass, on one axis."""
    table = columns(model)
    ax.plot(table["largest_value"], color=GREY, linewidth=1.2, label="largest |value|")
    for run, colour in RUNS.items():
        error = np.where(table[run] > 0, table[run], np.nan)  # no place for 0 on a log axis
        dashed = "--" if run == "transformers f32" else "-"
        ax.plot(error, dashed, linewidth=1.2, color=colour, label=run)
    # model.layers.N is the output of a layer, its last module.
    ends = [0, *(i for i, name in enumerate(table["module"]) if name.count(".") == 2)]
    for end in ends:
        ax.axvline(end + 0.5, color=GREY, linewidth=0.6)
    ax.set_xticks(
        [(a + b + 1) / 2 for a, b in itertools.pairwise(ends)],
        [f"layer {i}" for i in range(len(ends) - 1)],
    )
    ax.set(yscale="log", title=model["model"])


fig, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.2), sharey=True, width_ratios=[1.7, 1])
plot_errors(left, DATA["models"][0])
plot_errors(right, DATA["models"][1])
left.set_ylabel("largest error and largest |value|")
fig.supxlabel(
    "module, in the order of the forward pass (after the last layer: norm, lm_head)", fontsize=9
)
left.legend(loc="center", bbox_to_anchor=(0.5, 0.42), ncols=2)
show(fig)

# %% [markdown]
# What to see:
#
# - **Ours is as good as transformers' f32** at every depth. bf16 is some $10^4$ times coarser: it has 16 bits less, a factor
#   of 65 536 for each rounding.
# - **Embeddings are exact** in f32: a table lookup rounds nothing. The fixture stores f32 weights, so bf16 begins by
#   rounding the table. The demo model stores bf16, so nothing is lost there.
# - **The absolute error follows the size of the values** (grey). A float has a fixed number of significant digits, so a
#   large number has a large rounding error. The residual stream grows with depth, and its error with it; a norm brings
#   both back. So an absolute tolerance that suits one module is wrong for another. That is why `verify` has `--rtol` too.
#
# Divided by the largest value of each module, little of the growth is left. Every layer adds its own rounding to what it
# received, and yet the error stays within 64 roundings (dotted: the largest relative error of one rounding,
# $2^{-24}$ and $2^{-8}$). A bug looks different: a jump at one module, and everything after it is wrong. `stairwell verify`
# names that module.

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.2, 2.6), sharey=True)
for model, ax in zip(DATA["models"], axes):
    table = columns(model)
    names = {"model.norm": "norm", "lm_head": "lm_head"}
    names |= {f"model.layers.{i}": f"layer {i}" for i in range(len(table["module"]))}
    stream = [i for i, name in enumerate(table["module"]) if name in names]
    labels = [names[table["module"][i]] for i in stream]
    for run, colour in RUNS.items():
        dashed = "--" if run == "transformers f32" else "-"
        relative = table[run][stream] / table["largest_value"][stream]
        ax.plot(relative, dashed, marker="o", markersize=4, color=colour, label=run)
    ax.set_xticks(range(len(labels)), labels, rotation=35, ha="right")
    ax.set(yscale="log", title=model["model"])
    for bits, label in ((8, "one rounding"), (24, None)):
        ax.axhline(2.0**-bits, color=GREY, linewidth=0.9, linestyle=":", label=label)
axes[0].set_ylabel("error / largest |value|")
axes[1].legend(loc="center right", bbox_to_anchor=(1, 0.55))
show(fig)

# %%
for model in DATA["models"]:
    table = columns(model)
    ours, theirs, bf16 = (
        table[run][1:] for run in ("stairwell f32", "transformers f32", "transformers bf16")
    )
    nonzero = theirs > 0
    ratio = np.exp(np.log(ours[nonzero] / theirs[nonzero]).mean())
    print(f"{model['model']}:")
    print(f"  stairwell / transformers f32 = {ratio:.2f} (geometric mean over modules)")
    print(f"  transformers bf16 / stairwell = {np.median(bf16 / ours):,.0f} (median)")
    assert table["stairwell f32"][0] == 0, "a lookup is exact"
    assert 0.3 < ratio < 1.5, "ours is at the level of transformers' f32"
    assert (bf16 > 1000 * ours).all(), "bf16 is far coarser in every module"
    assert 1e4 < np.median(bf16 / ours) < 1e5, "some 10⁴ times"
    largest = table["largest_value"][1:]
    assert (ours / largest).max() < 64 * 2.0**-24, "64 roundings of f32 or fewer"
    assert (bf16 / largest).max() < 64 * 2.0**-8, "64 roundings of bf16 or fewer"
    assert np.corrcoef(np.log(ours), np.log(largest))[0, 1] > 0.3, "errors follow the values"

# %% [markdown]
# Is bf16 then unusable? What counts is which token has the largest logit. It can change only where the two largest are
# closer together than twice the error. Over many positions of unseen stories, the demo model in bf16 now and then
# prefers another token. In f32 that would need two logits that are almost equal.

# %%
tokens = DATA["next_token"]
gap = tokens["smallest_gap_of_the_two_largest"]
print(f"{tokens['positions']} positions; the two largest logits are {gap} apart or more")
for run in reversed(RUNS):
    error, count = tokens["largest_error"][run], tokens["another_token"][run]
    print(f"{run:18}largest error {error:.1e}, another token at {count} positions")
    assert 2 * error > gap or count == 0, "the order of the two cannot have changed"
assert tokens["another_token"]["stairwell f32"] < 3
assert tokens["another_token"]["transformers bf16"] > 3

# %% [markdown]
# ## 2. RoPE's frequencies
#
# A head of width $d$ is $d/2$ pairs. Pair $i$ at position $p$ is turned by the angle $p \cdot f_i$ with
# $f_i = \theta^{-2i/d}$ (Su et al., arXiv:2104.09864). One full turn takes the *wavelength* $2\pi / f_i$, in tokens. The
# first pairs turn fast and tell neighbours apart. The last pairs hardly turn within the trained context.
#
# A model that shall read further than it was trained sees angles that it never saw, in the slow pairs. Each scaling slows
# them down in its own way. The formulas follow transformers (`modeling_rope_utils.py`);
# `src/model/rope.rs` has the same in Rust.


# %%
def default(theta, d):
    return theta ** -(np.arange(0, d, 2) / d)


def linear(theta, d, factor):
    """Every pair is slowed: positions are squeezed into the trained range."""
    return default(theta, d) / factor


def dynamic(theta, d, factor, trained, length):
    """The base grows with the length ("NTK-aware"): the first pair stays, the last is slowed
    by `stretch` exactly."""
    length = max(length, trained)
    stretch = factor * length / trained - (factor - 1)
    return default(theta * stretch ** (d / (d - 2)), d)


def yarn(theta, d, factor, trained, beta_fast=32, beta_slow=1, truncate=True):
    """Pairs that turn often in the trained context stay, the slow ones are slowed by `factor`,
    with a ramp between."""

    def pair(turns):  # the i whose wavelength fits `turns` times into the trained context
        return d * np.log(trained / (turns * 2 * np.pi)) / (2 * np.log(theta))

    low, high = pair(beta_fast), pair(beta_slow)
    if truncate:
        low, high = np.floor(low), np.ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    ramp = np.clip((np.arange(d // 2) - low) / (high - low if high != low else 0.001), 0, 1)
    f = default(theta, d)
    return f * (1 - ramp) + f / factor * ramp


def llama3(theta, d, factor, trained, low_freq_factor, high_freq_factor):
    """As YaRN in spirit; the ramp is over the turns in the trained context and not over the
    pair's number."""
    f = default(theta, d)
    turns = trained * f / (2 * np.pi)
    keep = np.clip((turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)
    return f * keep + f / factor * (1 - keep)


def yarn_attention_scaling(factor, attention_factor=None, mscale=None, mscale_all_dim=None):
    """YaRN also multiplies cos and sin, which sharpens the softmax over a longer context."""

    def m(k):
        return 0.1 * k * np.log(factor) + 1 if factor > 1 else 1.0

    if attention_factor is not None:
        return attention_factor
    return m(mscale) / m(mscale_all_dim) if mscale and mscale_all_dim else m(1)


# %% [markdown]
# Every case of `tests/fixtures/rope.json` (what transformers computed, in f32, with its `config.json` fields) must come
# out of these formulas. The Rust code is tested against the same file.


# %%
def from_config(config, d, seq_len):
    """(frequencies, attention scaling) of a config.json, in its old spelling or the new one."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10000.0
    limit = config["max_position_embeddings"]
    trained = (
        config.get("original_max_position_embeddings")
        or rope.get("original_max_position_embeddings")
        or limit
    )

    def given(*names):
        return {name: rope[name] for name in names if rope.get(name) is not None}

    if kind == "linear":
        return linear(theta, d, rope["factor"]), 1.0
    if kind == "dynamic":
        return dynamic(theta, d, rope["factor"], limit, seq_len or limit), 1.0
    if kind == "llama3":
        return llama3(
            theta, d, trained=trained, **given("factor", "low_freq_factor", "high_freq_factor")
        ), 1.0
    if kind == "yarn":
        factor = rope["factor"] or limit / trained
        f = yarn(theta, d, factor, trained, **given("beta_fast", "beta_slow", "truncate"))
        return f, yarn_attention_scaling(
            factor, **given("attention_factor", "mscale", "mscale_all_dim")
        )
    assert kind == "default", kind
    return default(theta, d), 1.0


cases = json.loads((ROOT / "tests/fixtures/rope.json").read_text())["cases"]
worst = 0.0
for case in cases:
    expected = np.array(case["inv_freq"])
    frequencies, scaling = from_config(case["config"], 2 * len(expected), case["seq_len"])
    error = np.abs(frequencies / expected - 1).max()
    assert error < 2e-6, f"{case['name']}: {error:.1e}"
    assert abs(scaling - case["attention_scaling"]) < 1e-12, case["name"]
    worst = max(worst, error)
print(f"{len(cases)} cases agree; largest relative difference {worst:.1e}")

# %% [markdown]
# Now the five side by side, with the shape of Llama 3.1 8B: $d = 128$, $\theta = 500\,000$, trained on 8192 tokens,
# factor 8. Left: the wavelength of each pair. Right: how much slower a pair turns than without scaling.

# %%
THETA, D, TRAINED, FACTOR, LENGTH = 500_000.0, 128, 8192, 8.0, 16384
scaled = {
    "default": (default(THETA, D), GREY, "-"),
    "linear": (linear(THETA, D, FACTOR), ORANGE, "-"),
    f"dynamic at {LENGTH}": (dynamic(THETA, D, FACTOR, TRAINED, LENGTH), GREEN, "-."),
    "yarn": (yarn(THETA, D, FACTOR, TRAINED), PURPLE, "--"),
    "llama3": (llama3(THETA, D, FACTOR, TRAINED, 1, 4), BLUE, "-"),
}
fig, (left, right) = plt.subplots(1, 2, figsize=(7.6, 2.9))
for name, (f, colour, line) in scaled.items():
    left.plot(2 * np.pi / f, line, color=colour, linewidth=1.5)
    right.plot(default(THETA, D) / f, line, color=colour, linewidth=1.5, label=name)
left.axhline(TRAINED, color=RED, linewidth=0.9, linestyle=":")
left.text(0, TRAINED * 1.25, "trained context", color=RED, fontsize=9)
left.set(
    yscale="log",
    xlabel="pair i",
    ylabel="wavelength (tokens per turn)",
    title="Wavelength of each pair",
)
right.set(yscale="log", xlabel="pair i", ylabel="slowed by (×)", title="Against the default")
right.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
right.minorticks_off()
right.legend(loc="upper left", bbox_to_anchor=(0, 0.9))
show(fig)

# %% [markdown]
# - *linear* slows every pair, also the fast ones that tell neighbours apart.
# - *dynamic* slows each pair by more than the one before. It depends on the length, so an engine with a KV cache must fix
#   it when the request begins: cached keys cannot be turned again.
# - *yarn* and *llama3* leave the pairs alone that turn several times within the trained context, slow those that do not
#   finish one turn, and blend between. They differ in where the blend begins and in its shape.

# %%
base = default(THETA, D)
turns = TRAINED * base / (2 * np.pi)
stretch = FACTOR * LENGTH / TRAINED - (FACTOR - 1)
assert np.allclose(base / linear(THETA, D, FACTOR), FACTOR)
assert np.isclose((base / dynamic(THETA, D, FACTOR, TRAINED, LENGTH))[-1], stretch), (
    "the last pair, by stretch exactly"
)
for name, f, fast in [("yarn", scaled["yarn"][0], 32), ("llama3", scaled["llama3"][0], 4)]:
    slowed = base / f
    assert np.allclose(slowed[turns > 1.3 * fast], 1), f"{name} keeps fast pairs"
    assert np.allclose(slowed[turns < 0.75], FACTOR), (
        f"{name} slows pairs that do not finish a turn"
    )
    kept, slowed = np.isclose(slowed, 1).sum(), np.isclose(slowed, FACTOR).sum()
    print(f"{name}: {kept} pairs kept, {slowed} slowed by {FACTOR:g}, the others blended")

# %% [markdown]
# ## 3. Rotate-half against interleaved
#
# *Which two elements are a pair* is a convention. The paper and llama2.c pair neighbours $(2i, 2i+1)$: interleaved.
# Hugging Face pairs $(i, i + d/2)$: rotate-half. Its checkpoints hold the rows of `q_proj` and `k_proj` in the order that
# fits.


# %%
def turn(a, b, angle):
    return a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)


def rotate_half(x, position, f):
    a, b = turn(x[: len(f)], x[len(f) :], position * f)
    return np.concatenate([a, b])


def rotate_interleaved(x, position, f):
    y = np.empty_like(x)
    y[0::2], y[1::2] = turn(x[0::2], x[1::2], position * f)
    return y


def to_interleaved(x):
    """The rows of one head, from the order for rotate-half to the order for interleaved."""
    return x.reshape(2, -1).T.ravel()


swap = DATA["rope_swap"]
demo_theta, demo_d = swap["rope_theta"], swap["head_dim"]
f = default(demo_theta, demo_d)
rng = np.random.default_rng(1)
q, k = rng.standard_normal((2, demo_d))

for m, n in [(0, 0), (5, 2), (40, 3), (700, 650)]:
    consistent = rotate_half(q, m, f) @ rotate_half(k, n, f)
    other = rotate_interleaved(to_interleaved(q), m, f) @ rotate_interleaved(
        to_interleaved(k), n, f
    )
    assert np.isclose(consistent, other), "the same score, if rows and rotation fit"
    shifted = rotate_half(q, m + 100, f) @ rotate_half(k, n + 100, f)
    assert np.isclose(consistent, shifted), "only the distance counts"
    wrong = rotate_interleaved(q, m, f) @ rotate_interleaved(k, n, f)
    shifted = rotate_interleaved(q, m + 100, f) @ rotate_interleaved(k, n + 100, f)
    assert np.isclose(wrong, shifted), "also in the wrong convention"
    assert np.isclose(wrong, consistent) == (m == n), "right at distance 0, and only there"

# %% [markdown]
# The score $q \cdot k$ of a query and a key, rotated, as a function of the distance between them:

# %%
distances = np.arange(0, 65)
half = [rotate_half(q, r, f) @ k for r in distances]
fitting = [rotate_interleaved(to_interleaved(q), r, f) @ to_interleaved(k) for r in distances]
wrong = [rotate_interleaved(q, r, f) @ k for r in distances]
fig, ax = plt.subplots(figsize=(6.8, 2.5))
ax.plot(
    distances,
    half,
    color=BLUE,
    linewidth=3,
    alpha=0.5,
    label="rotate-half, rows for rotate-half",
)
ax.plot(
    distances,
    fitting,
    "--",
    color=GREEN,
    linewidth=1.3,
    label="interleaved, rows for interleaved",
)
ax.plot(
    distances,
    wrong,
    "-",
    marker=".",
    color=RED,
    linewidth=1.2,
    label="interleaved, rows for rotate-half: wrong",
)
ax.set(
    xlabel="distance between query and key (tokens)",
    ylabel="score q · k",
    title=f"One query and one key, d = {demo_d}",
)
ax.set_ylim(min(half + wrong) - 1, max(half + wrong) + 9)
ax.legend(loc="upper right")
show(fig)

# %% [markdown]
# The wrong convention is right at distance 0, wrong from there on, and still a function of the distance alone. No shape
# is wrong and no number is infinite, so nothing complains.
#
# How large is the error at distance $r$, for any query and key? Let $R_r$ turn the right pairs, and $W_r$ the wrong ones.
# For independent standard normal $q$ and $k$ the mean of $(q^\top (W_r - R_r)\, k)^2$ is $\lVert W_r - R_r \rVert_F^2$,
# and that of a right score is $\lVert R_r \rVert_F^2 = d$.


# %%
def relative_error(theta, d, distances):
    """Root mean square error of a score over the root mean square score, at each distance."""
    f, eye = default(theta, d), np.eye(d)

    def matrix(rotate, r):
        return np.array([rotate(e, r, f) for e in eye]).T

    wrong = [matrix(rotate_interleaved, r) - matrix(rotate_half, r) for r in distances]
    return np.array([np.linalg.norm(w) / np.sqrt(d) for w in wrong])


# The formula against 4000 random pairs, at distance 3.
pairs = rng.standard_normal((4000, 2, demo_d))
sample = [(rotate_interleaved(q, 3, f) - rotate_half(q, 3, f)) @ k for q, k in pairs]
expected = relative_error(demo_theta, demo_d, [3])[0]
assert np.isclose(np.std(sample) / np.sqrt(demo_d), expected, rtol=0.05)

distances = np.unique(np.geomspace(1, 1000, 60).astype(int))
shapes = {
    f"demo model: d = {demo_d}, θ = {demo_theta:,.0f}": (demo_theta, demo_d, BLUE, "-"),
    "Llama 3: d = 128, θ = 500,000": (500_000.0, 128, ORANGE, "--"),
    "Qwen3: d = 128, θ = 1,000,000": (1_000_000.0, 128, GREEN, "-."),
}
fig, ax = plt.subplots(figsize=(6.8, 2.5))
for name, (theta, d, colour, line) in shapes.items():
    growth = relative_error(theta, d, distances)
    ax.plot(distances, growth, line, color=colour, label=name)
    assert growth[0] < 0.6 * growth[-1] and relative_error(theta, d, [0])[0] == 0
ax.set(
    xscale="log",
    xlabel="distance between query and key (tokens)",
    ylabel="error / right score (RMS)",
    ylim=(0, None),
)
ax.set_xticks([1, 3, 10, 30, 100, 300, 1000], ["1", "3", "10", "30", "100", "300", "1000"])
ax.set_title("The error of a score grows with the distance")
ax.legend(loc="lower right")
show(fig)

# %% [markdown]
# At distance $r$ only pairs with $r f_i \gtrsim 1$ have turned far. The others still stand where they began, and standing
# still is the same in both conventions. So the error grows with the *logarithm* of the distance. A query at position $p$
# reaches no further back than $p$. The first token attends to itself alone, without any error. The next ones see few keys,
# at distances where most of a score is still right. **Each later token sees more keys at distances where the score is
# noise.**
#
# The demo model shows it. Its loss at each position, mean over unseen stories, with its own RoPE and with the other:

# %%
right, wrong = (np.array(swap[name]["loss"]) for name in ("rotate_half", "interleaved"))


def smooth(x, width=9):
    """Mean over `width` positions, for the eye."""
    return np.convolve(x, np.ones(width) / width, mode="valid")


fig, ax = plt.subplots(figsize=(6.8, 2.5))
middle = np.arange(len(right) - 8) + 4
for loss, colour, name in [
    (wrong, RED, "interleaved (wrong)"),
    (right, BLUE, "rotate-half (right)"),
]:
    ax.plot(loss, ".", markersize=3, alpha=0.5, color=colour)
    ax.plot(middle, smooth(loss), color=colour, label=name)
ax.set(xlabel="position (tokens)", ylabel="loss of the next token (nats)", ylim=(0, None))
ax.set_title(
    f"Demo model, mean over {swap['stories']} unseen stories; lines: mean over 9 positions"
)
ax.legend(loc="upper left")
show(fig)

gap = wrong - right
for first, last in [(0, 4), (4, 10), (10, 20), (20, 60), (60, len(gap))]:
    cost = gap[first:last].mean()
    print(f"positions {first:3} to {last - 1:3}: the wrong RoPE costs {cost:5.2f} nats a token")
late = gap[60:].mean()
assert gap[0] < 0.01, "the first token attends to itself alone"
assert gap[:4].mean() < 0.2 * late, "the next ones hardly notice"
assert gap[:4].mean() < gap[4:20].mean() < gap[20:60].mean() and late > 0.7

# %% [markdown]
# And this is what a reader of the output sees. Both texts are greedy continuations of the same prompt.

# %%
for name in ("rotate_half", "interleaved"):
    print(f"{name}:")
    print(
        textwrap.indent(textwrap.fill(swap[name]["text"].replace("\n\n", "\n"), 100), "  "),
        end="\n\n",
    )
assert swap["rotate_half"]["text"] != swap["interleaved"]["text"]

# %% [markdown]
# ## Try it
#
# - Which module of the demo model has the largest error relative to its largest value? Why is it not the last one?
# - Change $\theta$ in the plot of the growing error to 100. Does the wrong convention do its harm earlier or later?
#   Predict, then run.
# - Round `f` to f32 and to bf16 before rotating. At which distance does the score go wrong? (That is why transformers
#   keeps `inv_freq` in f32 in a bf16 model.)
