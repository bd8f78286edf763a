"""The scheduler of chapter 3: a flat batch, three policies as lanes, the budget, slots, and what was measured."""

from . import sources
from .look import WIDTH, Figure, number

# The requests of steps/step3-scheduling/main.rs: prompt, output, and the step before which each arrives.
REQUESTS = [("A", 4, 12, 0), ("B", 6, 6, 0), ("C", 21, 10, 2), ("D", 2, 5, 4)]
MAX_NUM_SEQS, BUDGET, SLOT = 3, 8, 64
ROLES = {"A": "blue", "B": "orange", "C": "green", "D": "purple"}


def share_continuous(running, waiting, max_num_seqs, budget):
    """Tokens for the running requests, then for those that are admitted: `Continuous` of src/engine/policy.rs."""
    shares = []
    for left in running + waiting[: max(0, max_num_seqs - len(running))]:
        tokens = min(left, budget)
        if tokens == 0:
            break
        budget -= tokens
        shares.append(tokens)
    return shares


def schedule(requests, max_num_seqs=MAX_NUM_SEQS, budget=BUDGET, static=False):
    """The chunks of each step: a list of (name, first position, end), prefill first among equals of one request."""
    left = {name: [prompt, 0, output] for name, prompt, output, _ in requests}  # tokens, computed, outputs to go
    arrivals, waiting, running, steps, filling = list(requests), [], [], [], True
    while arrivals or waiting or running:
        while arrivals and arrivals[0][3] <= len(steps):
            waiting.append(arrivals.pop(0)[0])
        rest = lambda names: [left[name][0] - left[name][1] for name in names]
        filling = filling or not running
        queue = waiting if filling or not static else []
        shares = share_continuous(rest(running), rest(queue), max_num_seqs, budget)
        admitted = len(shares) - len(running)
        filling = filling and len(shares) < max_num_seqs and admitted < len(queue)
        running, waiting = running + waiting[:admitted], waiting[admitted:]
        step = []
        for name, tokens in zip(list(running), shares):
            state = left[name]
            step.append((name, state[1], state[1] + tokens))
            state[1] += tokens
            if state[1] == state[0]:  # the last row's logits are drawn from
                state[0], state[2] = state[0] + 1, state[2] - 1
                if state[2] == 0:
                    running.remove(name)
        steps.append(step)
    return steps


def prompt_of(name):
    return next(prompt for other, prompt, _, _ in REQUESTS if other == name)


