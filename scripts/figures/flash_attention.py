"""Chapter 6: tiles of a causal score matrix; a tile that meets a row's softmax; fragments of tensor cores; a swizzle; two buffers; what is moved."""

import math

from . import sources
from .look import Figure


def tiles():
    """steps/step6-flash-attention/figures/tiles.svg"""
    figure = Figure(
        "Scores of a prompt, tile by tile",
        "A square of scores: 8 tiles of queries down, 8 tiles of keys across. Tiles below the diagonal are seen whole, those on it in part, those above it not "
        "at all, and nothing of them is read. A block takes one row of tiles and walks along it.",
        height=312,
    )
    x0, y0, side, n = 96, 44, 29, 8
    figure.text(x0 + n * side / 2, 30, "tiles of keys →", "small", "muted", "middle")
    for i in range(n):
        figure.text(x0 - 10, y0 + i * side + 19, f"queries {i}", "small", "muted", "end")
        for j in range(n):
            role = "blue" if j < i else "orange" if j == i else "muted"
            figure.box(x0 + j * side, y0 + i * side, side - 3, side - 3, role, dashed=j > i, bare=j > i, radius=2)
    y = y0 + 5 * side + 13
    figure.arrow((x0 + 6, y), (x0 + 6 * side - 12, y), role="purple", thick=True)
    x = 380
    for k, (role, dashed, head, text) in enumerate([
        ("blue", False, "seen whole", ["no score of the tile is masked, so none is compared"]),
        ("orange", False, "on the diagonal", ["each row sees the keys up to itself; the rest counts −∞"]),
        ("muted", True, "never read", ["half of all tiles, and half of the arithmetic"]),
    ]):
        yy = 50 + 46 * k
        figure.box(x, yy, 26, 26, role, dashed=dashed, bare=dashed, radius=2)
        figure.text(x + 40, yy + 11, head, "small", bold=True)
        figure.lines(x + 40, yy + 27, text, kind="small", role="muted")
    figure.lines(x, 208, [
        "A block has one tile of queries, in shared memory or registers.",
        "It walks along the keys: a tile of K and of V comes from memory once,",
        "and serves all of its queries. What it keeps of a row is the largest",
        "score, the total of the weights and the weighted sum: 2 + head_dim",
        "numbers, however many keys there were.",
    ], kind="small")
    return figure


ROW = [[1.0, 3.0, 2.0], [5.0, 0.0, 4.0], [2.0, 1.0, 5.0]]
VALUE = [[2.0, 4.0, 1.0], [3.0, 1.0, 2.0], [5.0, 2.0, 1.0]]


def meeting():
    """steps/step6-flash-attention/figures/meeting.svg"""
    figure = Figure(
        "Three tiles of scores meet one row",
        "A row's scores come in three tiles of three keys. For each tile the largest score so far is found, everything that was summed before is multiplied with e to the "
        "power of old largest minus new largest, and the tile's weights and weighted values are added.",
        height=236,
    )
    heads = [("scores of the tile", 100), ("largest so far", 226), ("what was summed is multiplied with", 396), ("weights", 566), ("total", 676), ("sum", 770)]
    for head, x in heads:
        figure.text(x, 26, head, "small", "muted", "middle")
    largest, total, weighted = -math.inf, 0.0, 0.0
    for i, (scores, values) in enumerate(zip(ROW, VALUE)):
        y = 40 + 46 * i
        new = max(largest, *scores)
        correction = math.exp(largest - new)
        weights = [math.exp(s - new) for s in scores]
        total = total * correction + sum(weights)
        weighted = weighted * correction + sum(w * v for w, v in zip(weights, values))
        said = "nothing is there yet" if largest == -math.inf else f"e^({largest:g} − {new:g}) = {correction:.3f}"
        for j, score in enumerate(scores):
            figure.labelled(40 + 42 * j, y, 38, 32, [f"{score:g}"], "blue", ["small"])
        for x, w, text, role in [
            (226, 60, f"{new:g}", "orange" if correction < 1 else "muted"), (396, 190, said, "orange" if 0 < correction < 1 else "muted"),
            (566, 136, "  ".join(f"{w:.3f}" for w in weights), "green"), (676, 70, f"{total:.3f}", "purple"), (770, 84, f"{weighted:.3f}", "purple"),
        ]:
            figure.labelled(x - w / 2, y, w, 32, [text], role, ["small"])
        largest = new
    exact = sum(math.exp(s) * v for r, vs in zip(ROW, VALUE) for s, v in zip(r, vs)) / sum(math.exp(s) for r in ROW for s in r)
    assert abs(exact - weighted / total) < 1e-12
    figure.text(20, 204, f"sum / total = {weighted / total:.4f}, which is softmax over all nine at once.", "small")
    figure.text(20, 224, "The third tile's largest score is no larger than what was there: nothing is corrected. One correction a tile, not one a key.", "small", "muted")
    return figure


