"""The KV cache of chapter 2: what is computed and what is kept, its layout, the ring of a window, the price of a token."""

import math

from . import sources
from .attention import axis
from .look import WIDTH, Figure, number

TOKENS = ["Once", "upon", "a", "time", ",", "in", "a", "small"]
PROMPT = 4


def rows_computed():
    """steps/step2-kv-cache/figures/rows-computed.svg"""
    passes = range(PROMPT, len(TOKENS) + 1)  # tokens in the sequence at each pass
    without, with_cache = sum(passes), len(TOKENS)
    figure = Figure(
        "Rows through the model, without a cache and with one",
        f"A prompt of {PROMPT} tokens and {len(passes)} forward passes. Without a cache, pass after pass computes the whole "
        f"sequence: {' + '.join(map(str, passes))} = {without} rows. With a cache the first pass computes the prompt, every later "
        f"one the newest token only, and reads K and V of the others: {with_cache} rows.",
        height=356,
    )
    panels = [("Without a cache (step 1)", 20, False, without), ("With a cache (step 2)", 438, True, with_cache)]
    for title, x, cached, total in panels:
        figure.text(x, 28, title, "head")
        for i, word in enumerate(TOKENS):
            figure.text(x + 58 + 40 * i + 17, 58, word, "small", "muted", "middle", room=42)
        for row, n in enumerate(passes):
            draw_pass(figure, x, 68 + 38 * row, row, n, cached)
        y = 68 + 38 * len(passes)
        figure.text(x, y + 22, f"{total} rows through the model", bold=True)
    figure.text(438, 304, "pass 1 is the prefill, each later one a decode step", "small", "muted")
    figure.box(20, 324, 20, 16, "blue", radius=3)
    figure.text(48, 337, "goes through the model; its K and V come out", "small", "muted")
    figure.box(438, 324, 20, 16, "orange", radius=3)
    figure.text(466, 337, "K and V of this token are read from the cache", "small", "muted")
    return figure


def draw_pass(figure, x, y, row, n, cached):
    """One forward pass over a sequence of n tokens."""
    figure.text(x, y + 20, f"pass {row + 1}", "small", "muted")
    for i in range(n):
        kept = cached and row > 0 and i < n - 1
        figure.box(x + 58 + 40 * i, y, 34, 30, "orange" if kept else "blue", radius=3)
        figure.text(x + 58 + 40 * i + 17, y + 19, "kept" if kept else str(i), "listing", anchor="middle", room=34)


SLOTS_SHOWN, FILLED = 8, 5


def layout():
    """steps/step2-kv-cache/figures/layout.svg"""
    c = sources.config()
    group = c.num_attention_heads // c.num_key_value_heads
    if (c.num_key_value_heads, group) != (2, 2):
        raise ValueError("layout.svg is drawn for two KV heads and groups of two; the demo model has others")
    figure = Figure(
        "The layout of a layer's K, and who reads it",
        f"K of a layer is [slots, max_tokens, {c.num_key_value_heads}, {c.head_dim}]. A slot is a row of tokens, each with one "
        f"vector for each KV head. A new token's {c.kv} numbers are copied behind the last one. Query heads 0 and 1 read the "
        "vectors of head 0 in place, one stride apart, and each vector once for both; query heads 2 and 3 those of head 1. "
        "What is not filled yet is reserved.",
        height=398,
    )
    left, cell, half = 80, 93, 43
    figure.text(20, 28, "K of one layer", "head")
    figure.text(170, 28, "[slots, max_tokens, kv_heads, head_dim]", "code")
    figure.text(20, 48, "V has the same layout in memory of its own.", "small", "muted")
    top = 88
    figure.text(20, top + 22, "slot 0", "code")
    for i in range(SLOTS_SHOWN):
        x, filled = left + cell * i, i < FILLED
        figure.text(x + half, top - 8, f"t{i}", "code", "ink" if filled else "muted", "middle")
        for head, role in enumerate(["blue", "orange"]):
            role = role if filled else "muted"
            figure.box(x + half * head, top, half, 34, role, dashed=not filled, bare=not filled, radius=2)
            if filled:
                figure.text(x + half * head + half / 2, top + 21, f"h{head}", "code", anchor="middle")
    comb = [(0, "blue", top + 62, "query heads 0 and 1"), (1, "orange", top + 84, "query heads 2 and 3")]
    for head, role, y, label in comb:
        centres = [left + cell * i + half * head + half / 2 for i in range(FILLED)]
        for x in centres:
            figure.line((x, y), (x, top + 36), role=role)
        figure.line((centres[0], y), (centres[-1], y), role=role)
        x = centres[1] + (-14 if head == 0 else 156)
        figure.arrow((x, y), (x, top + 112), role=role)
        figure.labelled(x - 74, top + 114, 148, 30, [label], role, ["small"])
    x = left + cell * FILLED + half
    figure.arrow((x, top + 112), (x, top + 38), role="ink")
    figure.labelled(
        x - 60,
        top + 114,
        250,
        50,
        [f"the next token: {c.kv} numbers, copied to", f"(slot · max_tokens + position) · {c.kv}"],
        "ink",
        ["small"],
    )
    figure.lines(
        20,
        top + 188,
        [
            f"A query head's keys lie one stride apart: {c.kv} numbers. They are read in place, and each vector",
            "once for its whole group. A token is written once and never moved.",
        ],
        18,
        kind="small",
        role="muted",
    )
    y = top + 232
    figure.text(20, y + 22, "slot 1", "code", "muted")
    figure.box(left, y, cell * SLOTS_SHOWN - 7, 34, "muted", dashed=True, bare=True, radius=2)
    figure.text(
        left + 12,
        y + 22,
        "another sequence's, from chapter 3 on; as long, and reserved whether it is filled or not",
        "small",
        "muted",
    )
    figure.text(
        20,
        y + 62,
        "h0, h1: the vectors of the two KV heads, head_dim numbers each. Dashed: reserved.",
        "small",
        "muted",
    )
    return figure


