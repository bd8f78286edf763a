"""RoPE's two conventions, how heads share K and V, and what recomputing costs."""

from . import sources
from .look import WIDTH, Figure, number

PAIRS = ["blue", "orange", "green", "purple"]  # the colour of pair i
CELL = 42


def rope_conventions():
    """steps/step1-forward/figures/rope-conventions.svg"""
    figure = Figure(
        "RoPE: rotate-half and interleaved",
        "A head of width 8 is four pairs, and each pair turns at its own frequency. Rotate-half pairs element i with "
        "i + 4, interleaved pairs 2i with 2i + 1. Hugging Face checkpoints have the rows of q_proj and k_proj permuted "
        "so that rotate-half finds the interleaved pairs: 0 2 4 6 1 3 5 7. Rotating such rows interleaved pairs "
        "elements that never belonged together.",
        height=606,
    )
    left, right = 36, 468
    half = [0, 1, 2, 3, 0, 1, 2, 3]
    neighbours = [0, 0, 1, 1, 2, 2, 3, 3]
    figure.text(left, 28, "Rotate-half", "head")
    figure.text(left, 48, "Hugging Face, vLLM's default, stairwell", "small", "muted")
    figure.text(right, 28, "Interleaved", "head")
    figure.text(right, 48, "the paper (arXiv:2104.09864), llama2.c", "small", "muted")
    draw_head(figure, left, 150, half)
    draw_head(figure, right, 150, neighbours)
    figure.text(left, 228, "pair i = elements i and i + 4", "body")
    figure.text(right, 228, "pair i = elements 2i and 2i + 1", "body")
    figure.text(
        left,
        256,
        "Either way pair i = (a, b) turns by an angle that grows with the position p, at its own frequency:",
        "small",
        "muted",
    )
    figure.text(left, 277, "a' = a cos(p fᵢ) − b sin(p fᵢ)", "small")
    figure.text(left + 232, 277, "b' = b cos(p fᵢ) + a sin(p fᵢ)", "small")
    figure.text(left + 464, 277, "fᵢ = θ^(−2i/8)", "small")

    figure.text(left, 312, "Converting: permute the rows", "head")
    figure.text(left, 332, "of each head, in `q_proj` and `k_proj`, for rotate-half", "small", "muted")
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    for at, row in enumerate(order):
        figure.line((left + CELL * row + 20, 388), (left + CELL * at + 20, 440), role=PAIRS[row // 2])
    draw_cells(figure, left, 350, neighbours, range(8))
    draw_cells(figure, left, 440, half, order)
    figure.lines(
        left,
        502,
        ["q · k is a sum over the elements, so the same", "order in both leaves it as it was. v keeps its order."],
        17,
        kind="small",
        role="muted",
    )

    figure.text(right, 312, "Wrong: rotated interleaved all the same", "head", "red")
    figure.text(right, 332, "strangers are paired, most at a wrong frequency", "small", "muted")
    draw_cells(figure, right, 440, half, order)
    for pair in range(4):
        draw_arc(figure, right, 440, 2 * pair, 2 * pair + 1, "red", dashed=True, label=f"f{'₀₁₂₃'[pair]}")
    figure.lines(
        right,
        502,
        [
            "q · k is right for a token and itself; with",
            "distance ever more pairs are turned wrongly:",
            "a few words look fine, then gibberish.",
        ],
        17,
        kind="small",
        role="muted",
    )
    figure.text(
        left,
        578,
        "Colour = the pair an element was trained in. fᵢ = the frequency it is turned with.",
        "small",
        "muted",
    )
    return figure


def draw_cells(figure, x, y, pairs, numbers):
    """A head's elements, in the colours of their pairs."""
    for i, (pair, n) in enumerate(zip(pairs, numbers)):
        figure.labelled(x + CELL * i, y, CELL - 4, 38, [str(n)], PAIRS[pair], ["code"])


def draw_arc(figure, x, y, a, b, role, dashed=False, label=None):
    """Joins elements a and b of the cells at (x, y)."""
    left, right = x + CELL * a + 19, x + CELL * b + 19
    high = 18 + 11 * (b - a) if b - a > 1 else 24
    figure.path(f"M{left} {y - 2}C{left} {y - high - 8} {right} {y - high - 8} {right} {y - 2}", role, dashed=dashed)
    if label:
        figure.text((left + right) / 2, y - high - 6 if b - a == 1 else y - high + 4, label, "small", role, "middle")


def draw_head(figure, x, y, pairs):
    """A head with arcs between the elements of each pair."""
    draw_cells(figure, x, y, pairs, range(8))
    for pair in range(4):
        a, b = (i for i in range(8) if pairs[i] == pair)
        draw_arc(figure, x, y, a, b, PAIRS[pair], label=f"f{'₀₁₂₃'[pair]}" if b - a == 1 else None)
        if b - a > 1:
            figure.text(x + CELL * a + 19, y + 55, f"f{'₀₁₂₃'[pair]}", "small", PAIRS[pair], "middle")
            figure.text(x + CELL * b + 19, y + 55, f"f{'₀₁₂₃'[pair]}", "small", PAIRS[pair], "middle")


HEADS = 8


def head_sharing():
    """steps/step1-forward/figures/head-sharing.svg"""
    figure = Figure(
        "Query heads sharing K and V heads",
        "Eight query heads. Multi-head attention: eight K/V heads. Grouped-query attention: two K/V heads, each shared by four "
        "neighbouring query heads, kv_head = head / 4. Multi-query attention: one K/V head. Taking head % 2 instead spreads each "
        "K/V head over every second query head: four of eight read the wrong one, and every shape still fits.",
        height=406,
    )
    panels = [("MHA", "multi-head", 8), ("GQA", "grouped-query", 2), ("MQA", "multi-query", 1)]
    for (short, name, kv_heads), x in zip(panels, (20, 302, 584)):
        figure.text(x, 28, short, "head")
        figure.text(x + 44, 28, name, "small", "muted")
        draw_sharing(figure, x, 44, kv_heads, lambda head, n=kv_heads: head // (HEADS // n))
        heads = "head" if kv_heads == 1 else "heads"
        figure.text(x, 186, f"K and V of a token: {kv_heads} {heads} each", "small", "muted")
    figure.text(20, 236, "Right: `head / 4`", "head")
    draw_sharing(figure, 20, 252, 2, lambda head: head // 4)
    figure.text(302, 236, "Wrong: `head % 2`", "head", "red")
    draw_sharing(figure, 302, 252, 2, lambda head: head % 2, lambda head: head // 4)
    why = [
        "Above: query heads. Below: K/V heads.",
        "",
        "A group is `heads / kv_heads` = 4",
        "neighbours: `q_proj` was trained",
        "with its rows in this order.",
        "",
        "`head % kv_heads` hands heads",
        "1, 3, 4 and 6 the other group's",
        "keys and values. Every shape fits",
        "and nothing panics.",
    ]
    figure.lines(584, 236, why, 17, kind="small", role="muted")
    return figure


def draw_sharing(figure, x, y, kv_heads, kv_head, right=None):
    """Query heads above K/V heads, with lines; where `right` differs the line is wrong."""
    step, width = 30, 26
    roles = ["blue"] * 8 if kv_heads in (1, 8) else ["blue", "orange"]
    span = HEADS * step / kv_heads
    centre = [x + span * i + (span - 4) / 2 for i in range(kv_heads)]
    for head in range(HEADS):
        kv, top = kv_head(head), x + step * head + width / 2
        wrong = right is not None and right(head) != kv
        figure.line((top, y + 26), (centre[kv], y + 92), role="red" if wrong else roles[kv], dashed=wrong)
    for head in range(HEADS):
        role = roles[right(head) if right else kv_head(head)]
        figure.labelled(x + step * head, y, width, 26, [str(head)], role, ["code"])
    for i in range(kv_heads):
        w = width if kv_heads == 8 else 74
        label = str(i) if kv_heads == 8 else f"K/V {i}"
        figure.labelled(centre[i] - w / 2, y + 92, w, 30, [label], roles[i], ["code"])


def recompute_cost():
    """steps/step1-forward/figures/recompute-cost.svg, from benches/results/step1.json"""
    result = sources.recorded("step1.json", "recompute")
    points = [(p["tokens"], p["seconds_per_token"]) for p in sorted(result["recompute"], key=lambda p: p["tokens"])]
    (first, fast), (last, slow) = points[0], points[-1]
    figure = Figure(
        "Seconds per token when everything is recomputed",
        f"With {first} tokens in the sequence the next one takes {fast:.3g} s, with {last} it takes {slow:.3g} s. "
        "The time of one token grows with the length; the time of all of them, the area under the line, with its "
        "square.",
        height=400,
    )
    left, right, top, bottom = 84, WIDTH - 40, 64, 320
    x_end, x_step = axis(last)
    y_end, y_step = axis(slow)
    at = lambda x, y: (left + x / x_end * (right - left), bottom - y / y_end * (bottom - top))  # noqa: E731
    figure.text(20, 28, "The price of the next token", "head")
    figure.text(20, 48, "seconds, when the whole sequence is computed again", "small", "muted")
    for i in range(round(y_end / y_step) + 1):
        _, y = at(0, i * y_step)
        figure.raw(f'<path class="line l-muted" stroke-opacity=".3" d="M{left} {number(y)}H{right}"/>', "muted")
        figure.text(left - 10, y + 4, f"{i * y_step:.6g}", "small", "muted", "end")
    for i in range(round(x_end / x_step) + 1):
        x, _ = at(i * x_step, 0)
        figure.text(x, bottom + 20, f"{i * x_step:.6g}", "small", "muted", "middle")
    line = "L".join(f"{number(x)} {number(y)}" for x, y in (at(*p) for p in points))
    ends = [number(at(x, 0)[0]) for x in (first, last)]
    figure.raw(f'<path class="b-blue none" d="M{ends[0]} {bottom}L{line}L{ends[1]} {bottom}z"/>', "blue")
    figure.raw(f'<path class="line thick l-blue" d="M{line}"/>')
    for p in points:
        x, y = at(*p)
        figure.raw(f'<circle class="blue" cx="{number(x)}" cy="{number(y)}" r="4"/>')
    x, y = at(last, 0)
    total = ["area = time of the whole text"]
    if last / 2 in dict(points):
        half = [p for p in points if p[0] <= last / 2]
        total.append(f"{last // 2} → {last} tokens: {area(points) / area(half):.1f} times as long")
    figure.lines(x - 14, y - 13 - 17 * len(total), total, 17, kind="small", anchor="end")
    figure.text((left + right) / 2, bottom + 42, "tokens in the sequence", "small", "muted", "middle")
    figure.text(20, 388, result["machine"], "small", "muted", room=WIDTH - 40)
    return figure


def area(points):
    """Under the line through points, from 0 on, where the first one's height is taken."""
    x, y = points[0]
    return x * y + sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(points, points[1:]))


def axis(largest):
    """The end of an axis and the distance of its ticks: at most 8 of them, at round numbers."""
    if largest >= 64 and largest % 64 == 0:
        return largest, largest / 8
    step = 1.0
    while largest / step > 8:
        step *= 10
    while largest / step <= 8:
        step /= 10
    step *= next(f for f in (1, 2, 2.5, 5, 10) if largest / (step * f) <= 8)
    ticks = -(-largest // step)
    return ticks * step, step
