"""Chapter 7: who is who; what two ranks hold; the two sums of a layer; a pipeline and its bubble; a ring."""

from .look import WIDTH, Figure


def topology():
    """steps/step7-parallel/figures/topology.svg"""
    figure = Figure(
        "Four ranks: two slices of two stages",
        "Stage 0 has the embedding and the first layers, stage 1 the other layers and lm_head. Each stage has two ranks with a slice of every matrix. Rank 0 has the "
        "engine and tells all ranks of the batch. Ranks of a stage add up; hidden states go from stage to stage, slice by slice; the logits go back to rank 0.",
        height=296,
    )
    figure.labelled(30, 92, 120, 84, ["Engine", "scheduler,", "samplers"], "purple", ["body", "small"])
    figure.arrow((150, 118), (206, 118), role="purple")
    figure.text(90, 84, "the batch, to all", "small", "purple", "middle")
    for stage, (x, layers) in enumerate([(210, "layers 0 to 13"), (540, "layers 14 to 27")]):
        figure.box(x - 12, 44, 240, 206, "muted", dashed=True, bare=True)
        figure.text(x + 108, 34, f"stage {stage}: {layers}", "body", "ink", "middle", bold=True)
        for slice_ in range(2):
            y = 60 + 110 * slice_
            figure.labelled(x, y, 216, 66, [f"rank {2 * stage + slice_}", f"slice {slice_} of every matrix"], "blue", ["body", "small"])
        figure.arrow((x + 96, 128), (x + 96, 168), role="orange", thick=True)
        figure.arrow((x + 120, 168), (x + 120, 128), role="orange", thick=True)
        figure.text(x + 132, 153, "all_reduce", "small", "orange")
    for y in (93, 203):
        figure.arrow((426, y), (538, y), role="green", thick=True)
        figure.text(482, y - 8, "hidden states", "small", "green", "middle")
    figure.arrow((646, 250), (646, 274), (90, 274), (90, 180), role="muted")
    figure.text(370, 266, "logits, from one rank of the last stage", "small", "muted", "middle")
    return figure


def slices():
    """steps/step7-parallel/figures/slices.svg"""
    figure = Figure(
        "What two ranks hold of each weight, as it is stored",
        "Weights are stored with outputs down and inputs across. q, k, v, gate and up are cut by outputs, which are rows; o and down by inputs, which are columns; the embedding and lm_head by "
        "vocabulary, which are rows. Norms are whole on both.",
        height=304,
    )
    groups = [
        ("q_proj", 30, 76, 76, "rows"), ("k_proj", 120, 38, 76, "rows"), ("v_proj", 210, 38, 76, "rows"), ("o_proj", 330, 76, 76, "cols"),
        ("gate_proj", 450, 110, 76, "rows"), ("up_proj", 550, 110, 76, "rows"), ("down_proj", 660, 76, 110, "cols"),
    ]
    figure.text(30, 28, "cut by outputs: rows as stored", "small", "blue")
    figure.text(330, 28, "by inputs: columns", "small", "orange")
    figure.text(470, 28, "by outputs: rows", "small", "blue")
    figure.text(640, 28, "by inputs: columns", "small", "orange")
    for name, x, high, wide, cut in groups:
        y = 56
        figure.text(x + wide / 2, 48, name, "small", "ink", "middle")
        for rank, role in enumerate(["blue", "orange"]):
            if cut == "rows":
                figure.labelled(x, y + rank * high / 2, wide, high / 2 - 1, [str(rank)], role, ["small"])
            else:
                figure.labelled(x + rank * wide / 2, y, wide / 2 - 1, high, [str(rank)], role, ["small"])
    figure.text(30, 204, "embed_tokens, lm_head: by vocabulary", "small", "blue")
    for rank, role in enumerate(["blue", "orange"]):
        figure.labelled(30, 214 + 36 * rank, 140, 34, [f"{rank}: half of the tokens"], role, ["small"])
    figure.text(300, 204, "norms: whole", "small", "muted")
    figure.labelled(300, 214, 66, 22, ["0 and 1"], "muted", ["small"])
    figure.lines(392, 214, [
        "A rank's rows of q, k and v are whole heads, and its columns of",
        "o_proj are what those heads give. Its rows of gate and up are the",
        "columns of down_proj that they meet. So nothing is said between",
        "the two. Rows are one run of the file; columns are a piece of every",
        "row.",
    ], kind="small")
    return figure


