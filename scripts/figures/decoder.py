"""The model of chapter 1: its module tree beside ours, and a token's way through a layer."""

from . import sources
from .look import Figure

ROW = 20  # between two lines of the tree
TREE, OURS, RIGHT = 20, 486, 826  # where the two columns start, and the end

# Struct of decoder.rs: indent, colour, and the rows of the tree where it begins and ends.
STRUCTS = {
    "Decoder": (0, "muted", 0, 21),
    "DecoderLayer": (12, "muted", 4, 18),
    "SelfAttention": (24, "blue", 5, 11),
    "Mlp": (24, "green", 12, 15),
}


def module_tree():
    """steps/step1-forward/figures/module-tree.svg"""
    c = sources.config()
    last = c.num_hidden_layers - 1
    norm = f"Qwen3RMSNorm({c.hidden_size})"
    head_norm = f"Qwen3RMSNorm({c.head_dim})"
    # (depth, what print(model) shows, struct of decoder.rs that opens here or field that stands here)
    rows = [
        (0, "Qwen3ForCausalLM(", ("struct", "Decoder")),
        (1, "(model): Qwen3Model(", None),
        (2, f"(embed_tokens): Embedding({c.vocab_size}, {c.hidden_size})", ("Decoder", "embed_tokens")),
        (2, "(layers): ModuleList(", ("Decoder", "layers")),
        (3, f"(0-{last}): {c.num_hidden_layers} x Qwen3DecoderLayer(", ("struct", "DecoderLayer")),
        (4, "(self_attn): Qwen3Attention(", ("struct", "SelfAttention", "self_attn")),
        (5, f"(q_proj): Linear({c.hidden_size}, {c.q})", ("part", "qkv_proj")),
        (5, f"(k_proj): Linear({c.hidden_size}, {c.kv})", ("SelfAttention", "qkv_proj")),
        (5, f"(v_proj): Linear({c.hidden_size}, {c.kv})", ("part", "qkv_proj")),
        (5, f"(o_proj): Linear({c.q}, {c.hidden_size})", ("SelfAttention", "o_proj")),
        (5, f"(q_norm): {head_norm}", ("SelfAttention", "q_norm")),
        (5, f"(k_norm): {head_norm} )", ("SelfAttention", "k_norm")),
        (4, "(mlp): Qwen3MLP(", ("struct", "Mlp", "mlp")),
        (5, f"(gate_proj): Linear({c.hidden_size}, {c.intermediate_size})", ("part", "gate_up_proj")),
        (5, f"(up_proj): Linear({c.hidden_size}, {c.intermediate_size})", ("Mlp", "gate_up_proj")),
        (5, f"(down_proj): Linear({c.intermediate_size}, {c.hidden_size})", ("Mlp", "down_proj")),
        (5, "(act_fn): SiLUActivation() )", None),
        (4, f"(input_layernorm): {norm}", ("DecoderLayer", "input_layernorm")),
        (4, f"(post_attention_layernorm): {norm} ) )", ("DecoderLayer", "post_attention_layernorm")),
        (2, f"(norm): {norm}", ("Decoder", "norm")),
        (2, "(rotary_emb): Qwen3RotaryEmbedding() )", ("Decoder", "rotary_emb")),
        (1, f"(lm_head): Linear({c.hidden_size}, {c.vocab_size}) )", ("Decoder", "lm_head")),
    ]
    figure = Figure(
        "The module tree of Hugging Face beside the structs of decoder.rs",
        "Left: the modules that print(model) shows for a Qwen3 model. Right: the structs Decoder, DecoderLayer, SelfAttention "
        "and Mlp of src/model/decoder.rs, nested as the modules are. Lines join the same names; q_proj, k_proj and v_proj end "
        "in one field, qkv_proj, and gate_proj and up_proj in gate_up_proj.",
        height=66 + ROW * (len(rows) + 1) + 42,
    )
    figure.text(TREE, 28, "`print(model)` in Hugging Face", "head")
    figure.text(OURS - 12, 28, "`src/model/decoder.rs`", "head")
    y = [66 + ROW * i for i in range(len(rows))]
    draw_structs(figure, y)
    for (depth, text, ours), at in zip(rows, y):
        figure.text(TREE + 11 * depth, at, text, "code", room=OURS - TREE - 11 * depth - 30)
        if ours:
            draw_match(figure, text, TREE + 11 * depth, at, ours, y)
    figure.text(
        TREE,
        figure.height - 34,
        "Shortened to `Linear(in, out)`. SiLU has no weights: it is the operation `silu_mul` of the",
        "small",
        "muted",
    )
    figure.text(
        TREE,
        figure.height - 16,
        "backend. A tied `LmHead` holds no weight and uses the table of `embed_tokens`.",
        "small",
        "muted",
    )
    return figure


