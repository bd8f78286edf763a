"""The kernels of chapter 5: grid, block and warp; sectors; banks; a race; and the counters of RMSNorm's ladder."""

from . import sources
from .look import Figure

SECTOR = 8  # floats of a sector of 32 bytes


def hierarchy():
    """steps/step5-paged-attention/figures/hierarchy.svg"""
    figure = Figure(
        "A grid, its blocks, their warps and threads",
        "A grid of six blocks. One block has shared memory and four warps; one warp has 32 lanes, each with registers. All blocks see global "
        "memory. Threads of a block meet at __syncthreads, lanes of a warp exchange registers by shuffles, blocks don't meet.",
        height=352,
    )
    figure.text(20, 26, "A grid of blocks", "head")
    for i in range(6):
        x, y = 20 + 66 * (i % 3), 40 + 62 * (i // 3)
        figure.labelled(x, y, 58, 52, [f"block {i}"], "blue" if i == 2 else "muted", ["small"])
    figure.text(20, 190, "blocks don't meet", "small", "muted")
    figure.text(262, 26, "A block of warps", "head")
    figure.box(262, 40, 250, 150, "blue")
    for w in range(4):
        figure.labelled(276, 52 + 24 * w, 222, 20, [f"warp {w}: threads {32 * w} to {32 * w + 31}"], "purple" if w == 2 else "muted", ["small"])
    figure.labelled(276, 152, 222, 28, ["shared memory, up to 227 KiB"], "green", ["small"])
    figure.text(262, 210, "its threads meet at `__syncthreads()`", "small", "muted")
    figure.text(552, 26, "A warp: 32 lanes", "head")
    figure.box(552, 40, 268, 150, "purple")
    for lane in range(32):
        x, y = 562 + 31 * (lane % 8), 50 + 33 * (lane // 8)
        figure.labelled(x, y, 27, 28, [str(lane)], "ink", ["code"])
    figure.text(552, 210, "lanes exchange registers by `__shfl_sync`", "small", "muted")
    figure.arrow((212, 66), (258, 66), role="blue")
    figure.arrow((500, 110), (548, 110), role="purple")
    figure.box(20, 246, 800, 44, "orange")
    figure.text(420, 273, "global memory: weights, activations, K and V; moved in sectors of 32 bytes", "body", "ink", "middle")
    for x in (120, 386, 686):
        figure.arrow((x, 220), (x, 242), role="orange")
        figure.arrow((x + 16, 242), (x + 16, 220), role="orange")
    figure.text(20, 320, "A thread knows where it is: `blockIdx`, `threadIdx`, `blockDim`, `gridDim`. From these it works out which number is its own.", "small")
    figure.text(20, 340, "On the simulator each thread is a fiber, and all threads of a block take turns on one core.", "small", "muted")
    return figure


def sectors():
    """steps/step5-paged-attention/figures/sectors.svg"""
    figure = Figure(
        "One request of a warp, and the sectors that it touches",
        "Lanes that read numbers in a row touch 4 sectors, and every byte is used. With a stride of 8 floats each lane touches a sector of its "
        "own: 32 sectors, of whose 1,024 bytes 128 are used.",
        height=222,
    )
    shown, cell = 64, 12.5  # floats that are drawn
    for row, (stride, note) in enumerate([(1, "stride 1: 4 sectors, 128 of 128 bytes used"), (8, "stride 8: 32 sectors, 128 of 1,024 bytes used")]):
        y = 36 + 96 * row
        figure.text(20, y - 8, note, "head")
        touched = {lane * stride // SECTOR for lane in range(32)}
        for sector in range(shown // SECTOR):
            x = 20 + cell * SECTOR * sector
            figure.box(x, y + 6, cell * SECTOR - 3, 34, "orange" if sector in touched else "muted", dashed=sector not in touched, radius=3)
        for lane in range(32):
            at = lane * stride
            if at < shown:
                x = 20 + cell * at + 1
                figure.box(x, y + 13, cell - 3.5, 20, "blue", radius=2)
        last = max(lane for lane in range(32) if lane * stride < shown)
        figure.text(20, y + 60, f"lanes 0 to {last} of 32" if last < 31 else "lanes 0 to 31", "small", "muted")
    figure.text(20, 212, "A box is a sector of 32 bytes, a filled cell the float that a lane wants. A sector moves whole.", "small", "muted")
    return figure


def banks():
    """steps/step5-paged-attention/figures/banks.svg"""
    figure = Figure(
        "A column of a tile in shared memory, in rows of 32 and of 33 numbers",
        "Shared memory has 32 banks; number i lies in bank i mod 32. In rows of 32 a column lies in one bank, and its 32 lanes take 32 turns. In rows "
        "of 33 it lies in 32 banks, and takes one.",
        height=236,
    )
    for part, width in enumerate([32, 33]):
        x0 = 20 + 420 * part
        turns = 32 if width == 32 else 1
        figure.text(x0, 26, f"rows of {width}: {turns} turn{'s' if turns > 1 else ''} for a column", "head")
        for row in range(5):
            for col in range(8):
                bank = (row * width + col) % 32
                wanted = col == 0
                figure.labelled(x0 + 46 * col, 40 + 32 * row, 42, 28, [str(bank)], "red" if wanted and width == 32 else "blue" if wanted else "muted", ["code"])
        figure.text(x0, 218, "the number in a cell is its bank", "small", "muted")
    return figure


def race():
    """steps/step5-paged-attention/figures/race.svg"""
    figure = Figure(
        "The same kernel in two orders of threads",
        "Between two barriers each thread reads its neighbour's number and overwrites its own. Forward, thread 0 reads 1 before thread 1 overwrites it, and only the last thread is too late. "
        "Backward, thread 1 has overwritten its number before thread 0 reads it.",
        height=250,
    )
    for part, (name, order, role) in enumerate([("forward: right but for the last one", [0, 1, 2, 3], "green"), ("backward: wrong", [3, 2, 1, 0], "red")]):
        x0, numbers = 20 + 420 * part, [0, 1, 2, 3]
        figure.text(x0, 26, name, "head")
        figure.text(x0, 52, "shared", "small", "muted")
        for i, n in enumerate(numbers):
            figure.labelled(x0 + 190 + 50 * i, 36, 44, 26, [str(n)], "ink", ["code"])
        for step, t in enumerate(order):
            y = 72 + 36 * step
            read = numbers[(t + 1) % 4]
            numbers[t] = 2 * read
            figure.text(x0, y + 18, f"thread {t} reads {read}, writes {numbers[t]}", "small")
            for i, n in enumerate(numbers):
                wrong = n != i and n != 2 * ((i + 1) % 4)
                shade = role if i == t and not wrong else "red" if i == t else "muted"
                figure.labelled(x0 + 190 + 50 * i, y, 44, 26, [str(n)], shade, ["code"])
    figure.text(20, 240, "A barrier between the read and the write makes both orders alike. (Four threads here; 64 in the kernel.)", "small", "muted")
    return figure


def ladder():
    """steps/step5-paged-attention/figures/ladder.svg, from benches/results/step5.json"""
    result = sources.recorded("step5.json", "rms_norm")
    rows = result["rms_norm"]
    figure = Figure(
        "RMSNorm's three versions, counted",
        "Requests to global memory, sectors read and barriers: "
        + "; ".join(f"{r['kernel']}: {r['requests']}, {r['sectors_read']}, {r['barriers']}" for r in rows) + ".",
        height=190,
    )
    columns = [("requests", "Requests to global memory"), ("sectors_read", "Sectors read"), ("barriers", "Barriers")]
    for c, (key, title) in enumerate(columns):
        x0 = 20 + 276 * c
        figure.text(x0, 26, title, "head")
        most = max(row[key] for row in rows)
        for i, (row, role) in enumerate(zip(rows, ("orange", "purple", "blue"))):
            y, w = 40 + 40 * i, 120 * row[key] / most
            figure.text(x0, y + 20, row["kernel"][-2:], "code")
            figure.box(x0 + 30, y + 4, max(w, 2), 24, role, radius=2)
            figure.text(x0 + 40 + w, y + 20, f"{row[key]:,}", "small")
    figure.text(20, 178, "8 rows of 1,024 numbers; counted by the simulator", "small", "muted")
    return figure
