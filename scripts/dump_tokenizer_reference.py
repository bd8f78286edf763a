"""Writes tests/fixtures/tokenizer/reference.json: what transformers' tokenizers and chat templates give.

    python scripts/dump_tokenizer_reference.py [--shared ../shared] [--out tests/fixtures/tokenizer/reference.json]

Holds our own texts, chats and tools; ids and decoded texts; and of each rendered chat its length and FNV-1a hash, so
that no text of other people's templates is in this repository. tests/suite/tokenizer.rs reads it.
"""

import argparse
import json
import os
import random
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jinja2
import tokenizers
import transformers
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

TOKENIZERS = [
    "hf/qwen3-1.7b",
    "hf/llama-3.2-3b-instruct",
    "hf/tinyllama-1.1b-chat",
    "hf/minueza-32m-ultrachat-mistral",
    "hf/gpt2",
    "models/story-656k-hf",
]
TEMPLATES = [
    "hf/qwen3-1.7b",
    "hf/llama-3.2-3b-instruct",
    "hf/tinyllama-1.1b-chat",
    "hf/minueza-32m-ultrachat-mistral",
    "hf/qwen3-8b-resaved",  # has a chat_template.jinja and no tokenizer.json
]


def function(name, description, parameters):
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = {
    "simple": [
        function(
            "get_weather",
            "Get the weather.",
            {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "The city's name"}},
                "required": ["city"],
            },
        )
    ],
    "nested": [
        function(
            "plan",
            "Plan <b>a trip</b> & more: \"quotes\", 'single', back\\slash, tab\t.",
            {
                "type": "object",
                "properties": {
                    "stops": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "lat": {"type": "number", "minimum": -90.0, "maximum": 90.0},
                                "lon": {"type": "number", "default": 1e-07},
                                "items": {"type": "array", "items": {"type": "string"}, "minItems": 0},
                            },
                        },
                    },
                    "mode": {"type": "string", "enum": ["foot", "bïke", "列車", "🚀", None, 3, 2.5]},
                    "empty": {},
                    "list": [],
                },
                "required": [],
                "additionalProperties": False,
            },
        ),
        function("noop", "", {}),
    ],
    "unicode": [
        {
            "name": "übersetzen",
            "description": "\u2028line\u00a0sep \u007f \u0001 👨\u200d👩\u200d👧",
            "n": {
                "big": 123456789012345678,
                "f": [0.1, 1.0, 1e16, 1e15, 1.5e-5, 0.0001, 123456.789, -0.0, 1e300, 3.141592653589793],
            },
            "b": [True, False, None],
        }
    ],
    "none": [],
}

SYSTEM = {"role": "system", "content": "You are a  pirate.\n\nTalk so.  "}
CALL = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "arguments": {"city": "Köln", "days": 3, "x": 1.50, "deep": {"a": [1, {"b": None}], "t": True}},
        },
    }
]


def user(text):
    return {"role": "user", "content": text}


def bot(text, **fields):
    return {"role": "assistant", "content": text, **fields}


def result(text):
    return {"role": "tool", "content": text}


CHATS = {
    "one": [user("Hi")],
    "system": [SYSTEM, user("Hi")],
    "multi": [
        SYSTEM, user("What is 2+2?"), bot("4."), user("And <3+3>?"), bot("  6 & more\n"), user("Thanks!\n\n"),
    ],
    "unicode": [
        user("こんにちは 😀 é e\u0301 \u00a0nbsp \u2028 \t tab"), bot("👨\u200d👩\u200d👧"), user("\r\nwindows\r\n"),
    ],
    "empty": [user(""), bot(""), user(" ")],
    "system_empty": [{"role": "system", "content": ""}, user("x")],
    "late_system": [user("x"), SYSTEM, bot("y")],
    "ends_with_assistant": [user("x"), bot("the answer")],
    "starts_with_assistant": [bot("first"), user("x")],
    "only_system": [SYSTEM],
    "unknown_role": [{"role": "narrator", "content": "Once"}, user("x")],
    "think": [user("x"), bot("<think>\nhm \n\n</think>\n\nyes"), user("y"), bot("<think>a</think>b<think>c</think>\nd")],
    "reasoning": [
        user("x"), bot("yes", reasoning_content="\nI think\n"), user("y"), bot("no", reasoning="older name"),
        user("z"), bot("", thinking="t"),
    ],
    "null_fields": [
        {"role": "user", "content": "x", "name": None, "tool_calls": None},
        bot("y", tool_calls=None, reasoning_content=None),
    ],
    "content_list": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    "no_content": [{"role": "user"}],
    "tool_call": [
        user("Weather?"), bot("", tool_calls=CALL), result('{"t": 21.5}'), bot("It is 21.5."), user("And tomorrow?"),
    ],
    "tool_call_text": [user("Weather?"), bot("Let me see.", tool_calls=CALL), result("sunny ☀"), user("ok")],
    "tool_calls_two": [
        SYSTEM, user("Weather?"),
        bot("", reasoning_content="two calls", tool_calls=[*CALL, {"name": "noop", "arguments": '{"raw": 1}'}]),
        result("one"), result("two"), bot("done"),
    ],
    "tool_content_none": [user("Weather?"), bot(None, tool_calls=CALL), result("x"), bot("done")],
    "tool_last": [user("Weather?"), bot("", tool_calls=CALL), result("21")],
    "tool_json": [user("Weather?"), bot("", tool_calls=CALL), result({"t": 21.5, "é": [1]})],
    "tool_response_text": [user("<tool_response>\nx\n</tool_response>"), bot("a"), user("<tool_response>y</tool_response>")],
    "ipython": [user("run"), {"role": "ipython", "content": "out"}],
}
OPTIONS = [
    {},
    {"add_generation_prompt": True},
    {"add_generation_prompt": True, "enable_thinking": False},
    {"add_generation_prompt": True, "enable_thinking": True},
    {"tools": "simple", "add_generation_prompt": True},
    {"tools": "nested"},
    {"tools": "unicode", "add_generation_prompt": True, "enable_thinking": False},
    {"tools": "none"},
    {"tools": "nested", "tools_in_user_message": False},
    {"date_string": "1 Jan 2020", "bos_token": "<B>", "documents": [{"title": "t", "text": "x"}]},
]

