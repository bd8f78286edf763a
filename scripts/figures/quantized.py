"""Chapter 9: eight weights on a grid, where GPTQ moves an error, layouts to the bit, a chunk as registers, an 8-bit float, pickles, and what quality costs."""

import math

from . import sources
from .look import WIDTH, Figure, number

W = [0.12, -0.34, 0.56, -0.08, 0.91, -0.27, 0.03, 0.45]


def grid():
    """steps/step9-quantized/figures/grid.svg"""
    low, high = min(W), max(W)
    scale = (high - low) / 15
    zero = round(-low / scale)
    codes = [round(w / scale + zero) for w in W]
    figure = Figure(
        "Eight weights and the sixteen numbers that 4 bits can stand for",
        f"Weights from {low} to {high}. The codes 0 to 15 stand for numbers {scale:.4f} apart, and code {zero} stands for 0. Each weight goes to the nearest one: "
        f"{', '.join(f'{w} to code {c}' for w, c in zip(W, codes))}.",
        height=222,
    )
    left, step = 66, 47
    at = lambda w: left + step * (w / scale + zero)
    figure.text(20, 28, "weights", "small", "orange")
    figure.text(20, 168, "codes", "small", "blue")
    figure.line((left - 12, 112), (left + 15 * step + 12, 112), role="muted")
    for code in range(16):
        x = left + step * code
        used = code in codes
        figure.line((x, 104), (x, 120), role="blue" if used else "muted", thick=used)
        figure.text(x, 168, str(code), "code", "blue" if used else "muted", "middle")
        if code % 3 == zero % 3:
            figure.text(x, 192, f"{(code - zero) * scale:.2f}", "small", "muted", "middle")
    for w, code in zip(W, codes):
        figure.raw(f'<circle class="orange" cx="{number(at(w))}" cy="62" r="4"/>', "orange")
        figure.text(at(w), 48, f"{w:.2f}", "small", "orange", "middle")
        figure.arrow((at(w), 70), (left + step * code, 102), role="orange")
    x = left + step * zero
    figure.text(x, 140, "zero point", "small", "ink", "middle")
    figure.line((left + 12 * step, 130), (left + 13 * step, 130), role="ink")
    figure.text(left + 12.5 * step, 148, "scale", "small", "ink", "middle")
    figure.text(20, 214, "What is stored: eight codes of 4 bits, one scale, one zero point.", "small", "muted")
    return figure


def error_moves():
    """steps/step9-quantized/figures/error-moves.svg"""
    figure = Figure(
        "The second weight makes up for the first",
        "On the left, the squared error of the product over the errors of both weights, with H = [[1, 0.9], [0.9, 1]]: a long valley from the upper left to the lower right. The first "
        "weight is off by -0.2. With the second one off by -0.2 too, its nearest, the error is 0.152. In the valley, at +0.18, it would be least; the nearest code there, +0.3, has an error of 0.022. "
        "On the right, a row of weights: when one is rounded, its error is shared out to all weights behind it.",
        height=330,
    )
    cx, cy, unit = 210, 170, 290
    for level, dashed in [(0.01, False), (0.04, False), (0.09, True), (0.152, True)]:
        # Along the diagonals the form is 1.9 and 0.1 times the square of the distance.
        long, short = unit * math.sqrt(level / 0.1), unit * math.sqrt(level / 1.9)
        if long < 220:
            figure.raw(
                f'<ellipse class="line l-muted{" dash" if dashed else ""}" cx="{cx}" cy="{cy}" rx="{number(long)}" ry="{number(short)}" transform="rotate(45 {cx} {cy})"/>',
                "muted",
            )
    figure.line((cx - 170, cy), (cx + 170, cy), role="muted")
    figure.line((cx, cy - 130), (cx, cy + 110), role="muted")
    figure.text(cx + 132, cy - 8, "error of w₁", "small", "muted", "middle")
    figure.text(cx + 8, cy - 122, "error of w₂", "small", "muted")
    x = cx - 0.2 * unit
    figure.line((x, cy - 120), (x, cy + 100), role="orange", dashed=True)
    figure.text(x, cy + 118, "w₁ is off by −0.2", "small", "orange", "middle")
    for error, role, words in [(0.3, "green", "0.022"), (0.18, "blue", "valley"), (-0.2, "red", "0.152")]:
        y = cy - error * unit
        figure.raw(f'<circle class="{role}" cx="{number(x)}" cy="{number(y)}" r="5"/>', role)
        figure.text(x - 12, y + 4, words, "small", role, "end")
    figure.text(20, 24, "the product's squared error", "body", bold=True)
    left, top = 456, 60
    figure.text(left, 24, "one output's weights, from left to right", "body", bold=True)
    for i in range(8):
        role = "blue" if i < 3 else "orange" if i == 3 else "muted"
        words = "code" if i < 3 else f"w{'₁₂₃₄₅₆₇₈'[i]}"
        figure.labelled(left + 45 * i, top, 40, 34, [words], role, ["small"])
    figure.text(left + 67, top + 54, "rounded", "small", "blue", "middle")
    start = left + 45 * 3 + 20
    for i in range(4, 8):
        end = left + 45 * i + 20
        lift = 40 + 16 * (i - 3)
        figure.path(f"M{start} {top + 36}C{start} {top + lift + 40} {end} {top + lift + 40} {end} {top + 38}", role="orange", arrow=True)
    figure.lines(
        left,
        top + 148,
        ["error = (w₄ − number) / U[4, 4]", "w₅ −= error · U[4, 5]", "w₆ −= error · U[4, 6], and so on"],
        20,
        kind="code",
    )
    figure.lines(
        left, top + 226, ["U[4, k] is large where input k often comes", "together with input 4."], 17, kind="small", role="muted"
    )
    return figure


