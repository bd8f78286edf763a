"""The blocks of chapter 4: slots against blocks, the block table, copy-on-write, the chain of hashes, and what was measured."""

from . import sources
from .look import WIDTH, Figure, number
from .scheduling import MAX_NUM_SEQS, REQUESTS, ROLES, SLOT, schedule

BLOCK = 16


def blocks_of(tokens):
    return -(-tokens // BLOCK)


def slots_and_blocks():
    """steps/step4-paged-kv/figures/slots-and-blocks.svg: step 7 of chapter 3's example, in slots and in blocks"""
    computed = {name: end for name, _, end in schedule(REQUESTS)[6]}
    waiting = next((name, prompt) for name, prompt, _, _ in REQUESTS if name not in computed)
    places, used = MAX_NUM_SEQS * SLOT, sum(computed.values())
    blocks = places // BLOCK
    tables, at = {}, 0
    for name, tokens in [*computed.items(), waiting]:
        tables[name] = list(range(at, at + blocks_of(tokens)))
        at += blocks_of(tokens)
    held = {name: len(table) * BLOCK for name, table in tables.items()}
    unused = sum(held[name] - tokens for name, tokens in computed.items())
    figure = Figure(
        "The same memory in slots and in blocks",
        f"{places} places for tokens at step 7 of chapter 3's example. In {MAX_NUM_SEQS} slots of {SLOT}, "
        f"{', '.join(f'{name} has {tokens}' for name, tokens in computed.items())}, and {waiting[0]} waits. In {blocks} blocks of "
        f"{BLOCK} the same three hold {at - len(tables[waiting[0]])} blocks with {unused} unused places, {waiting[0]} has one, and "
        f"{blocks - at} are free.",
        height=290,
    )
    figure.text(20, 28, f"Slots: {MAX_NUM_SEQS} of {SLOT}, {used} of {places} places hold a token, and {waiting[0]} waits", "head")
    unit, left, top = 800 / places, 20, 44
    for i, (name, tokens) in enumerate(computed.items()):
        x = left + unit * SLOT * i
        figure.box(x, top, unit * SLOT - 4, 44, "muted", dashed=True, bare=True, radius=2)
        figure.labelled(x, top, unit * tokens, 44, [name, str(tokens)], ROLES[name], ["code"])
        figure.text(x + unit * (tokens + SLOT) / 2, top + 27, f"{SLOT - tokens} reserved, empty", "small", "muted", "middle")
    y = 140
    figure.text(20, y - 12, f"Blocks: {blocks} of {BLOCK}, each held by the request that fills it", "head")
    owner = {block: name for name, table in tables.items() for block in table}
    tokens_of = computed | dict([waiting])
    for block in range(blocks):
        x, w = left + unit * BLOCK * block, unit * BLOCK - 4
        figure.box(x, y + 4, w, 44, "muted", dashed=True, bare=True, radius=2)
        name = owner.get(block)
        if name:
            here = min(BLOCK, tokens_of[name] - BLOCK * tables[name].index(block))
            figure.labelled(x, y + 4, max(w * here / BLOCK, 22), 44, [name, str(here)], ROLES[name], ["code"])
        else:
            figure.text(x + w / 2, y + 31, "free", "small", "muted", "middle")
        figure.text(x + w / 2, y + 66, str(block), "code", "muted", "middle")
    rows = [f"{name}: {tables[name]}" for name in tables]
    figure.text(20, y + 100, "Block tables:", "small", "ink")
    for i, row in enumerate(rows):
        figure.text(122 + 120 * i, y + 100, row, "code", ROLES[list(tables)[i]])
    figure.lines(
        20,
        y + 124,
        [
            f"A, B and C leave {unused} places of their last blocks empty: less than a block each, however long they may become.",
            f"{waiting[0]} runs, and {blocks - at} blocks are left for whoever grows.",
        ],
        18,
        kind="small",
        role="muted",
    )
    return figure


def block_table():
    """steps/step4-paged-kv/figures/block-table.svg: from a position to a place in the pool"""
    table, tokens, position = [7, 2, 9], 41, 37
    row, place = divmod(position, BLOCK)
    slot = table[row] * BLOCK + place
    figure = Figure(
        "From a position to its K and V",
        f"A sequence of {tokens} tokens has the block table {table}. Position {position} is in row {row} of the table, {position} "
        f"divided by {BLOCK}, which names block {table[row]}; its place there is {place}, the remainder. Its slot is {table[row]} "
        f"times {BLOCK} plus {place}, {slot}.",
        height=330,
    )
    figure.text(20, 28, "positions of the sequence", "head")
    for i, block in enumerate(table):
        first, last = BLOCK * i, min(BLOCK * (i + 1), tokens) - 1
        figure.labelled(20 + 130 * i, 42, 124, 34, [f"{first} … {last}"], "blue", ["code"])
    figure.text(460, 28, "block_table", "head")
    for i, block in enumerate(table):
        role = "orange" if i == row else "blue"
        figure.labelled(460, 42 + 34 * i, 56, 30, [str(block)], role, ["code"])
        figure.text(448, 62 + 34 * i, str(i), "code", "muted", "end")
    figure.arrow((20 + 130 * row + 62, 78), (20 + 130 * row + 62, 128), (426, 128), role="orange")
    figure.text(110, 124, f"{position} / {BLOCK} = {row}, remainder {place}", "code", "orange")
    figure.lines(
        540,
        60,
        ["any block, in any order:", "a page table, as an operating", "system has one a process"],
        18,
        kind="small",
        role="muted",
    )
    y = 190
    figure.text(20, y, "the pool, in each layer for K and for V", "head")
    w = 66
    for block in range(12):
        x = 20 + w * block
        used = block in table
        role = "orange" if block == table[row] else "blue" if used else "muted"
        figure.box(x, y + 14, w - 5, 40, role, dashed=not used, bare=not used, radius=3)
        figure.text(x + (w - 5) / 2, y + 39, str(block), "code", "ink" if used else "muted", "middle")
    x = 20 + w * table[row]
    figure.arrow((516, 125), (x + 30, 125), (x + 30, y + 12), role="orange")
    cell, left, top = 20, 300, y + 84
    figure.line((x, y + 54), (left, top), role="orange", dashed=True)
    figure.line((x + w - 5, y + 54), (left + cell * BLOCK, top), role="orange", dashed=True)
    filled = tokens - BLOCK * row
    for i in range(BLOCK):
        role = "orange" if i == place else "blue" if i < filled else "muted"
        figure.box(left + cell * i, top, cell - 3, 26, role, dashed=i >= filled, bare=i >= filled, radius=2)
    figure.text(left + cell * place + 8, top + 44, f"place {place}", "small", "orange", "middle")
    figure.text(20, top + 17, f"slot = {table[row]} · {BLOCK} + {place} = {slot}", "code", "orange")
    figure.text(left + cell * BLOCK + 8, top + 17, f"{BLOCK - filled} not used yet", "small", "muted")
    return figure


def copy_on_write():
    """steps/step4-paged-kv/figures/copy-on-write.svg: two samples of one prompt"""
    figure = Figure(
        "Two samples of one prompt",
        "A prompt of 22 tokens fills block 3 and six places of block 5. Two samples share both: each block has two references. Then "
        "sample 2 writes position 22, which is in block 5. It gets block 8 with a copy of block 5, and writes there. Block 3, which "
        "is full, stays shared.",
        height=286,
    )

    def panel(x, title, tables, references):
        figure.text(x, 28, title, "head")
        for i, (name, table) in enumerate(tables):
            figure.text(x, 64 + 40 * i, name, "small", "blue" if i == 0 else "green")
            for j, block in enumerate(table):
                figure.labelled(x + 78 + 48 * j, 46 + 40 * i, 42, 28, [str(block)], "blue" if i == 0 else "green", ["code"])
        for i, (block, count, places, role, text) in enumerate(references):
            y = 138 + 46 * i
            figure.text(x, y + 21, f"block {block}", "code")
            cell = 11
            for p in range(BLOCK):
                own = 6 if text else BLOCK
                used = p < places
                colour = role if p >= own and used else "purple"
                figure.box(x + 78 + cell * p, y + 4, cell - 2, 26, colour if used else "muted", dashed=not used, bare=not used, radius=1)
            figure.text(x + 78 + cell * BLOCK + 10, y + 21, f"{count} reference{'s' if count > 1 else ''}", "small", "muted")

    panel(20, "After the prompt: all is shared", [("sample 1", [3, 5]), ("sample 2", [3, 5])],
          [(3, 2, 16, "purple", ""), (5, 2, 6, "purple", "last")])
    panel(440, "Each has written a token of its own", [("sample 1", [3, 5]), ("sample 2", [3, 8])],
          [(3, 2, 16, "purple", ""), (5, 1, 7, "blue", "last"), (8, 1, 7, "green", "last")])
    figure.lines(
        20,
        250,
        ["purple: the prompt's tokens. The first who writes to", "block 5 copies it; the last one has it alone and writes."],
        18,
        kind="small",
        role="muted",
    )
    return figure


def chain():
    """steps/step4-paged-kv/figures/chain.svg: how blocks are named"""
    figure = Figure(
        "Blocks named by all that is before them",
        "Three prompts in blocks of four tokens. The first two have the same first block, and share it. The third has the same second "
        "block as the first, after another first block: another chain, so another hash, and nothing is shared. The last block of a "
        "prompt is not full and has no name.",
        height=316,
    )
    figure.text(20, 28, "root(salt)", "code")
    w, h = 196, 46

    def block(x, y, tokens, name, role, full=True):
        figure.box(x, y, w, h, role, dashed=not full, bare=not full)
        figure.text(x + w / 2, y + 19, tokens, "small", "ink", "middle", room=w - 8)
        figure.text(x + w / 2, y + 37, name, "listing", "muted", "middle", room=w - 8)

    first = (110, 50)
    block(*first, "Tell a short story", "a = H(root, tokens)", "blue")
    block(360, 50, "for a small child", "b = H(a, tokens)", "blue")
    block(610, 50, "about", "not full: no name", "muted", full=False)
    block(360, 130, "about a red boat", "c = H(a, tokens)", "green")
    block(110, 220, "Write me a song", "d = H(root, tokens)", "orange")
    block(360, 220, "for a small child", "e = H(d, tokens)", "orange")
    figure.arrow((60, 38), (60, 73), (108, 73))
    figure.arrow((60, 73), (60, 243), (108, 243))
    figure.arrow((306, 73), (358, 73))
    figure.arrow((556, 73), (608, 73))
    figure.arrow((332, 73), (332, 153), (358, 153))
    figure.arrow((306, 243), (358, 243))
    figure.text(574, 158, "shares the first block", "small", "green")
    figure.lines(574, 238, ["the same tokens as b, after", "others: other K and V"], 17, kind="small", role="orange")
    figure.text(20, 302, "K and V at a position depend on every token before it, so a block's name must, too.", "small", "muted")
    return figure


LABELS = {
    "contiguous_4096": "slots of 4,096",
    "contiguous_2048": "slots of 2,048",
    "paged": "blocks of 16",
}


def measured():
    """steps/step4-paged-kv/figures/measured.svg, from benches/results/step4.json"""
    result = sources.recorded("step4.json", "concurrency")
    concurrency, prefix = result["concurrency"], result["shared_prefix"]
    ways = [row for row in concurrency["rows"] if row["way"] in LABELS]
    listed = "; ".join(f"{LABELS[row['way']]}: {row['mean_running']:.1f}" for row in ways)
    times = {row["way"]: row["ttft_seconds_p50"] * 1e3 for row in prefix["rows"]}
    figure = Figure(
        "What was measured: requests at a time, and a shared beginning",
        f"Left: requests that run at a time, as a mean over the steps, in {concurrency['max_kv_tokens']:,} tokens of K and V. {listed}. "
        f"Right: median time to the first token of prompts that share {prefix['prefix_tokens']:,} tokens, {times['no_cache']:.0f} ms "
        f"without the prefix cache and {times['cache']:.0f} ms with it.",
        height=282,
    )
    figure.text(20, 28, "Requests at a time", "head")
    figure.text(20, 48, f"{concurrency['requests']} requests in {concurrency['max_kv_tokens']:,} tokens of K and V", "small", "muted")
    most = max(row["mean_running"] for row in ways)
    for i, (row, role) in enumerate(zip(ways, ("orange", "purple", "blue"))):
        y, w = 70 + 48 * i, 190 * row["mean_running"] / most
        figure.text(118, y + 21, LABELS[row["way"]], "small", "ink", "end")
        figure.box(126, y + 4, w, 26, role, radius=2)
        figure.text(134 + w, y + 21, f"{row['mean_running']:.1f}", "small", "ink")
    figure.text(446, 28, "Time to first token, ms", "head")
    figure.text(446, 48, f"prompts that share their first {prefix['prefix_tokens']:,} tokens; median", "small", "muted")
    longest = max(times.values())
    for i, (way, label, role) in enumerate([("no_cache", "no prefix cache", "orange"), ("cache", "prefix cache", "blue")]):
        y, w = 70 + 48 * i, 190 * times[way] / longest
        figure.text(556, y + 21, label, "small", "ink", "end")
        figure.box(564, y + 4, w, 26, role, radius=2)
        figure.text(572 + w, y + 21, f"{times[way]:.0f}", "small", "ink")
    note = f"{result['machine']}; load average {result['load_average'][0]:.1f} to {result['load_average'][-1]:.1f}"
    figure.text(20, 270, note, "small", "muted", room=WIDTH - 40)
    return figure