def flat_row():
    """steps/step3-scheduling/figures/flat-row.svg"""
    step = schedule(REQUESTS)[2]
    cells = [(name, p) for name, first, end in step for p in range(first, end)]
    if len(cells) != 8 or [end - first for _, first, end in step] != [1, 1, 6]:
        raise ValueError("flat-row.svg is drawn for two decodes and a chunk of six")
    longest = max(end - first for _, first, end in step)
    padded = longest * len(step)
    figure = Figure(
        "A batch is a flat row",
        f"Step 3 of the example: A decodes at position {cells[0][1]}, B at {cells[1][1]}, and C computes positions 0 to 5 of its "
        f"prompt. The batch has {len(cells)} rows, a position for each, three spans, a slot for each span, and wants logits of "
        f"two rows. As a rectangle it would have {len(step)} times {longest} = {padded} cells.",
        height=392,
    )
    figure.text(20, 28, "Step 3 as the model gets it: 8 rows", "head")
    left, cell, top = 130, 56, 50
    fields = ["tokens", "positions", "spans", "tables", "logit_rows"]
    for i, field in enumerate(fields):
        figure.text(20, top + 22 + 40 * i, field, "code")
    for i, (name, position) in enumerate(cells):
        x = left + cell * i
        figure.labelled(x, top, cell - 6, 32, [f"{name}{position}"], ROLES[name], ["code"])
        figure.text(x + (cell - 6) / 2, top + 62, str(position), "code", "ink", "middle")
    row = 0
    for slot, (name, first, end) in enumerate(step):
        x, w = left + cell * row, cell * (end - first) - 6
        rows = f"{row}..{row + end - first}"
        figure.labelled(x, top + 80, w, 28, [rows], ROLES[name], ["code"])
        figure.labelled(x, top + 120, w, 28, [f"slot {slot}" if end - first > 1 else str(slot)], ROLES[name], ["code"])
        wanted = first + (end - first) == prompt_of(name) or first >= prompt_of(name)
        if wanted:
            figure.text(x + w / 2, top + 182, str(row + end - first - 1), "code", "ink", "middle")
        row += end - first
    x = left + cell * 2
    figure.text(x, top + 182, "none of C: its prompt goes on in the next step", "small", "muted")
    side = left + cell * 8 + 16
    figure.lines(
        side,
        top + 14,
        ["one matrix of 8 rows", "for norms, linear", "layers and the MLP;", "spans and slots are", "for attention alone"],
        18,
        kind="small",
        role="muted",
    )
    y = top + 214
    figure.text(20, y + 6, f"The same step as a rectangle, [requests, longest]: {padded} cells", "head")
    for i, (name, first, end) in enumerate(step):
        for j in range(longest):
            x, cell_y = left + cell * j, y + 22 + 34 * i
            if j < end - first:
                figure.labelled(x, cell_y, cell - 6, 28, [f"{name}{first + j}"], ROLES[name], ["code"])
            else:
                figure.box(x, cell_y, cell - 6, 28, "muted", dashed=True, bare=True)
                figure.text(x + (cell - 6) / 2, cell_y + 18, "pad", "small", "muted", "middle")
    figure.lines(
        left + cell * longest + 16,
        y + 40,
        [f"{padded - len(cells)} of {padded} cells are padding:", "computed like the others,", "and thrown away"],
        18,
        kind="small",
        role="muted",
    )
    return figure


def lanes():
    """steps/step3-scheduling/figures/lanes.svg"""
    together = [(name, prompt, output, 0) for name, prompt, output, _ in REQUESTS]
    panels = [
        ("One at a time", schedule(together, max_num_seqs=1)),
        ("Static batches of three", schedule(together, static=True)),
        ("Continuous batching", schedule(together)),
    ]
    lengths = [len(steps) for _, steps in panels]
    if lengths != [35, 19, 14]:
        raise ValueError(f"the example says 35, 19 and 14 steps, and this is {lengths}")
    figure = Figure(
        "Four requests, three ways",
        f"The example's four requests, all there at the start, at most {MAX_NUM_SEQS} at a time and {BUDGET} tokens a step. One at "
        f"a time takes {lengths[0]} steps, static batches {lengths[1]}, since the fourth request waits for the longest of the first "
        f"three, and continuous batching {lengths[2]}, since it starts as soon as a place is free.",
        height=492,
    )
    left, step, height = 52, 21.5, 26
    y = 30
    for title, steps in panels:
        figure.text(20, y, title, "head")
        figure.text(820, y, f"{len(steps)} steps", "body", "ink", "end", bold=True)
        for lane, (name, *_) in enumerate(REQUESTS):
            top = y + 12 + (height + 2) * lane
            figure.text(34, top + 17, name, "code", ROLES[name], "middle", bold=True)
            draw_lane(figure, left, top, step, height - 4, steps, name)
        x = left + step * len(steps)
        figure.line((x, y + 10), (x, y + 12 + (height + 2) * 4 - 4), role="ink", dashed=True)
        y += 146
    figure.box(20, 466, 20, 16, "blue", radius=2)
    figure.text(48, 479, "prefill, with its tokens", "small", "muted")
    figure.raw('<circle class="blue" cx="250" cy="474" r="4"/>', "blue")
    figure.text(262, 479, "decode: one token", "small", "muted")
    figure.line((420, 474), (444, 474), role="muted", dashed=True)
    figure.text(452, 479, "waits", "small", "muted")
    return figure