WINDOW, CHUNK, BEFORE = 4, 3, 6


def ring():
    """steps/step2-kv-cache/figures/ring.svg"""
    right = WINDOW + CHUNK - 1
    new = list(range(BEFORE, BEFORE + CHUNK))
    figure = Figure(
        "The ring of a layer with a sliding window",
        f"A window of {WINDOW} tokens, and a chunk of {CHUNK}: positions {new[0]} to {new[-1]}. In a ring of {WINDOW} places, "
        f"position {new[0] - 3} is overwritten by {new[1]} and position {new[0] - 2} by {new[2]} before row {new[0]} has read "
        f"them. A ring of {WINDOW} + {CHUNK} - 1 = {right} places holds all that the chunk's rows see.",
        height=432,
    )
    figure.text(20, 28, f"A window of {WINDOW} keys, and a chunk of {CHUNK} tokens: {', '.join(map(str, new))}", "head")
    figure.text(20, 50, "What each row of the chunk may see; all of it must be kept at once:", "small", "muted")
    draw_seen(figure, new)
    panels = [
        (20, f"A ring of the window: {WINDOW} places", WINDOW, "red"),
        (430, f"A ring of window + chunk − 1: {right} places", right, "green"),
    ]
    for x, title, places, role in panels:
        figure.text(x, 226, title, "head", role)
        draw_ring(figure, x, 250, places, [p for p in range(BEFORE)], new, "before")
        draw_ring(figure, x, 304, places, [p for p in range(BEFORE + CHUNK)], new, "after the write")
    lost = [p for p in range(new[0] - WINDOW + 1, new[0]) if p + WINDOW <= new[-1]]
    figure.lines(
        20,
        372,
        [
            f"Row {new[0]} looks for positions {', '.join(map(str, lost))} and finds {', '.join(str(p + WINDOW) for p in lost)},",
            "tokens from its own future. No shape is wrong.",
        ],
        kind="small",
        role="red",
    )
    figure.lines(
        430,
        372,
        [
            f"Row {new[0]} finds {new[0] - 3} to {new[0]}, row {new[-1]} finds {new[-1] - 3} to {new[-1]}. With chunks of",
            "one token, as in decode, the window is enough.",
        ],
        kind="small",
        role="muted",
    )
    figure.text(
        20,
        416,
        "Position p is kept at place p % places. All of a chunk is written before its rows attend.",
        "small",
        "muted",
    )
    return figure


def draw_seen(figure, new):
    """The positions that each row of the chunk sees."""
    left, step = 130, 46
    for p in range(BEFORE + CHUNK):
        figure.text(left + step * p + 20, 76, str(p), "code", "blue" if p in new else "muted", "middle")
    for i, row in enumerate(new):
        y = 84 + 34 * i
        figure.text(20, y + 19, f"row {row} sees", "small")
        for p in range(BEFORE + CHUNK):
            seen = row - WINDOW < p <= row
            figure.box(
                left + step * p, y, 40, 28, "blue" if seen else "muted", dashed=not seen, bare=not seen, radius=3
            )
    x = left + step * (BEFORE + CHUNK) + 14
    first = new[0] - WINDOW + 1
    figure.lines(
        x,
        112,
        [f"together {first} to {new[-1]}:", f"{new[-1] - first + 1} tokens =", "window + chunk − 1"],
        18,
        kind="small",
        role="muted",
    )


def draw_ring(figure, x, y, places, written, new, label):
    """The places of a ring after all of `written`; the chunk's tokens are marked."""
    holds = {}
    for p in written:
        holds[p % places] = p
    for place in range(places):
        p = holds[place]
        victim = p - places
        lost = p in new and victim > new[0] - WINDOW and victim >= 0
        figure.labelled(
            x + 46 * place, y, 40, 34, [str(p)], "red" if lost else "blue" if p in new else "orange", ["code"]
        )
    figure.text(x + 46 * places + 8, y + 21, label, "small", "muted")


