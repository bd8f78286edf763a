"""The way of a byte on disk to a parameter."""

from math import prod

from . import sources
from .look import WIDTH, Figure

NAME = "model.layers.3.self_attn.v_proj.weight"
SIZE = {"BF16": 2, "F16": 2, "F32": 4}


def grouped(n):
    """1,234,567"""
    return f"{n:,}"


def safetensors_file():
    """steps/step1-forward/figures/safetensors-file.svg"""
    weights = sources.weight_map()
    shard = weights[NAME]
    length, header, end = sources.shard(shard)
    entry = header[NAME]
    start, stop = entry["data_offsets"]
    data = 8 + length
    assert stop - start == prod(entry["shape"]) * SIZE[entry["dtype"]]
    figure = Figure(
        "A .safetensors file, and the index that points to it",
        f"model.safetensors.index.json says that {NAME} is in {shard}. That file starts with 8 bytes, the length {length} of the "
        f"JSON header; the header gives the tensor's dtype, its shape and its offsets {start} to {stop} in the data, which "
        f"starts at byte {data}.",
        height=470,
    )
    draw_index(figure, weights, shard)
    left, right, top = 20, WIDTH - 20, 196
    figure.text(left, top - 14, shard, "code", bold=True)
    figure.text(right, top - 14, f"{grouped(end)} bytes", "small", "muted", "end")
    n, json_end = left + 92, left + 420
    figure.labelled(left, top, n - left, 44, ["8 bytes", grouped(length)], "purple", ["small", "code"])
    figure.labelled(n, top, json_end - n, 44, ["header: JSON", f"{grouped(length)} bytes"], "blue", ["small"])
    figure.labelled(json_end, top, right - json_end, 44, ["data", f"{grouped(end - data)} bytes"], "muted", ["small"])
    for x, at, anchor in [(left, 0, "start"), (n, 8, "middle"), (json_end, data, "middle"), (right, end, "end")]:
        figure.text(x, top + 62, grouped(at), "code", "muted", anchor)
    draw_entry(figure, entry, n, top)
    draw_bytes(figure, header, (json_end, right), top, data)
    figure.text(
        left,
        454,
        f"The 8 bytes are a little-endian u64. Offsets count from the start of the data: {grouped(data)} + {grouped(start)} = "
        f"{grouped(data + start)}.",
        "small",
        "muted",
    )
    return figure


def draw_index(figure, weights, shard):
    """A piece of the index, and its arrow to the shard."""
    names = list(weights)
    at = names.index(NAME)
    figure.text(20, 28, "model.safetensors.index.json", "code", bold=True)
    figure.box(20, 40, 640, 96, "muted")
    for i, name in enumerate(["weight_map", names[at - 1], NAME, "…"]):
        text = '"weight_map": {' if i == 0 else "  …" if i == 3 else f'  "{name}": "{weights[name]}",'
        bold = name == NAME
        figure.text(32, 60 + 21 * i, text, "listing", "orange" if bold else "ink", bold=bold, room=616)
    count = len(set(weights.values()))
    others = [name for name in sorted(set(weights.values())) if name != shard]
    figure.labelled(
        684,
        60,
        136,
        52,
        [f"{count - 1} other shard" + "s" * (count > 2), others[0].removeprefix("model-").removesuffix(".safetensors")],
        "muted",
        ["small"],
        dashed=True,
    )
    figure.arrow((660, 86), (682, 86), dashed=True)
    figure.arrow((140, 136), (140, 166), role="orange")
    figure.text(150, 156, "opened once, mapped", "small", "muted")


def draw_entry(figure, entry, n, top):
    """The tensor's entry in the header."""
    y = top + 84
    figure.box(20, y, 412, 148, "blue")
    start, stop = entry["data_offsets"]
    lines = [
        "{",
        f'  "{NAME}": {{',
        f'    "dtype": "{entry["dtype"]}",',
        f'    "shape": {entry["shape"]},',
        f'    "data_offsets": [{start}, {stop}]',
        "  }, …",
        "}",
    ]
    for i, line in enumerate(lines):
        bold = "offsets" in line
        figure.text(32, y + 20 + 19 * i, line, "listing", "orange" if bold else "ink", bold=bold, room=396)
    figure.arrow((n + 110, top + 44), (n + 110, y - 2), role="blue")


def draw_bytes(figure, header, span, top, data):
    """The data, magnified around the tensor."""
    placed = sorted(header, key=lambda name: header[name]["data_offsets"])
    at = placed.index(NAME)
    shown = [placed[i] for i in (at - 1, at, at + 1) if 0 <= i < len(placed)]
    y, left, right = top + 84, 456, WIDTH - 20
    figure.arrow(((span[0] + span[1]) / 2 + 12, top + 44), ((span[0] + span[1]) / 2 + 12, y - 2))
    for i, name in enumerate(shown):
        begin, finish = header[name]["data_offsets"]
        mine = name == NAME
        short = name.removeprefix("model.").removesuffix(".weight")
        figure.box(left, y + 46 * i, right - left, 42, "orange" if mine else "muted", dashed=not mine)
        figure.text(left + 10, y + 46 * i + 17, short, "listing", bold=mine, room=right - left - 20)
        where = f"{grouped(data + begin)}..{grouped(data + finish)}"
        figure.text(
            left + 10, y + 46 * i + 34, f"bytes {where}", "small", "ink" if mine else "muted", room=right - left - 20
        )
    offsets = 32 + 11.5 * 0.62 * len(f'    "data_offsets": {header[NAME]["data_offsets"]}') + 4
    figure.arrow(
        (offsets, y + 20 + 19 * 4 - 4), (444, y + 20 + 19 * 4 - 4), (444, y + 67), (left - 2, y + 67), role="orange"
    )


