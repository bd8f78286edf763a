"""Two recorded runs: a schedule of chapter 3 and a pool of chapter 4, from what `--trace` wrote into notebooks/data.

`stairwell timeline` and `stairwell blocks` draw the same records as a page, src/trace/viewer.html.
"""

import json

from . import sources
from .look import Figure, number

LEFT, RIGHT, STRIP = 108, 820, 50
OWNERS = "blue", "orange", "green", "purple", "red", "teal"
GONE = 2**32 - 1  # in a block table: a block behind the sliding window


def events(name):
    """The events of a record, and its settings."""
    record = json.loads((sources.ROOT / "notebooks" / "data" / name).read_text(encoding="utf-8"))
    return record["traceEvents"], record["otherData"]


def area(figure, role, points, top, most):
    """What lies under a list of (left, right, value), as one shape; `most` is as high as the strip."""
    bottom = top + STRIP
    path, at = "", None
    for left, right, value in points:
        if at is None or left - at > 0.5:
            path += ("" if at is None else f"V{number(bottom)}z") + f"M{number(left)} {number(bottom)}"
        path, at = path + f"V{number(bottom - STRIP * value / most)}H{number(right)}", right
    figure.raw(f'<path class="{role}" d="{path}V{number(bottom)}z"/>', role)


def strip(figure, top, names, most):
    """The name and the scale of a strip."""
    figure.lines(20, top + 24, names, 15, kind="small")
    figure.text(LEFT - 8, top + 9, str(most), "small", "muted", "end")
    figure.line((LEFT, top + STRIP), (RIGHT, top + STRIP))


def timeline():
    """steps/step3-scheduling/figures/timeline.svg, from notebooks/data/step3_trace.json"""
    recorded, settings = events("step3_trace.json")
    lanes = {e["tid"]: e["args"] for e in recorded if e["name"] == "thread_name" and e["tid"]}
    steps = [e for e in recorded if e.get("cat") == "step"]
    kv = [e["args"] for e in recorded if e["name"] == "KV tokens"]
    parts = [e for e in recorded if e.get("cat") in ("prefill", "decode")]
    finished = {e["tid"]: e["ts"] for e in recorded if e["name"] == "finished"}
    first = min([lane["arrival_us"] for lane in lanes.values()] + [steps[0]["ts"]])
    last = max(max(finished.values()), steps[-1]["ts"] + steps[-1]["dur"])
    x = lambda time: LEFT + (time - first) / (last - first) * (RIGHT - LEFT)
    span = lambda e: (x(e["ts"]), x(e["ts"] + e["dur"]))
    tokens = lambda e: e["args"]["to"] - e["args"]["from"]
    budget, pitch, top = settings["max_batched_tokens"], 24, 62
    bottom = top + pitch * len(lanes)
    figure = Figure(
        "A recorded schedule",
        f"{len(lanes)} requests in {len(steps)} steps, {(last - first) / 1e3:.1f} ms: a lane for each request, which waits, prefills "
        f"in chunks and decodes. Below: the tokens of each step, of at most {budget}, and the KV cache, reserved and in use.",
        height=bottom + 206,
    )
    figure.text(20, 28, f"{len(lanes)} requests, {settings['max_num_seqs']} at a time, {budget} tokens a step", "head")
    for i, (role, label, kind) in enumerate([("muted", "waits", "wait"), ("orange", "prefill chunk", "box"), ("blue", "decode step", "solid")]):
        at = 500 + (0, 78, 206)[i]
        if kind == "wait":
            figure.line((at, 24), (at + 20, 24), role=role, dashed=True)
        elif kind == "box":
            figure.box(at, 17, 20, 13, role, radius=2)
        else:
            figure.raw(f'<path class="{role}" d="M{at} 17h20v13h-20z"/>', role)
        figure.text(at + 26, 28, label, "small", "muted")
    for tick in range(0, int((last - first) / 1e3) + 1, 5):
        at = x(first + 1e3 * tick)
        figure.raw(f'<path class="line l-muted" stroke-opacity=".25" d="M{number(at)} {top - 6}V{bottom + 182}"/>', "muted")
        figure.text(at, bottom + 18, str(tick), "small", "muted", "middle")
    figure.text(20, bottom + 18, "time, ms", "small", "muted")
    for i, (tid, lane) in enumerate(lanes.items()):
        y, mine = top + pitch * i, [e for e in parts if e["tid"] == tid]
        figure.text(20, y + 16, lane["name"], "small")
        begin, start = x(lane["arrival_us"]), x(mine[0]["ts"])
        if start - begin > 2:
            figure.line((begin, y + 11), (start, y + 11), role="muted", dashed=True)
        decodes = [span(e) for e in mine if e["cat"] == "decode"]
        shape = "".join(f"M{number(a)} {y + 3}h{number(b - a - 0.8)}v16h-{number(b - a - 0.8)}z" for a, b in decodes)
        figure.raw(f'<path class="blue" d="{shape}"/>', "blue")
        for e in mine:
            if e["cat"] == "prefill":
                (a, b), label = span(e), str(tokens(e))
                figure.box(a, y + 3, b - a - 1, 16, "orange", radius=1)
                if b - a > 7.2 * len(label) + 4:
                    figure.text((a + b) / 2, y + 15, label, "listing", "ink", "middle")
    y = bottom + 50
    strip(figure, y, ["tokens", "of a step"], budget)
    prefill = {e["ts"]: 0 for e in steps}
    for e in parts:
        prefill[e["ts"]] += tokens(e) if e["cat"] == "prefill" else 0
    area(figure, "orange", [(*span(e), e["args"]["tokens"]) for e in steps], y, budget)
    area(figure, "blue", [(*span(e), e["args"]["tokens"] - prefill[e["ts"]]) for e in steps], y, budget)
    figure.line((LEFT, y), (RIGHT, y), role="red", dashed=True)
    figure.text(RIGHT, y - 6, f"budget: {budget} tokens", "small", "red", "end")
    y += 82
    reserved = [counter["used"] + counter["reserved, unused"] for counter in kv]
    strip(figure, y, ["tokens in", "KV cache"], max(reserved))
    figure.raw('<g fill-opacity=".35">', "muted")
    area(figure, "muted", [(*span(e), of) for e, of in zip(steps, reserved)], y, max(reserved))
    figure.raw("</g>", "muted")
    area(figure, "purple", [(*span(e), counter["used"]) for e, counter in zip(steps, kv)], y, max(reserved))
    figure.text(RIGHT, y - 6, "reserved (grey), and in use", "small", "muted", "end")
    return figure