TEXTS = [
    "", " ", "  ", "Hello world", " Hello", "Hello ", "a\n\nb", "\n", "\t x", "<s>Hello</s> you <s>x", "<s> a", "<s>",
    "<|im_start|>user\nHi<|im_end|>\n", "<|begin_of_text|>Hi<|eot_id|>", "<|begin_of_text|>",
    "<|endoftext|>x<|endoftext|>", "こんにちは 😀", "e\u0301 é ﬁ", "1234567890 12.5%", "don't I'll WE'RE",
    "\u00a0nbsp\u00a0\u00a0x", "▁a ▁", "  three   spaces    here     ", "\r\n\r\n x", "👨\u200d👩\u200d👧\u200d👦",
    "\u0000\u0001\x7f", "</s></s>", "<unk>", "x<unk>y", "code:\n    if x:\n\treturn 1\n", "नमस्ते مرحبا",
    "<think>\n\n</think>\n\n", "<0x0A>", "<tool_call>{}</tool_call>",
]
ALPHABET = "ab cdeXYZ 019.,!?'\"\n\t<>|_/éß你好😀\u0301\u00a0▁"


def fnv1a(text):
    """64-bit FNV-1a of the UTF-8 bytes (http://www.isthe.com/chongo/tech/comp/fnv/)."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def render(directory, tokenizer, chat, options):
    """[length in bytes, hash], or None where the template refuses or fails."""
    options = {"date_string": "26 Jul 2024", **options}
    tools = TOOLS[options.pop("tools")] if "tools" in options else None
    try:
        if tokenizer is not None:
            text = tokenizer.apply_chat_template(chat, tools=tools, tokenize=False, **options)
        else:
            config = json.loads((directory / "tokenizer_config.json").read_text())
            special = {name: config[name] for name in ("bos_token", "eos_token", "pad_token") if config.get(name)}
            chat = [{key: value for key, value in message.items() if value is not None} for message in chat]
            source = (directory / "chat_template.jinja").read_text()
            rendered, _ = render_jinja_template([chat], tools=tools, chat_template=source, **{**special, **options})
            text = rendered[0]
    except (TypeError, jinja2.TemplateError):
        return None
    return [len(text.encode()), fnv1a(text)]


def random_ids(tokenizer, rng, count):
    """Sequences of any tokens, and of tokens that are parts of characters."""
    parts = tokenizer("こんにちは 😀 € the of \u0001 🚀", add_special_tokens=False).input_ids
    parts += [id for token, id in tokenizer.get_vocab().items() if token.startswith("<0x")][:256:16]
    parts = sorted(set(parts)) + tokenizer.all_special_ids
    for number in range(count):
        length = rng.randrange(1, 25)
        yield [rng.choice(parts) if number % 2 else rng.randrange(len(tokenizer)) for _ in range(length)]


def tokenizer_reference(tokenizer, texts, rng):
    encoded = []
    for text in texts:
        ids, bare = tokenizer(text).input_ids, tokenizer(text, add_special_tokens=False).input_ids
        encoded.append([ids] if ids == bare else [ids, bare])
    decoded = [
        [ids, tokenizer.decode(ids), tokenizer.decode(ids, skip_special_tokens=True)]
        for ids in random_ids(tokenizer, rng, 60)
    ]
    return {
        "bos": [tokenizer.bos_token, tokenizer.bos_token_id],
        "eos": [tokenizer.eos_token, tokenizer.eos_token_id],
        "vocab_size": len(tokenizer),
        "encoded": encoded,
        "decoded": decoded,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures/tokenizer/reference.json"))
    args = parser.parse_args()

    rng = random.Random(7)
    texts = TEXTS + ["".join(rng.choice(ALPHABET) for _ in range(rng.randrange(1, 50))) for _ in range(40)]
    loaded = {name: AutoTokenizer.from_pretrained(args.shared / name) for name in TOKENIZERS}
    reference = {
        "versions": {module.__name__: module.__version__ for module in (transformers, tokenizers, jinja2)},
        "texts": texts,
        "tokenizers": {name: tokenizer_reference(tokenizer, texts, rng) for name, tokenizer in loaded.items()},
        "tools": TOOLS,
        "chats": CHATS,
        "options": OPTIONS,
        "rendered": {
            name: {
                chat: [render(args.shared / name, loaded.get(name), messages, options) for options in OPTIONS]
                for chat, messages in CHATS.items()
            }
            for name in TEMPLATES
        },
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(reference, ensure_ascii=False, separators=(",", ":")).replace('],"', '],\n"') + "\n")


if __name__ == "__main__":
    main()