def byte_to_parameter():
    """steps/step1-forward/figures/byte-to-parameter.svg"""
    c, weights = sources.config(), sources.weight_map()
    length, header, _ = sources.shard(weights[NAME])
    start, stop = (8 + length + offset for offset in header[NAME]["data_offsets"])
    figure = Figure(
        "From a byte on disk to a parameter",
        "config.json gives the shapes of the model's parameters. The index gives the shard of a tensor, the shard's header its "
        "dtype, shape and byte range. The mapped file gives a view of these bytes. The name, through the mapper and the skip "
        "rules, gives the parameter: one of its own, rows of a stacked one, or the tied embedding.",
        height=462,
    )
    stages = [
        (
            "config.json",
            "shapes",
            "muted",
            f"v_proj [{c.kv}, {c.hidden_size}]",
            [f"{c.num_key_value_heads} K/V heads", f"× head_dim {c.head_dim}", f"hidden_size {c.hidden_size}"],
        ),
        (
            "index",
            "shard",
            "purple",
            weights[NAME].removeprefix("model-").removesuffix(".safetensors"),
            ["weight_map[", '  "…v_proj.weight"', "]"],
        ),
        (
            "header",
            "byte range",
            "blue",
            f"{grouped(stop - start)} bytes",
            [f"{header[NAME]['dtype']} {header[NAME]['shape']}", f"bytes {grouped(start)}", f"..{grouped(stop)}"],
        ),
        ("mmap", "view", "green", "a `HostTensor`", ["no copy is made;", "pages are read when", "they are touched"]),
        (
            "name",
            "parameter",
            "orange",
            f"rows {c.q + c.kv}..{c.q + 2 * c.kv}",
            ["v_proj is a part", "of qkv_proj", "(see below)"],
        ),
    ]
    for i, stage in enumerate(stages):
        draw_stage(figure, i, len(stages), *stage)
    draw_rules(figure)
    draw_outcomes(figure, c)
    return figure


def draw_stage(figure, i, count, source, gives, role, result, lines):
    """One of the places where something is looked up."""
    width, gap = 146, 17
    x = 20 + i * (width + gap)
    figure.text(x, 26, f"{i + 1}  {source}", "body", bold=True, room=width + gap - 2)
    figure.text(x, 44, f"→ {gives}", "small", "muted", room=width + gap - 2)
    figure.box(x, 54, width, 112, role)
    for j, line in enumerate(lines):
        figure.text(x + 8, 76 + 18 * j, line, "listing" if role != "green" else "small", room=width - 12)
    figure.line((x + 8, 131), (x + width - 8, 131), role=role)
    figure.text(x + 8, 153, result, "small", role, bold=True, room=width - 12)
    if i < count - 1:
        figure.arrow((x + width, 110), (x + width + gap - 1, 110))


def draw_rules(figure):
    """What happens to a name before it is a parameter's."""
    y, high = 236, 84
    figure.text(20, 200, "5 close up: every name of the checkpoint goes this way", "head")
    rules = [
        (20, 96, "muted", ["a name", "of the file"], []),
        (134, 136, "purple", ["mapper"], ["renames by prefix,", "part or suffix"]),
        (288, 150, "blue", ["skip rules"], ["built in: RoPE tables;", "yours: --skip-substr"]),
        (456, 140, "orange", ["a parameter?"], ["as it is, or with", "`model.` before it"]),
    ]
    for i, (x, width, role, head, lines) in enumerate(rules):
        figure.box(x, y, width, high, role)
        figure.lines(
            x + width / 2, y + (37 if not lines else 27), head, 17, kind="body", anchor="middle", room=width - 6
        )
        figure.lines(x + width / 2, y + 50, lines, 17, kind="small", role="ink", anchor="middle", room=width - 4)
        if i:
            figure.arrow((x - 18, y + high / 2), (x - 1, y + high / 2))
    figure.arrow((202, y + high), (202, 372), (294, 372), dashed=True)
    figure.arrow((363, y + high), (363, 354), dashed=True)
    figure.labelled(296, 356, 134, 32, ["left out"], "muted", ["small"], dashed=True)
    figure.arrow((526, y + high), (526, 354), role="red", dashed=True)
    figure.text(534, 340, "no", "small", "red")
    figure.labelled(
        456, 356, 140, 62, ["error: lists all of", "them, each with the", "nearest name"], "red", ["small"], dashed=True
    )


def draw_outcomes(figure, c):
    """The three kinds of parameters."""
    x, width = 622, WIDTH - 20 - 622
    figure.line((596, 278), (608, 278))
    figure.line((608, 218), (608, 414))
    for y in (218, 314, 414):
        figure.arrow((608, y), (x - 1, y))
    figure.labelled(x, 194, width, 48, ["its own", "o_proj.weight → o_proj"], "muted", ["body", "listing"])
    figure.box(x, 256, width, 116, "blue")
    figure.text(x + width / 2, 276, "stacked: qkv_proj", "body", anchor="middle", room=width - 6)
    total, top = c.q + 2 * c.kv, 286
    for name, first, n in [("q_proj", 0, c.q), ("k_proj", c.q, c.kv), ("v_proj", c.q + c.kv, c.kv)]:
        high = 76 * n / total
        role = "orange" if name == "v_proj" else "muted"
        figure.box(x + 10, top, width - 20, high, role, radius=0)
        text = f"{name}: rows {first}..{first + n}"
        figure.text(x + width / 2, top + high / 2 + 4, text, "listing", anchor="middle", room=width - 26)
        top += high
    figure.labelled(
        x, 382, width, 66, ["tied", "lm_head.weight", "= embed_tokens.weight"], "muted", ["body", "listing"]
    )
