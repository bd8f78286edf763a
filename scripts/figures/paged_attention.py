"""The second half of chapter 5: online softmax; a group of query heads; parts and their merge; the ladder's counters."""

import math

from . import sources
from .look import Figure

SCORES = [1.0, 3.0, 2.0, 5.0]
VALUES = [2.0, 4.0, 1.0, 3.0]


def online_softmax():
    """steps/step5-paged-attention/figures/online_softmax.svg"""
    figure = Figure(
        "Online softmax over four scores",
        "Scores 1, 3, 2, 5 come one after the other, with values 2, 4, 1, 3. After each, the largest score so far, the total of the weights and the "
        "weighted sum are kept. When a larger score comes, total and sum are multiplied with e to the power of old largest minus new largest.",
        height=262,
    )
    heads = ["score", "value", "largest so far", "everything so far is multiplied with", "its weight", "total", "sum"]
    xs = [40, 100, 178, 382, 568, 662, 764]
    for x, head in zip(xs, heads):
        figure.text(x, 26, head, "small", "muted", "middle" if x != 330 else "middle")
    largest, total, weighted = -math.inf, 0.0, 0.0
    for i, (score, value) in enumerate(zip(SCORES, VALUES)):
        y = 42 + 44 * i
        new = max(largest, score)
        correction = math.exp(largest - new)
        weight = math.exp(score - new)
        total, weighted = total * correction + weight, weighted * correction + weight * value
        rescales = correction < 1
        said = "nothing is there yet" if largest == -math.inf else f"e^({largest:g} − {new:g}) = {correction:.3f}" if rescales else "1"
        for x, w, text, role in [
            (xs[0], 48, f"{score:g}", "blue"), (xs[1], 48, f"{value:g}", "green"), (xs[2], 60, f"{new:g}", "orange" if rescales else "muted"),
            (xs[3], 190, said, "orange" if rescales and largest > -math.inf else "muted"), (xs[4], 70, f"{weight:.3f}", "muted"),
            (xs[5], 76, f"{total:.3f}", "purple"), (xs[6], 76, f"{weighted:.3f}", "purple"),
        ]:
            figure.labelled(x - w / 2, y, w, 32, [text], role, ["small"])
        largest = new
    figure.text(20, 236, f"The result is sum / total = {weighted / total:.4f}. Softmax over all four at once gives the same:", "small")
    exact = sum(math.exp(s) * v for s, v in zip(SCORES, VALUES)) / sum(math.exp(s) for s in SCORES)
    figure.text(20, 254, f"(e·2 + e³·4 + e²·1 + e⁵·3) / (e + e³ + e² + e⁵) = {exact:.4f}", "small", "muted")
    assert abs(exact - weighted / total) < 1e-12
    return figure


def group():
    """steps/step5-paged-attention/figures/group.svg"""
    figure = Figure(
        "v1 reads a head of K and V for each query head, v2 once",
        "On the left, four query heads that share a head of K and V each have a block, and each block reads all of K and V. On the right, one block "
        "with four warps brings tiles of 16 keys to shared memory, and each tile serves all four query heads.",
        height=300,
    )
    figure.text(20, 26, "v1: a block for each query head", "head")
    for h in range(4):
        figure.labelled(20 + 96 * h, 44, 88, 44, [f"query head {h}", "block"], "blue", ["small", "small"])
        figure.labelled(20 + 96 * h, 128, 88, 60, ["K and V", "of head 0"], "orange", ["small"])
        figure.arrow((64 + 96 * h, 126), (64 + 96 * h, 92), role="orange")
    figure.text(20, 212, "the same bytes, four times", "small", "orange")
    figure.text(440, 26, "v2: a block for all of them", "head")
    for h in range(4):
        figure.labelled(440 + 96 * h, 44, 88, 30, [f"query head {h}"], "blue", ["small"])
    for w in range(4):
        figure.labelled(440 + 96 * w, 108, 88, 44, [f"warp {w}", "its tile"], "purple", ["small", "small"])
        for h in range(4):
            figure.line((484 + 96 * w, 106), (484 + 96 * h, 76), role="purple")
        figure.arrow((484 + 96 * w, 206), (484 + 96 * w, 156), role="orange")
    figure.box(440, 208, 376, 30, "orange")
    figure.text(628, 228, "K and V of head 0, read once", "small", "ink", "middle")
    figure.text(20, 266, "Warps take tiles of 16 keys in turn: warp 0 keys 0 to 15, warp 1 keys 16 to 31, …, warp 0 keys 64 to 79.", "small", "muted")
    figure.text(20, 284, "Each warp keeps a softmax for each query head, so warps wait for each other once, at the end, to merge them.", "small", "muted")
    return figure