def draw_lane(figure, left, top, step, height, steps, name):
    """One request over the steps."""
    mine = [(i, first, end) for i, chunks in enumerate(steps) for other, first, end in chunks if other == name]
    begin = mine[0][0]
    middle = top + height / 2
    if begin:
        figure.line((left, middle), (left + step * begin - 3, middle), role="muted", dashed=True)
    for i, first, end in mine:
        x = left + step * i
        if first < prompt_of(name):
            figure.labelled(x, top, step - 2, height, [str(end - first)], ROLES[name], ["listing"])
        else:
            figure.raw(
                f'<circle class="{ROLES[name]}" cx="{number(x + step / 2 - 1)}" cy="{number(middle)}" r="4"/>', ROLES[name]
            )


def budget():
    """steps/step3-scheduling/figures/budget.svg"""
    chunked, whole = schedule(REQUESTS), schedule(REQUESTS, budget=1000)
    most = max(sum(end - first for _, first, end in step) for step in whole)
    figure = Figure(
        "The budget of a step",
        f"The example's requests by steps. Left, with a budget of {BUDGET} tokens: C's prompt of 21 is cut into four chunks, no step "
        f"has more than {BUDGET} tokens, and A and B get a token in each. Right, without a budget: C's prompt is one step of "
        f"{most} tokens, and A and B wait as long as it takes.",
        height=396,
    )
    figure.text(20, 28, f"Chunks: at most {BUDGET} tokens a step", "head")
    draw_steps(figure, 56, chunked, 24, BUDGET)
    figure.text(456, 28, "Whole prompts", "head")
    draw_steps(figure, 492, whole, 22, None)
    figure.lines(
        20,
        350,
        ["C is computed in 6 + 6 + 6 + 3 tokens, in what A and B", "leave. Each of these steps has a token of A and of B."],
        18,
        kind="small",
        role="muted",
    )
    figure.lines(
        456,
        350,
        [f"Step 3 computes {most} tokens. It takes as long as that", "takes, and until then A and B get nothing."],
        18,
        kind="small",
        role="muted",
    )
    return figure


def draw_steps(figure, left, steps, step, limit):
    """Each step's tokens, stacked by request."""
    bottom, unit, shown = 306, 10.4, len(steps)
    for n in (0, 8, 16, 24):
        y = bottom - unit * n
        figure.raw(f'<path class="line l-muted" stroke-opacity=".3" d="M{left} {number(y)}H{left + step * shown}"/>', "muted")
        figure.text(left - 8, y + 4, str(n), "small", "muted", "end")
    for i, chunks in enumerate(steps):
        y = bottom
        for name, first, end in chunks:
            h = unit * (end - first)
            y -= h
            figure.box(left + step * i + 2, y, step - 4, h, ROLES[name], radius=1)
            if end - first >= 2:
                figure.text(left + step * i + step / 2, y + h / 2 + 4, name, "listing", "ink", "middle")
        figure.text(left + step * i + step / 2, bottom + 18, str(i + 1), "listing", "muted", "middle")
    if limit:
        y = bottom - unit * limit
        figure.line((left, y), (left + step * shown, y), role="red", thick=True, dashed=True)
        figure.text(left + step * shown, y - 8, f"budget: {limit} tokens", "small", "red", "end")


def slots():
    """steps/step3-scheduling/figures/slots.svg"""
    step = 7
    computed = {name: end for name, _, end in schedule(REQUESTS)[step - 1]}
    used, total = sum(computed.values()), MAX_NUM_SEQS * SLOT
    figure = Figure(
        "Reserved and used",
        f"The slots of the example at step {step}: three slots of {SLOT} tokens, in which "
        f"{', '.join(f'{name} has {tokens}' for name, tokens in computed.items())}. {used} of {total} places hold a token. D waits, "
        f"though there would be room for it in any of them.",
        height=236,
    )
    figure.text(20, 28, f"Step {step}: three slots of {SLOT} tokens", "head")
    left, unit = 92, 11.4
    for i, (name, tokens) in enumerate(computed.items()):
        y = 46 + 42 * i
        figure.text(20, y + 21, f"slot {i}", "code")
        figure.box(left, y, unit * SLOT, 32, "muted", dashed=True, bare=True, radius=2)
        figure.labelled(left, y, unit * tokens, 32, [f"{name}: {tokens}"], ROLES[name], ["code"])
        figure.text(left + unit * tokens + 12, y + 21, f"{SLOT - tokens} reserved and empty", "small", "muted")
    figure.text(20, 46 + 42 * 3 + 18, "D waits: 2 tokens of prompt and 5 to write, and no slot is free.", "small", "purple")
    figure.text(
        20, 46 + 42 * 3 + 42, f"{used} of {total} places hold a token, {100 * used / total:.0f} %.", "small", "muted"
    )
    return figure


