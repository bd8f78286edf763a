"""The page on the CPU's limits: a product of AMX tiles; attention in blocks of keys; where the time of a step lies under the roofline."""

from .look import Figure

CELL = 12  # of a grid of 16 × 16


def grid(figure, x0, y0, head, notes, rows=(), columns=(), role="blue"):
    """A tile: 16 × 16 words of 32 bits, some of them marked."""
    side = 16 * CELL
    figure.text(x0, y0 - 30, head, "head")
    figure.text(x0, y0 - 12, notes[0], "small", "muted")
    figure.box(x0, y0, side, side, "muted", radius=1)
    for i in range(1, 16):
        figure.line((x0, y0 + i * CELL), (x0 + side, y0 + i * CELL))
        figure.line((x0 + i * CELL, y0), (x0 + i * CELL, y0 + side))
    for row in range(16):
        for column in range(16):
            if (row in rows or not rows) and (column in columns or not columns) and (rows or columns):
                figure.box(x0 + column * CELL + 1, y0 + row * CELL + 1, CELL - 2, CELL - 2, role, radius=1)
    figure.lines(x0, y0 + side + 20, notes[1:], kind="small")


def amx_tile():
    """steps/step4-paged-kv/figures/amx-tile.svg"""
    figure = Figure(
        "One AMX instruction: 16 outputs, 16 rows of x, 32 inputs",
        "Three grids of 16 by 16 words of 32 bits. a holds 16 rows of W as they lie in the file, 32 inputs each, two to a word. b holds 32 inputs of 16 rows of x, packed: a word "
        "has inputs 2p and 2p+1 of one row of x. c holds 16 by 16 sums in f32. Row 3 of a meets column 5 of b, and their 32 products are added to the sum in row 3, column 5 of c.",
        height=370,
    )
    y0 = 62
    grid(figure, 24, y0, "a: W as it is stored", ["16 outputs ↓, 32 inputs →", "a word: inputs 2p and 2p + 1", "of an output, as in the file.", "Rows may be any distance apart."], rows={3})
    figure.text(236, y0 + 100, "×", "head", anchor="middle")
    grid(figure, 258, y0, "b: x, packed in pairs", ["16 pairs of inputs ↓, 16 rows →", "a word: inputs 2p and 2p + 1", "of a row of x. Packed once,", "used for all of W."], columns={5}, role="orange")
    figure.text(470, y0 + 100, "→", "head", anchor="middle")
    grid(figure, 492, y0, "c: sums in f32", ["16 outputs ↓, 16 rows →", "yᵀ, turned over at the end:", "small beside W."], rows={3}, columns={5}, role="purple")
    figure.lines(704, y0 + 30, ["c[3][5] +=", "row 3 of a", "times", "column 5 of b:", "32 products."], kind="small", step=18)
    figure.lines(704, y0 + 140, ["16 · 16 · 32", "products,", "two operations", "each: 16,384."], kind="small", role="muted", step=18)
    figure.lines(24, 342, ["A column of c belongs to one row of x. What the other 15 hold changes nothing in it,", "so a row has the same bits alone and among many."], kind="small", role="muted")
    return figure


def attention_blocks():
    """steps/step4-paged-kv/figures/attention-blocks.svg"""
    figure = Figure(
        "Attention in blocks of 256 keys, 16 queries in the lanes",
        "A prompt's keys in blocks of 256. For each block: scores S are K times Q transposed, 256 keys down and 16 queries across; the largest score and the total are kept per "
        "query, each in its own lane, and weights P are made; sums so far are multiplied with alpha, and V transposed times P is added. Then the next block.",
        height=392,
    )
    figure.text(20, 26, "keys, 256 at a time", "head")
    for i, (role, text) in enumerate([("muted", "block 0: done"), ("orange", "block 1: now"), ("muted", "block 2"), ("muted", "block 3: masked")]):
        figure.labelled(20, 40 + 66 * i, 150, 58, [text], role, ["small"], dashed=i > 1)
    figure.arrow((174, 135), (214, 135), role="orange")
    figure.text(220, 26, "S = K · Qᵀ", "head")
    x0, y0, w, h = 220, 40, 128, 190
    figure.box(x0, y0, w, h, "blue", radius=1)
    for i in range(1, 16):
        figure.line((x0 + 8 * i, y0), (x0 + 8 * i, y0 + h), role="blue")
    figure.box(x0 + 8 * 5, y0, 8, h, "orange", radius=1)
    figure.lines(x0, y0 + h + 20, ["256 keys ↓", "16 queries →, one", "in each lane"], kind="small")
    figure.arrow((354, 135), (386, 135), role="blue")
    figure.text(392, 26, "softmax, lane by lane", "head")
    steps = ["m′ = max(m, 256 rows of S)", "α = e^(m − m′)", "P = e^(S − m′), in bf16", "l = α · l + sum of P's rows"]
    for i, text in enumerate(steps):
        figure.labelled(392, 40 + 48 * i, 196, 40, [text], "purple", ["small"])
    figure.lines(392, 250, ["A step is an instruction for 16", "queries. Nothing is summed", "across the lanes."], kind="small")
    figure.arrow((592, 135), (624, 135), role="purple")
    figure.text(630, 26, "O = α · O + Vᵀ · P", "head")
    figure.box(630, 40, 128, 126, "green", radius=1)
    for i in range(1, 16):
        figure.line((630 + 8 * i, 40), (630 + 8 * i, 166), role="green")
    figure.lines(630, 186, ["head_dim ↓, 16 queries →", "32 keys of V turned over", "at a time, for all queries", "that read them"], kind="small")
    figure.text(20, 336, "After the last block: O / l. Scores exist for one block only, so memory does not grow with the square of the prompt.", "small")
    figure.text(20, 356, "Blocks begin at multiples of 256 positions, and a query has its own lane:", "small", "muted")
    figure.text(20, 374, "its bits depend neither on its neighbours nor on where a prompt was cut into steps.", "small", "muted")
    return figure


def roofline():
    """steps/step4-paged-kv/figures/roofline.svg: a drawing, not a measurement"""
    figure = Figure(
        "A step with r rows: reading is the floor until multiplying is longer",
        "Two lines over the rows of a step. The time to read the weights is the same for any number of rows. The time to multiply grows with the rows. They cross at the ridge. To the left "
        "rows are nearly free, to the right each costs its part.",
        height=236,
    )
    x0, y0, w, h = 70, 190, 420, 160
    figure.line((x0, y0), (x0 + w, y0), role="ink")
    figure.line((x0, y0), (x0, y0 - h), role="ink")
    figure.line((x0, y0 - 70), (x0 + w, y0 - 70), role="blue", thick=True)
    figure.line((x0, y0), (x0 + w, y0 - 140), role="orange", thick=True)
    figure.line((x0 + 210, y0), (x0 + 210, y0 - 70), role="muted", dashed=True)
    figure.text(x0 + 210, y0 + 18, "the ridge", "small", "ink", "middle")
    figure.text(x0 + w, y0 + 18, "rows of a step →", "small", "muted", "end")
    figure.text(x0 + 8, y0 - 80, "reading every weight once", "small", "blue")
    figure.text(x0 + 262, y0 - 122, "multiplying", "small", "orange")
    figure.text(x0 - 44, y0 - h + 4, "time", "small", "muted")
    figure.lines(520, 60, ["Left of the ridge a step takes as long as", "reading does: decode. More rows in the", "same step are nearly free.", "", "Right of it, it takes as long as", "multiplying does: prompts. Only more", "operations a second help."], kind="small", step=19)
    return figure
