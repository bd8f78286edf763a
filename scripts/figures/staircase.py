"""The nine steps, for README.md and BOOK.md."""

from .look import WIDTH, Figure

BUILT = 9  # the highest step that is built; the others are drawn dashed

STEPS = [
    ("one correct", "forward pass"),
    ("KV cache",),
    ("continuous", "batching"),
    ("paged", "KV blocks"),
    ("CUDA, Paged", "Attention"),
    ("flash", "prefill"),
    ("tensor", "parallel"),
    ("a server",),
    ("packed", "weights"),
]

LEFT, STEP, RISE, FIRST, FLOOR = 84, 83, 25, 66, 372


def staircase():
    """steps/figures/staircase.svg"""
    listed = "; ".join(f"step{i} {' '.join(words)}" for i, words in enumerate(STEPS, 1))
    built = "Step 1 is built" if BUILT == 1 else f"Steps 1 to {BUILT} are built"
    figure = Figure(
        "The staircase of stairwell",
        f"Nine steps rise from left to right: {listed}. Config and weights go in at the bottom, tokens come out at the top. "
        f"{built}; steps that are not built yet are dashed.",
        height=404,
    )
    figure.text(20, 34, "Nine steps, one command", "head")
    figure.text(20, 58, '`stairwell generate --prompt "Once upon a time"`', "code")
    figure.text(20, 80, "Each step is a cargo feature, a chapter, a set of tests, an exercise.", "small", "muted")
    for i, words in enumerate(STEPS):
        draw_step(figure, i, words)
    draw_door(figure)
    draw_climber(figure, BUILT - 1)
    draw_tokens(figure)
    figure.line((20, FLOOR), (WIDTH - 12, FLOOR), role="ink")
    if BUILT < len(STEPS):
        figure.text(WIDTH - 12, FLOOR + 22, "dashed: not built yet", "small", "muted", "end")
    return figure


def tread(i):
    """The left end of a step's upper edge."""
    return LEFT + i * STEP, FLOOR - FIRST - i * RISE


def draw_step(figure, i, words):
    x, y = tread(i)
    built = i < BUILT
    if built:
        figure.box(x, y, STEP, FLOOR - y, "blue", radius=0)
        figure.line((x, y), (x + STEP, y), role="blue", thick=True)
    else:
        outline = [(x, y + RISE), (x, y), (x + STEP, y)] + ([(x + STEP, FLOOR)] if i == len(STEPS) - 1 else [])
        figure.line(*outline, dashed=True)
    figure.text(x + STEP / 2, y + 22, f"step{i + 1}", "code", "blue" if built else "muted", "middle", bold=True)
    role = "ink" if built else "muted"
    figure.lines(x + STEP / 2, y + 41, words, 16, kind="small", role=role, anchor="middle", room=STEP)


def draw_door(figure):
    """Where a checkpoint comes in."""
    figure.lines(43, FLOOR - 84, ["config", "+ weights"], 16, kind="small", anchor="middle", room=80)
    arch = f"M26 {FLOOR}v-42a17 17 0 0 1 34 0v42z"
    figure.raw(
        f'<path class="box b-orange" d="{arch}"/><circle class="orange" cx="53" cy="{FLOOR - 24}" r="2"/>', "orange"
    )
    figure.arrow((64, FLOOR - 22), (LEFT - 4, FLOOR - 22), role="orange")


def draw_climber(figure, i):
    """Somebody on the highest step that is built, one foot on the way to the next."""
    x, y = tread(i)
    x += STEP - 34
    body = [
        f"M{x} {y - 24}L{x - 8} {y - 12}L{x - 11} {y - 2}",  # the leg that stands
        f"M{x} {y - 24}L{x + 9} {y - 18}L{x + 8} {y - 6}h5",  # the leg that climbs
        f"M{x} {y - 24}L{x + 3} {y - 46}",
        f"M{x + 2} {y - 41}L{x + 13} {y - 35}L{x + 19} {y - 43}",
        f"M{x + 2} {y - 41}L{x - 7} {y - 32}L{x - 6} {y - 24}",
    ]
    limbs = "".join(
        f'<path class="line thick l-ink" stroke-linecap="round" stroke-linejoin="round" d="{d}"/>' for d in body
    )
    figure.raw(f'{limbs}<circle class="ink" cx="{x + 5}" cy="{y - 54}" r="7"/>', "ink")


def draw_tokens(figure):
    """What comes out at the top: how the demo model goes on, greedily."""
    x, y = tread(len(STEPS) - 1)
    right, top = x + STEP - 2, 12
    for word, width in [("…", 26), ("small", 52), ("a", 24), ("in", 28), (",", 20)]:
        right -= width
        figure.labelled(right, top, width, 26, [word], "orange", ["small"])
        right -= 5
    figure.text(right - 4, top + 18, "tokens", "small", "ink", "end")
    figure.arrow((x + 16, y - 4), (x + 16, top + 30), role="orange")