LABELS = {"one-at-a-time": "one at a time", "static": "static", "continuous": "continuous"}


def measured():
    """steps/step3-scheduling/figures/measured.svg, from benches/results/step3.json"""
    result = sources.recorded("step3.json", "large")
    groups = [("mixed lengths", result["large"]["mixed"]["policies"]), ("equal lengths", result["large"]["equal"]["policies"])]
    budgets = result["late_prompt"]["budgets"]
    listed = "; ".join(f"{title}: " + ", ".join(f"{LABELS[p['policy']]} {p['steps']}" for p in rows) for title, rows in groups)
    gaps = ", ".join(f"{b['longest_gap_seconds'] * 1e3:.0f} ms at {b['max_batched_tokens']}" for b in budgets)
    figure = Figure(
        "What was measured: steps, and gaps",
        f"Left: steps of 32 requests. {listed}. Right: a prompt of {result['late_prompt']['prompt_tokens']} tokens arrives while "
        f"{result['late_prompt']['decoding']} requests decode; the longest gap between two tokens of a text is {gaps} tokens a step.",
        height=346,
    )
    figure.text(20, 28, "Steps for 32 requests", "head")
    figure.text(20, 48, "at the shapes of Qwen3-0.6B; behind each bar, tokens/s", "small", "muted")
    most = max(p["steps"] for _, rows in groups for p in rows)
    y = 72
    for title, rows in groups:
        figure.text(20, y + 8, title, "small", "ink", bold=True)
        for p, role in zip(rows, ("orange", "purple", "blue")):
            y += 32
            w = 130 * p["steps"] / most
            figure.text(112, y + 5, LABELS[p["policy"]], "small", "ink", "end")
            figure.box(120, y - 10, w, 22, role, radius=2)
            label = f"{p['steps']}, {p['output_tokens_per_second']:.1f} tokens/s"
            figure.text(128 + w, y + 5, label, "small", "muted")
        y += 36
    left, bottom, top = 486, 286, 76
    figure.text(446, 28, "Longest gap between two tokens, ms", "head")
    late = result["late_prompt"]
    figure.text(
        446, 48, f"{late['decoding']} requests of the demo decode, {late['prompt_tokens']:,} prompt tokens arrive", "small", "muted"
    )
    highest = max(b["longest_gap_seconds"] for b in budgets)
    for i, b in enumerate(budgets):
        x, h = left + 112 * i, (bottom - top) * b["longest_gap_seconds"] / highest
        figure.box(x, bottom - h, 64, h, "green", radius=2)
        figure.text(x + 32, bottom - h - 8, f"{b['longest_gap_seconds'] * 1e3:.0f}", "small", "ink", "middle")
        figure.text(x + 32, bottom + 20, f"{b['max_batched_tokens']:,}", "small", "muted", "middle")
    figure.line((left - 14, bottom), (left + 310, bottom), role="ink")
    figure.text(left + 144, bottom + 42, "budget: tokens of a step", "small", "muted", "middle")
    note = f"{result['machine']}; load average {result['load_average'][0]:.1f} to {result['load_average'][-1]:.1f}, medians"
    figure.text(20, 338, note, "small", "muted", room=WIDTH - 40)
    return figure