def draw_structs(figure, y):
    """The four structs as nested boxes; y are the rows of the tree."""
    for inset, role, first, last in STRUCTS.values():
        left, right = OURS - 12 + inset, RIGHT - inset / 2
        top, bottom = y[first] - 13.5, y[last] + 5.5
        figure.box(left, top, right - left, bottom - top, role, bare=role == "muted")


def draw_match(figure, text, x, y, ours, rows):
    """The field on this row of the tree, and the line from the module to it."""
    kind, name, *field = ours
    target = y
    if kind == "struct":
        inset, role, *_ = STRUCTS[name]
        if field and not sources.field("DecoderLayer", field[0]).startswith(name):
            raise ValueError(f"{field[0]} of DecoderLayer is no {name} any more")
        label = f"{field[0]}: {name}" if field else f"struct {name}"
        figure.text(OURS + inset, y, label, "code", bold=True, room=RIGHT - OURS - inset)
    elif kind == "part":
        inset, role, row = (24, "blue", 7) if name == "qkv_proj" else (24, "green", 14)
        target = rows[row]
    else:
        inset, role, *_ = STRUCTS[kind]
        type_name = sources.field(kind, name).replace("<B>", "").replace("<B, ", "<")
        figure.text(OURS + inset, y, f"{name}: {type_name}", "code", room=RIGHT - OURS - inset)
    start, bend, end = x + 12.5 * 0.62 * len(text) + 4, OURS - 32, OURS + inset - 5
    points = [(start, y - 4), (end, y - 4)] if target == y else [(start, y - 4), (bend, y - 4), (end, target - 4)]
    figure.line(*points, role=role)


def token_through_layer():
    """steps/step1-forward/figures/token-through-layer.svg"""
    c = sources.config()
    figure = Figure(
        "One token's way through a decoder layer",
        f"The token's row of the embedding table, {c.hidden_size} numbers, is normed and multiplied into q, k and v; q and k are "
        "normed per head and rotated to their position. Attention is the only place where other tokens come in. o_proj brings "
        f"the heads back to {c.hidden_size} numbers, which are added to the row. The second half norms the row, widens it to "
        f"{c.intermediate_size} twice, multiplies silu(gate) with up, and adds down_proj's result.",
        height=612,
    )
    draw_attention_half(figure, c)
    draw_mlp_half(figure, c)
    return figure


def arrow_down(figure, x, top, bottom, label=None, role="muted"):
    figure.arrow((x, top), (x, bottom), role=role)
    if label:
        figure.text(x + 7, (top + bottom) / 2 + 3, label, "code", "muted")


def plus(figure, x, y):
    """Where a branch is added to the row."""
    figure.raw(
        f'<circle class="box b-ink" cx="{x}" cy="{y}" r="11"/><path class="line l-ink" d="M{x - 6} {y}h12M{x} {y - 6}v12"/>'
    )