def word_boxes(figure, y, labels, roles, title, words):
    """A word of 32 bits, the highest bits first, and what each field of 4 holds."""
    left, cell = 168, 80
    figure.text(20, y + 21, title, "body", bold=True)
    for i, (label, role) in enumerate(zip(labels, roles)):
        figure.labelled(left + cell * i, y, cell, 34, [label], role, ["code"])
    figure.text(left, y + 54, words, "small", "muted")


def layouts():
    """steps/step9-quantized/figures/layouts.svg"""
    gptq = [f"k + {j}" for j in range(7, -1, -1)]
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    awq = [f"n + {column}" for column in reversed(order)]
    rows = [f"c[{8 * j} + l]" for j in range(7, 0, -1)] + ["c[l]"]
    figure = Figure(
        "A word of 32 bits in three layouts",
        "In GPTQ's layout a word holds eight inputs of one output, the first in the lowest bits. In AWQ's it holds eight outputs of one input, in the order 0 2 4 6 1 3 5 7 from the lowest bits on. In the rows "
        "that the CPU multiplies it holds columns l, 8 + l, 16 + l and so on of one output.",
        height=352,
    )
    for i in range(8):
        figure.text(168 + 80 * i + 40, 26, f"bits {31 - 4 * i}–{28 - 4 * i}", "small", "muted", "middle")
    even = ["blue", "teal"]
    word_boxes(figure, 38, gptq, [even[i % 2] for i in range(8)], "GPTQ qweight", "[inputs / 8, outputs]: row k / 8, column n. Inputs k … k + 7 of output n; the next word is output n + 1.")
    word_boxes(figure, 118, awq, ["orange" if int(label[4:]) % 2 else "blue" for label in awq], "AWQ qweight", "[inputs, outputs / 8]: row k, column n / 8. Outputs n … n + 7 of input k, the odd ones above.")
    word_boxes(figure, 198, rows, [even[i % 2] for i in range(8)], "rows, word l", "Word l of the 8 words of a chunk, which has 64 columns of one output. This layout is our own.")
    figure.text(20, 290, "GPTQ qzeros", "body", bold=True)
    figure.text(168, 290, "[groups, outputs / 8], eight outputs a word in order; a field is the zero point − 1.", "small", "muted")
    figure.text(20, 314, "AWQ qzeros", "body", bold=True)
    figure.text(168, 314, "[groups, outputs / 8], eight outputs a word in AWQ's order; a field is the zero point.", "small", "muted")
    figure.text(20, 338, "scales", "body", bold=True)
    figure.text(168, 338, "[groups, outputs], f16, in both.", "small", "muted")
    return figure