SERIES = [
    ("recompute", "orange", "recompute"),
    ("cache_f32", "blue", "cache, f32"),
    ("cache_bf16", "green", "cache, bf16"),
]


def next_token():
    """steps/step2-kv-cache/figures/next-token.svg, from benches/results/step2.json"""
    result = sources.recorded("step2.json", "next_token")
    points, generate = result["next_token"], result["generate"]
    first, last = points[0], points[-1]
    figure = Figure(
        "The price of a token, by recomputing and from the cache",
        f"Left: the seconds of a whole text against its length rise with a curve that bends upwards when everything is "
        f"recomputed, and nearly straight along the axis from the cache; for {generate[-1]['tokens']} new tokens "
        f"{generate[-1]['recompute']:.3g} s and {generate[-1]['cache']:.3g} s. Right, both axes logarithmic: at "
        f"{first['tokens']} tokens the next one takes {first['recompute'] * 1e3:.3g} ms by recomputing and "
        f"{first['cache_f32'] * 1e3:.3g} ms from the cache, at {last['tokens']} tokens {last['recompute'] * 1e3:.3g} ms and "
        f"{last['cache_f32'] * 1e3:.3g} ms.",
        height=420,
    )
    draw_whole(figure, generate, result["generate_prompt_tokens"])
    draw_logarithmic(figure, points)
    note = "; provisional, the machine was shared" if "provisional" in result else ""
    figure.text(20, 408, result["machine"] + note, "small", "muted", room=WIDTH - 40)
    return figure


def draw_whole(figure, generate, prompt):
    """Seconds of a whole text, on plain axes."""
    left, right, top, bottom = 64, 386, 72, 330
    x_end, x_step = axis(generate[-1]["tokens"])
    y_end, y_step = axis(generate[-1]["recompute"])
    at = lambda x, y: (left + x / x_end * (right - left), bottom - y / y_end * (bottom - top))
    figure.text(20, 28, "Seconds for the whole text", "head")
    figure.text(20, 48, f"after a prompt of {prompt} tokens", "small", "muted")
    for i in range(round(y_end / y_step) + 1):
        grid(figure, left, right, at(0, i * y_step)[1], f"{i * y_step:.6g}")
    for i in range(0, round(x_end / x_step) + 1, 2):
        figure.text(at(i * x_step, 0)[0], bottom + 20, f"{i * x_step:.6g}", "small", "muted", "middle")
    figure.text((left + right) / 2, bottom + 42, "new tokens", "small", "muted", "middle")
    for name, role in [("recompute", "orange"), ("cache", "blue")]:
        curve(figure, [at(p["tokens"], p[name]) for p in generate], role)
    x, y = at(generate[-1]["tokens"], generate[-1]["recompute"])
    figure.text(x - 58, y + 26, "recompute", "small", "orange", "end")
    figure.text(at(generate[-1]["tokens"], 0)[0], bottom - 14, "cache", "small", "blue", "end")


def draw_logarithmic(figure, points):
    """Milliseconds of the next token, on logarithmic axes."""
    left, right, top, bottom = 478, 818, 72, 330
    lengths = [p["tokens"] for p in points]
    values = [p[name] * 1e3 for p in points for name, _, _ in SERIES]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    span = math.log2(lengths[-1] / lengths[0])

    def at(x, y):
        along, up = math.log2(x / lengths[0]) / span, (math.log10(y) - low) / (high - low)
        return left + 14 + along * (right - left - 28), bottom - up * (bottom - top)

    figure.text(434, 28, "Milliseconds for the next token", "head")
    figure.text(434, 48, "both axes are logarithmic", "small", "muted")
    for power in range(low, high + 1):
        grid(figure, left, right, at(lengths[0], 10.0**power)[1], f"{10.0**power:g}")
    for n in lengths:
        figure.text(at(n, 1)[0], bottom + 20, str(n), "small", "muted", "middle")
    figure.text((left + right) / 2, bottom + 42, "tokens in the sequence", "small", "muted", "middle")
    for name, role, label in SERIES:
        curve(figure, [at(p["tokens"], p[name] * 1e3) for p in points], role, dashed=name == "cache_bf16")
    for i, (name, role, label) in enumerate(SERIES):
        y = top + 14 + 18 * i
        figure.line((left + 20, y - 4), (left + 46, y - 4), role=role, thick=True, dashed=name == "cache_bf16")
        figure.text(left + 54, y, label, "small", role)


def grid(figure, left, right, y, label):
    """A line across, and its label."""
    figure.raw(f'<path class="line l-muted" stroke-opacity=".3" d="M{left} {number(y)}H{right}"/>', "muted")
    figure.text(left - 8, y + 4, label, "small", "muted", "end")


def curve(figure, points, role, dashed=False):
    """A line through points, with a dot on each."""
    figure.line(*points, role=role, thick=True, dashed=dashed)
    for x, y in points:
        figure.raw(f'<circle class="{role}" cx="{number(x)}" cy="{number(y)}" r="3.5"/>')