def all_reduces():
    """steps/step7-parallel/figures/all_reduces.svg"""
    figure = Figure(
        "One layer on two ranks",
        "Both ranks have the same hidden state. Each norms it, computes q, k and v of its heads, attends, and multiplies by its columns of o_proj: a summand. An all_reduce gives both the sum, "
        "which is added to the hidden state. The same again for the MLP. Two all_reduces a layer.",
        height=232,
    )
    parts = [("norm", 62, "muted"), ("q, k, v", 66, "blue"), ("attention", 82, "blue"), ("o_proj", 62, "blue"), None, ("norm", 62, "muted"), ("gate, up", 74, "blue"), ("down_proj", 86, "blue"), None]
    x = 84
    for rank in range(2):
        figure.text(20, 71 + 92 * rank, f"rank {rank}", "body", bold=True)
    for i, part in enumerate(parts):
        if part is None:
            figure.box(x, 34, 46, 162, "orange")
            figure.text(x + 23, 110, "sum", "small", "orange", "middle", bold=True)
            figure.text(x + 23, 128, "+ x", "small", "orange", "middle")
            for rank in range(2):
                figure.arrow((x - 12, 66 + 92 * rank), (x - 1, 66 + 92 * rank), role="muted")
            x += 58
            continue
        name, wide, role = part
        for rank in range(2):
            y = 46 + 92 * rank
            figure.labelled(x, y, wide, 40, [name], role, ["small"])
            if i:
                figure.arrow((x - 12, y + 20), (x - 1, y + 20), role="muted")
        x += wide + 12
    figure.text(20, 24, "grey: whole on both ranks, the same bits; blue: a rank's own part; orange: an all_reduce of [tokens, hidden]", "small", "muted")
    figure.text(WIDTH / 2, 218, "between two sums nobody says a word", "small", "muted", "middle")
    return figure


def bubble():
    """steps/step7-parallel/figures/bubble.svg"""
    figure = Figure(
        "Two stages, with one micro-batch and with four",
        "With one micro-batch stage 0 works while stage 1 waits, then the other way round: each waits half of the time. With four micro-batches of a quarter of the size both work most of the time, "
        "and each waits one of five turns.",
        height=240,
    )
    left, unit = 110, 66
    for y, title in [(24, "one micro-batch: each stage waits 1 of 2 turns"), (134, "four micro-batches: each stage waits 1 of 5 turns")]:
        figure.text(left, y, title, "small", bold=True)
        for stage in range(2):
            figure.text(20, y + 32 + 36 * stage, f"stage {stage}", "small")
    for stage in range(2):
        y = 34 + 36 * stage
        for turn in range(2):
            works = turn == stage
            figure.labelled(left + turn * 4 * unit, y, 4 * unit - 3, 30, ["the batch" if works else "waits"], "blue" if works else "muted", ["small"], dashed=not works)
        y = 144 + 36 * stage
        for turn in range(5):
            part = turn - stage
            works = 0 <= part < 4
            figure.labelled(left + turn * unit, y, unit - 3, 30, ["abcd"[part] if works else "waits"], "blue" if works else "muted", ["small"], dashed=not works)
    figure.lines(left + 5 * unit + 24, 162, ["(stages − 1) / (micro-batches + stages − 1)", "is the part of the time that a stage waits"], kind="small", role="muted")
    figure.arrow((left, 226), (left + 8 * unit, 226), role="muted")
    figure.text(left + 8 * unit + 10, 230, "time", "small", "muted")
    return figure


def ring():
    """steps/step7-parallel/figures/ring.svg"""
    figure = Figure(
        "A sum round a ring of three ranks",
        "Each rank has three chunks. In two steps each chunk goes to the next rank and is added to what that has: then each rank has one chunk of the sum. In two more steps the sums go round.",
        height=232,
    )
    heads = ["at first", "1 sent on", "2 sent on", "3: a sum goes on", "4: the other one"]
    # What each rank has of chunks a, b, c after each step: the ranks whose numbers are in it.
    has = [[["0", "0", "0"], ["1", "1", "1"], ["2", "2", "2"]]]
    now = has[0]
    for step in range(4):
        after = [list(row) for row in now]
        for rank in range(3):
            chunk = (rank - step) % 3 if step < 2 else (rank + 1 - (step - 2)) % 3
            to = (rank + 1) % 3
            after[to][chunk] = "".join(sorted(now[rank][chunk] + now[to][chunk])) if step < 2 else now[rank][chunk]
        has.append(after)
        now = after
    assert all(sums == "012" for row in now for sums in row)
    for step, rows in enumerate(has):
        x = 92 + 150 * step
        figure.text(x + 62, 28, heads[step], "small", "muted", "middle")
        for rank, row in enumerate(rows):
            y = 40 + 52 * rank
            if step == 0:
                figure.text(20, y + 23, f"rank {rank}", "small", bold=True)
            for chunk, sums in enumerate(row):
                figure.labelled(x + 42 * chunk, y, 39, 36, [sums], "green" if sums == "012" else "blue" if len(sums) == 1 else "orange", ["small"])
    figure.text(20, 218, "digits: whose numbers are in a chunk; two steps to add up, two to pass on, a third of x each", "small", "muted")
    return figure