def chunk():
    """steps/step9-quantized/figures/chunk.svg"""
    figure = Figure(
        "A chunk of 64 codes becomes eight registers",
        "Eight words lie in one register of 256 bits, a word in each lane. Register j of floats is the words, shifted by 4 j bits, the lowest 4 bits of each lane, converted: columns 8 j to 8 j + 7. No code changes its lane.",
        height=300,
    )
    left, cell = 150, 82
    figure.text(20, 45, "32 bytes,", "small", "muted")
    figure.text(20, 61, "one load", "small", "muted")
    for lane in range(8):
        figure.labelled(left + cell * lane, 28, cell, 44, [f"word {lane}", f"c[{lane}], …"], "blue", ["small", "listing"])
        figure.text(left + cell * lane + cell / 2, 18, f"lane {lane}", "small", "muted", "middle")
    for row, (name, j, role) in enumerate([("words & 15", 0, "green"), ("(words >> 4) & 15", 1, "green"), ("(words >> 28) & 15", 7, "green")]):
        y = 104 + 52 * row
        figure.text(20, y + 20, name, "listing")
        for lane in range(8):
            figure.labelled(left + cell * lane, y, cell, 32, [f"c[{8 * j + lane}]"], role, ["code"])
    for lane in range(8):
        x = left + cell * lane + cell / 2
        figure.arrow((x, 72), (x, 102), role="muted")
    figure.text(left + 4 * cell, 202, "…", "body", "muted", "middle")
    figure.text(20, 278, "Then each register becomes f32, and one instruction multiplies by the scale and adds −zero · scale.", "small", "muted")
    return figure


def fp8():
    """steps/step9-quantized/figures/fp8.svg"""
    figure = Figure(
        "An e4m3 float at the places of an f32",
        "A byte has a sign, four bits of exponent and three of fraction. Its seven lower bits, shifted left by 20, are the highest three bits of an f32's fraction and the lowest four of its exponent. The exponents' biases are 7 and 127, so the f32 is 2 to the power of 120 too small.",
        height=206,
    )
    figure.text(20, 50, "e4m3", "body", bold=True)
    bits = [("s", "red")] + [("e", "blue")] * 4 + [("f", "green")] * 3
    cell, left = 21, 120
    for i, (label, role) in enumerate(bits):
        figure.labelled(left + cell * (1 + i), 30, cell, 30, [label], role, ["code"])
    figure.text(330, 50, "value = (−1)ˢ · 2^(e − 7) · 1.fff, and 2^(−6) · 0.fff where e is 0", "small", "muted")
    figure.text(20, 134, "f32", "body", bold=True)
    wide = [("s", "red")] + [("0", "muted")] * 4 + [("e", "blue")] * 4 + [("f", "green")] * 3 + [("0", "muted")] * 20
    for i, (label, role) in enumerate(wide):
        figure.labelled(left + cell * i, 114, cell, 30, [label], role, ["code"])
    figure.arrow((left + 1.5 * cell, 60), (left + 0.5 * cell, 112), role="red")
    figure.arrow((left + 4 * cell, 60), (left + 7 * cell, 112), role="blue")
    figure.arrow((left + 7.5 * cell, 60), (left + 10.5 * cell, 112), role="green")
    figure.text(left + cell * 5, 166, "exponent, 8 bits", "small", "muted", "middle")
    figure.text(left + cell * 20, 166, "fraction, 23 bits", "small", "muted", "middle")
    figure.text(20, 196, "This float is 2^120 times too small, because the biases are 7 and 127. Its scale is made 2^120 times as large.", "small", "muted")
    return figure