def draw_attention_half(figure, c):
    stream, q, k, v, width = 44, 146, 246, 346, 88
    middle = k
    figure.text(20, 28, "Attention", "head")
    figure.labelled(
        20,
        44,
        376,
        34,
        [f"row of the token's id in `embed_tokens` [{c.vocab_size}, {c.hidden_size}]"],
        "muted",
        ["small"],
    )
    figure.path(f"M{stream} 78V586q0 8 8 8H528q8 0 8 -8V68q0 -8 8 -8h14q8 0 8 8V586", "ink", thick=True)
    figure.path("M566 584V600", "ink", arrow=True)
    figure.text(stream + 9, 97, f"x [{c.hidden_size}]", "code")
    figure.arrow((stream, 118), (q - width / 2 - 2, 118), role="ink")
    figure.labelled(q - width / 2, 102, 2 * (k - q) + width, 32, ["`input_layernorm`"], "muted")
    figure.box(q - width / 2 - 6, 158, 2 * (k - q) + width + 12, 58, "muted", dashed=True, bare=True)
    for x, name in [(q, "q_proj"), (k, "k_proj"), (v, "v_proj")]:
        arrow_down(figure, x, 134, 164)
        figure.labelled(x - width / 2, 166, width, 28, [name], "blue", ["code"])
    figure.text(q + 8, 150, f"[{c.hidden_size}]", "code", "muted")
    figure.text(middle, 211, f"one matmul, `qkv_proj` [{c.q + 2 * c.kv}, {c.hidden_size}]", "small", "muted", "middle")
    for x, name, n, heads in [(q, "q", c.q, c.num_attention_heads), (k, "k", c.kv, c.num_key_value_heads)]:
        arrow_down(figure, x, 216, 254)
        figure.text(x + 7, 232, f"[{n}]", "code", "muted")
        figure.text(x + 7, 247, f"{heads}×{c.head_dim}", "code", "muted")
        figure.labelled(x - width / 2, 256, width, 28, [f"{name}_norm"], "muted", ["code"])
        arrow_down(figure, x, 284, 306)
        figure.labelled(x - width / 2, 308, width, 44, ["rotate to", "position p"], "purple", ["small"])
        arrow_down(figure, x, 352, 384)
    figure.text(v + 7, 232, f"[{c.kv}]", "code", "muted")
    figure.text(v + 7, 247, f"{c.num_key_value_heads}×{c.head_dim}", "code", "muted")
    arrow_down(figure, v, 216, 384)
    figure.labelled(
        q - width / 2,
        386,
        2 * (k - q) + width,
        52,
        ["attention", "softmax(q kᵀ · scale) v, head by head"],
        "orange",
        ["body", "small"],
    )
    draw_other_tokens(figure, v + width / 2, 412)
    arrow_down(figure, middle, 438, 472, f"[{c.q}] = {c.num_attention_heads}×{c.head_dim}")
    figure.labelled(middle - 80, 474, 160, 30, [f"o_proj [{c.hidden_size}, {c.q}]"], "blue", ["code"])
    figure.arrow((middle, 504), (middle, 540), (stream + 13, 540), role="ink")
    figure.text(middle - 9, 531, f"[{c.hidden_size}]", "code", "muted", "end")
    plus(figure, stream, 540)
    figure.text(stream + 18, 584, f"the row [{c.hidden_size}] with attention's part added", "small", "muted")


def draw_other_tokens(figure, x, y):
    """K and V of the other tokens, coming into attention."""
    left = x + 34
    figure.arrow((left, y), (x + 2, y), role="orange")
    for i in (2, 1, 0):
        figure.box(left + 7 * i, y - 20 - 7 * i, 62, 40, "orange")
    figure.text(left + 31, y + 5, "k, v", "code", anchor="middle")
    figure.lines(
        left + 38,
        y + 38,
        ["of the tokens", "before it: the only", "place where", "tokens meet"],
        15,
        kind="small",
        anchor="middle",
    )


def draw_mlp_half(figure, c):
    stream, gate, up, width = 566, 668, 772, 98
    middle, inner = (gate + up) / 2, c.intermediate_size
    left, wide = gate - width / 2, up - gate + width
    figure.text(548, 28, "MLP", "head")
    figure.text(stream + 9, 97, f"x [{c.hidden_size}]", "code")
    figure.arrow((stream, 118), (left - 2, 118), role="ink")
    figure.labelled(left, 102, wide, 32, ["`post_attention_layernorm`"], "muted", ["small"])
    figure.box(left - 6, 158, wide + 12, 58, "muted", dashed=True, bare=True)
    for x, name in [(gate, "gate_proj"), (up, "up_proj")]:
        arrow_down(figure, x, 134, 164)
        figure.labelled(x - width / 2, 166, width, 28, [name], "blue", ["code"])
        arrow_down(figure, x, 216, 262 if x == gate else 342, f"[{inner}]")
    figure.text(middle, 211, f"one matmul [{2 * inner}, {c.hidden_size}]", "small", "muted", "middle")
    figure.labelled(gate - width / 2, 264, width, 44, ["silu(z) =", "z/(1+exp(−z))"], "green", ["small"])
    arrow_down(figure, gate, 308, 342)
    figure.labelled(left, 344, wide, 36, ["silu(gate) · up"], "green")
    arrow_down(figure, middle, 380, 424, f"[{inner}]")
    figure.labelled(middle - 76, 426, 152, 30, [f"down_proj [{c.hidden_size}, {inner}]"], "blue", ["small"])
    figure.arrow((middle, 456), (middle, 540), (stream + 13, 540), role="ink")
    figure.text(middle + 8, 502, f"[{c.hidden_size}]", "code", "muted")
    plus(figure, stream, 540)
    figure.text(stream + 18, 576, f"next layer ({c.num_hidden_layers} in all), then", "small", "muted")
    figure.text(stream + 18, 594, f"`norm`, `lm_head`: logits [{c.vocab_size}]", "small", "muted")