def fragments():
    """steps/step6-flash-attention/figures/fragments.svg"""
    figure = Figure(
        "Who holds what in mma.m16n8k16",
        "Three grids. A is 16 by 16, B 16 by 8, C 16 by 8. Lane 5 holds in A rows 1 and 9, columns 2, 3, 10 and 11; in B column 1, rows 2, 3, 10, 11; in C rows 1 and 9, "
        "columns 2 and 3. Two results C side by side have the layout of A.",
        height=330,
    )
    cell, y0 = 14, 60

    def grid(x0, cols, head, note, mine):
        figure.text(x0, 24, head, "head")
        figure.text(x0, 44, note, "small", "muted")
        figure.box(x0 - 2, y0 - 2, cols * cell + 2, 16 * cell + 2, "muted", radius=2)
        for i in range(1, 16):
            figure.line((x0 - 2, y0 + i * cell - 1), (x0 + cols * cell, y0 + i * cell - 1))
        for i in range(1, cols):
            figure.line((x0 + i * cell - 1, y0 - 2), (x0 + i * cell - 1, y0 + 16 * cell))
        for row, col in sorted(mine):
            figure.box(x0 + col * cell, y0 + row * cell, cell - 2, cell - 2, "orange", radius=1)

    grid(20, 16, "A, 16 × 16", "lane 5: four registers of two", {(r, c) for r in (1, 9) for c in (2, 3, 10, 11)})
    figure.text(262, 176, "×", "head")
    grid(290, 8, "B, 16 × 8", "two registers of two", {(r, 1) for r in (2, 3, 10, 11)})
    figure.text(416, 176, "+", "head")
    grid(444, 8, "C, 16 × 8", "four numbers, f32", {(r, c) for r in (1, 9) for c in (2, 3)})
    figure.lines(582, 74, ["Lane 5: g = 5 / 4 = 1,", "t = (5 mod 4) · 2 = 2.", "", "Two Cs side by side,", "16 × 16, are spread over", "the lanes as A is. So the", "weights, made of scores", "in C, are the next mma's", "A as they stand: they", "never leave registers."], kind="small", step=20)
    figure.text(20, 310, "After the PTX manual, “Matrix Fragments for mma.m16n8k16 with floating point type”.", "small", "muted")
    return figure


def swizzle():
    """steps/step6-flash-attention/figures/swizzle.svg"""
    figure = Figure(
        "Eight rows of a tile, without and with a swizzle",
        "Each row has 8 pieces of 16 bytes, which is once through all banks. Piece 2 of 8 rows lies in the same four banks without a swizzle, and in eight different groups "
        "of four banks with it: piece p of row r is at place p XOR r.",
        height=306,
    )
    for part, (swizzled, head) in enumerate([(False, "as they come: 8 turns for piece 2"), (True, "piece p at place p XOR r: 1 turn")]):
        x0 = 60 + 410 * part
        figure.text(x0, 26, head, "head")
        for place in range(8):
            figure.text(x0 + 42 * place + 19, 48, f"{4 * place}–{4 * place + 3}", "small", "muted", "middle")
        for row in range(8):
            figure.text(x0 - 8, 74 + 28 * row, f"r {row}", "small", "muted", "end")
            for place in range(8):
                piece = place ^ row if swizzled else place
                figure.labelled(x0 + 42 * place, 56 + 28 * row, 38, 24, [f"p{piece}"], "orange" if piece == 2 else "muted", ["code"])
    figure.text(20, 298, "The columns are banks; the number in a cell is its piece. ldmatrix reads one piece of eight rows at a time.", "small", "muted")
    return figure


def two_buffers():
    """steps/step6-flash-attention/figures/two_buffers.svg"""
    figure = Figure(
        "One buffer and two",
        "v2 brings a tile, computes with it, brings the next. v3 has two buffers: while it computes with tile 0, tile 1 is on its way. A drawing, not a measurement.",
        height=218,
    )
    figure.text(20, 26, "v2: one buffer", "head")
    x = 110
    for i in range(3):
        figure.labelled(x, 38, 84, 28, [f"tile {i}"], "orange", ["small"])
        figure.labelled(x + 88, 38, 124, 28, [f"compute with {i}"], "blue", ["small"])
        x += 216
    figure.text(20, 100, "v3: two buffers", "head")
    figure.text(20, 130, "cp.async", "small", "muted")
    figure.text(20, 166, "tensor cores", "small", "muted")
    for i in range(4):
        start = 110 if i == 0 else 198 + 128 * (i - 1)
        figure.labelled(start, 112, 84, 28, [f"tile {i}"], "orange", ["small"])
    for i in range(3):
        figure.labelled(198 + 128 * i, 148, 124, 28, [f"compute with {i}"], "blue", ["small"])
    figure.text(20, 206, "A drawing, not a measurement: no GPU has run it. The counters are the same for both; what changes is when.", "small", "muted")
    return figure


def moved():
    """steps/step6-flash-attention/figures/moved.svg, from benches/results/step6.json"""
    rows = sources.recorded("step6.json", "prefill")["prefill"]
    kernels = [("v0", "red"), ("v1", "orange"), ("v2", "purple"), ("v3", "blue"), ("v4", "green")]
    lengths = sorted({row["tokens"] for row in rows})
    found = {(row["kernel"], row["tokens"]): row for row in rows}
    total = {(v, n): (found[f"flash_attention_{v}", n]["bytes_read"] + found[f"flash_attention_{v}", n]["bytes_written"]) / 1e6 for v, _ in kernels for n in lengths}
    figure = Figure(
        "Bytes moved by the versions, as prompts grow",
        "MB read and written for prompts of "
        + "; ".join(f"{n} tokens: " + ", ".join(f"{v} {total[v, n]:.1f}" for v, _ in kernels) for n in lengths) + ".",
        height=262,
    )
    most = max(total.values())
    for part, n in enumerate(lengths):
        x0 = 20 + 276 * part
        figure.text(x0, 26, f"{n} tokens, MB", "head")
        for i, (version, role) in enumerate(kernels):
            y, w = 42 + 38 * i, 150 * total[version, n] / most
            figure.text(x0, y + 17, version, "code")
            figure.box(x0 + 30, y + 2, max(w, 2), 22, role, radius=2)
            figure.text(x0 + 40 + w, y + 17, f"{total[version, n]:.1f}", "small")
    row = rows[0]
    figure.text(20, 250, f"{row['heads']} query heads on {row['kv_heads']} of K and V, head_dim {row['head_dim']}, bf16; sectors read and written, counted by the simulator", "small", "muted")
    return figure