def pickle():
    """steps/step9-quantized/figures/pickle.svg"""
    figure = Figure(
        "Two pickles, opcode by opcode",
        "Above, a state dict: the name collections.OrderedDict, an empty tuple, a call, a key, a value, set. Below, a program: the name os.system, a tuple with a command, a call. The opcodes are the same, and only the name differs.",
        height=318,
    )
    rows = [
        (
            "what a state dict begins with",
            [
                ("c", "GLOBAL", "collections.OrderedDict", "blue"),
                (")", "EMPTY_TUPLE", "no arguments", "muted"),
                ("R", "REDUCE", "call it", "green"),
                ("X", "BINUNICODE", "norm.weight", "muted"),
                ("s", "SETITEM", "key and value", "muted"),
            ],
        ),
        (
            "what a checkpoint of a stranger may begin with",
            [
                ("c", "GLOBAL", "os.system", "red"),
                ("X", "BINUNICODE", "rm -rf ~", "red"),
                ("\\x85", "TUPLE1", "one argument", "muted"),
                ("R", "REDUCE", "call it", "red"),
                (".", "STOP", "its result", "muted"),
            ],
        ),
    ]
    for i, (title, opcodes) in enumerate(rows):
        y = 40 + 146 * i
        figure.text(20, y - 14, title, "body", bold=True)
        x = 20
        for code, name, words, role in opcodes:
            width = 214 if words.startswith("coll") else 138
            figure.labelled(x, y, width, 66, [code, name, words], role, ["code", "small", "small"])
            x += width + 10
        if i == 0:
            figure.text(20, y + 88, "Python imports the module, calls the function, and has an empty dict.", "small", "muted")
        else:
            figure.text(20, y + 88, "Python imports the module and calls the function. The opcodes are the same, and only the name differs.", "small", "muted")
    figure.text(20, 308, "In stairwell a GLOBAL is compared with a list of names. os.system is not on it, so the file is refused.", "small")
    return figure


def quality():
    """steps/step9-quantized/figures/quality.svg"""
    recorded = sources.recorded("step9.json", "methods")
    # Two more rows are of other calibration texts, at 3 bits.
    rows = [row for row in recorded["methods"] if not row["method"].startswith("3 bits, GPTQ, ")]
    dense = rows[0]["perplexity"]
    figure = Figure(
        "Bits a weight, and how surprised the model is",
        "Perplexity on stories that the model has not seen, for each method: "
        + "; ".join(f"{row['method']}, {row['bits']} bits: {row['perplexity']}" for row in rows)
        + ".",
        height=360,
    )
    left, right, top, bottom = 80, 560, 40, 300
    most = max(row["perplexity"] for row in rows)
    span = math.log(most / dense) or 1.0
    x = lambda bits: left + (right - left) * (bits - 2) / 15
    y = lambda value: bottom - 10 - (bottom - top - 20) * math.log(value / dense) / span
    figure.line((left, top), (left, bottom), (right, bottom), role="ink")
    for bits in (2, 3, 4, 8, 16):
        figure.line((x(bits), bottom), (x(bits), bottom + 5), role="ink")
        figure.text(x(bits), bottom + 20, str(bits), "small", "muted", "middle")
    figure.text((left + right) / 2, bottom + 42, "bits a weight, scales and zero points included", "small", "muted", "middle")
    figure.text(20, 24, "perplexity on unseen text (logarithmic)", "small", "muted")
    figure.text(left - 8, y(dense) + 4, f"{dense:.2f}", "small", "muted", "end")
    figure.text(left - 8, y(most) + 4, f"{most:.2f}", "small", "muted", "end")
    roles = lambda method: "green" if "GPTQ" in method else "orange" if "rounded" in method else "blue"
    for row in rows:
        role = roles(row["method"])
        figure.raw(f'<circle class="{role}" cx="{number(x(row["bits"]))}" cy="{number(y(row["perplexity"]))}" r="5"/>', role)
    figure.text(590, 60, "method", "small", "muted")
    figure.text(820, 60, "perplexity", "small", "muted", "end")
    for i, row in enumerate(rows):
        role = roles(row["method"])
        figure.raw(f'<circle class="{role}" cx="582" cy="{80 + 22 * i}" r="4"/>', role)
        figure.text(592, 84 + 22 * i, row["method"].replace("groups of ", "g"), "small", role)
        figure.text(820, 84 + 22 * i, f"{row['perplexity']:.3f}", "small", "ink", "end")
    return figure