def parts():
    """steps/step5-paged-attention/figures/parts.svg"""
    figure = Figure(
        "One long context in parts of 512 keys, and their merge",
        "A context of 2,000 tokens in four parts. Each part is a block, which leaves a weighted sum, its largest score and its total weight. A second "
        "kernel scales each part by e to the power of its largest score minus the largest of all, and adds them up.",
        height=272,
    )
    figure.text(20, 26, "One sequence, 2,000 tokens, one head of K and V", "head")
    shares = [(512, 4.0, 30), (512, 6.0, 25), (512, 3.0, 41), (464, 6.0, 12)]
    x, largest = 20.0, max(share[1] for share in shares)
    for i, (keys, score, total) in enumerate(shares):
        w = 800 * keys / 2000
        figure.labelled(x, 42, w - 6, 30, [f"keys {512 * i} to {512 * i + keys - 1}"], "orange", ["small"])
        figure.arrow((x + w / 2 - 3, 74), (x + w / 2 - 3, 92), role="orange")
        figure.labelled(x + 10, 94, w - 26, 26, [f"block {i}"], "blue", ["small"])
        figure.arrow((x + w / 2 - 3, 122), (x + w / 2 - 3, 140), role="blue")
        figure.labelled(x + 10, 142, w - 26, 44, [f"largest {score:g}, total {total}", "sum: head_dim numbers"], "purple", ["small"])
        times = math.exp(score - largest)
        figure.text(x + w / 2 - 3, 204, f"× e^({score:g} − {largest:g}) = {times:.3f}", "small", "purple", "middle")
        figure.arrow((x + w / 2 - 3, 210), (x + w / 2 - 3, 226), role="purple")
        x += w
    figure.labelled(20, 228, 794, 30, ["combine: out = Σ scaled sums ÷ Σ scaled totals"], "green", ["small"])
    return figure


def counters():
    """steps/step5-paged-attention/figures/attention_ladder.svg, from benches/results/step5.json"""
    rows = sources.recorded("step5.json", "ladder")["ladder"]
    figure = Figure(
        "The ladder of attention, counted",
        "Bytes read by each version, in parts of the bytes that must be read: "
        + "; ".join(f"{row['kernel'][-2:]} {row['times_the_least']:.2f}, lanes ask for {row['times_asked']:.2f}" for row in rows) + ".",
        height=250,
    )
    figure.text(20, 26, "Sectors read, times what must be", "head")
    figure.text(440, 26, "Lanes ask for, times what must be", "head")
    for part, key in enumerate(["times_the_least", "times_asked"]):
        x0, most = 20 + 420 * part, max(row[key] for row in rows)
        for i, (row, role) in enumerate(zip(rows, ["red", "orange", "purple", "green", "blue"])):
            y, w = 42 + 36 * i, 290 * row[key] / most
            figure.text(x0, y + 17, row["kernel"][-2:], "code")
            figure.box(x0 + 30, y + 2, max(w, 2), 22, role, radius=2)
            figure.text(x0 + 40 + w, y + 17, f"{row[key]:.2f}", "small")
    row = rows[0]
    shape = f"{row['sequences']} sequences of {row['tokens']} tokens, {row['heads']} query heads, {row['kv_heads']} of K and V, head_dim {row['head_dim']}, bf16"
    figure.text(20, 240, shape + "; counted by the simulator", "small", "muted")
    return figure