def pool_states(recorded):
    """For each step the owners of the pool's blocks ("free", "cached" or a tuple of requests) and who was preempted."""
    tables, cached, finished, states = {}, set(), set(), []
    for e in recorded:
        if e["name"] == "finished":
            finished.add(e["tid"] - 1)
        if e.get("cat") != "blocks":
            continue
        changes, preempted = e["args"], []
        for request, at, removed, added in changes["tables"]:
            table = tables.setdefault(request, [])
            table[at : at + removed] = added
            if not table:
                del tables[request]
                preempted += [] if request in finished else [request]
        cached = (cached - set(changes["uncached"])) | set(changes["cached"])
        owners = ["cached" if block in cached else "free" for block in range(changes["total"])]
        for request, table in sorted(tables.items()):
            for block in table:
                if block != GONE:
                    owners[block] = (*owners[block], request) if isinstance(owners[block], tuple) else (request,)
        states.append((owners, preempted))
    return states


def runs(values):
    """Equal neighbours: (first, end, value)."""
    start = 0
    for i in range(1, len(values) + 1):
        if i == len(values) or values[i] != values[start]:
            yield start, i, values[start]
            start = i


def blocks():
    """steps/step4-paged-kv/figures/blocks.svg, from notebooks/data/step4_trace.json"""
    recorded, _ = events("step4_trace.json")
    states = pool_states(recorded)
    total, size = next((e["args"]["total"], e["args"]["block_size"]) for e in recorded if e.get("cat") == "blocks")
    preemptions = [i for i, (_, preempted) in enumerate(states) if preempted]
    left, pitch, top = 84, 22, 84
    bottom = top + pitch * total
    x = lambda step: left + step / len(states) * (RIGHT - left)
    figure = Figure(
        "Which request has which block",
        f"{total} blocks of {size} tokens over {len(states)} steps, the last of which is the pool as it is left. A row is a block; a box "
        f"says which request has it, ×2 and more that several share it, and grey that it is cached. Preempted: step "
        f"{', '.join(map(str, preemptions))}.",
        height=bottom + 104,
    )
    figure.text(20, 28, f"A pool of {total} blocks of {size} tokens, over {len(states)} steps", "head")
    figure.labelled(left, 42, 26, 18, ["0"], OWNERS[0], ["listing"])
    figure.text(left + 34, 56, "a request's", "small", "muted")
    figure.labelled(left + 130, 42, 26, 18, ["×2"], "ink", ["listing"])
    figure.text(left + 164, 56, "shared by several", "small", "muted")
    figure.box(left + 300, 42, 26, 18, "muted", radius=1)
    figure.text(left + 334, 56, "cached", "small", "muted")
    figure.text(left + 406, 56, "empty: free", "small", "muted")
    mark = lambda at, y: figure.raw(f'<path class="red" d="M{number(at - 5)} {y}h10l-5 8z"/>', "red")
    mark(left + 516, 47)
    figure.text(left + 528, 56, "preempted: it lost them", "small", "muted")
    for block in range(total):
        y = top + pitch * block
        figure.text(left - 10, y + 15, f"{block}", "small", "muted", "end")
        for start, end, owner in runs([owners[block] for owners, _ in states]):
            a, w = x(start), x(end) - x(start) - 2
            if owner == "free":
                continue
            if owner == "cached":
                figure.box(a, y, w, pitch - 3, "muted", radius=1)
                continue
            label = f"×{len(owner)}" if len(owner) > 1 else str(owner[0])
            figure.box(a, y, w, pitch - 3, "ink" if len(owner) > 1 else OWNERS[owner[0]], radius=1)
            if w > 8 * len(label):
                figure.text(a + w / 2, y + 14, label, "listing", "ink", "middle")
    figure.text(20, 76, "block", "small", "muted")
    figure.text(20, bottom + 14, "step", "small", "muted")
    for step in range(0, len(states), 5):
        figure.text((x(step) + x(step + 1)) / 2, bottom + 14, str(step), "small", "muted", "middle")
    for step in preemptions:
        mark(x(step), top - 12)
    y = bottom + 44
    figure.lines(20, y + 24, ["blocks", "in use"], 15, kind="small")
    columns = [(x(i), x(i + 1), owners) for i, (owners, _) in enumerate(states)]
    figure.raw('<g fill-opacity=".35">', "muted")
    area(figure, "muted", [(a, b, sum(owner != "free" for owner in owners)) for a, b, owners in columns], y, total)
    figure.raw("</g>", "muted")
    area(figure, "blue", [(a, b, sum(isinstance(owner, tuple) for owner in owners)) for a, b, owners in columns], y, total)
    figure.line((left, y + STRIP), (RIGHT, y + STRIP))
    figure.text(RIGHT, y - 6, f"of {total} blocks: held by requests, and cached (grey)", "small", "muted", "end")
    return figure
