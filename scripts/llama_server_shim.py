#!/usr/bin/env python3
"""llama.cpp's own HTTP tests as a judge of `stairwell serve`.

Their tests start a program with llama-server's flags and talk HTTP to it. This file is that program: it maps the flags that mean something to us, ignores
the others, and becomes `stairwell serve`. With `run`, it runs the tests that are about OpenAI's interface and prints what came of each:

    python3 -m venv target/judges/openai && target/judges/openai/bin/pip install openai pytest requests wget aiohttp numpy filelock httpx
    target/judges/openai/bin/python scripts/llama_server_shim.py run FOLDER        # FOLDER: llama.cpp's tools/server/tests, of your own

Nothing of llama.cpp's is in this repository. The folder is copied, and the copy is changed where a test asks for what is theirs alone; `CHANGES` has each
change with its reason. Their model (stories260K) is not here either: the demo model takes its place, made to never end by itself, since the tests count
tokens.

Last run on 30 November 2026 with the tests of llama-cpp-python 0.3.36's source archive (its vendor/llama.cpp): 52 passed, 0 failed, 538 skipped.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from recording import ROOT, TARGET

# Names that their tests call the model by; theirs answers to any.
NAMES = ["tinyllama-2", "llama-test-model", "codellama70b", "gpt-3.5-turbo", "gpt-3.5-turbo-instruct", "davinci-002"]

# Changes of the copied tests: what, by what, why.
CHANGES = [
    (r"""(["'])/((?:chat/)?completions|models)\1""", r"\1/v1/\2\1", "llama-server has these paths without /v1 too"),
    (r"server\.server_port\}(/v1)?\"\)", r'server.server_port}/v1")', "the same in base URLs"),
    (r'startswith\("b"\)', 'startswith("fp_")', "their fingerprint is their build's number"),
    (r"match_regex\(", "is_text(", "their model's words"),
    (r'(\["prompt_tokens"\]) == n_prompt', r"\1 > 0", "their model's tokens"),
    (r'(delta(?:"\]\["content"\]|\.content)) is None', r"\1 in (None, '')", 'the first delta has content "", as OpenAI\'s and vLLM\'s'),
    (r'"exceed_context_size_error"', '"invalid_request_error"', "their name of OpenAI's context_length_exceeded"),
    (r'\n.*\["n_prompt_tokens"\].*|\n.*error"\]\["n_ctx"\].*', "", "their own fields of an error; our message has the numbers"),
    (r'"system", "content": "Book"\},\n( +)\{"role": "user", "content": "What is the best book"\},\n( +)\] \* 100',
     r'"user", "content": "What is the best book"},\n\1{"role": "assistant", "content": "This one"},\n\2] * 100', "the demo's template takes one system message, the first"),
    (r'"content" in res\.body', '"choices" in res.body', "llama-server's answer to /completions without /v1"),
    (r'\b(\w*res\w*)\.body\["content"\]', r"text_of(\1)", "/completion stands for /v1/completions"),
    (r'"n_predict": ', '"max_tokens": ', "their name of max_tokens"),
    (r'"/completion"', '"/v1/completions"', "their own endpoint, where a test is about what both have"),
    (r'(len\(res\.body\["data"\]\)) == 1', r"\1 > 0", "the shim serves all names that their tests use, since theirs answers to any"),
]

HELPERS = '''
import random

def is_text(pattern, text):
    return isinstance(text, str) and len(text) > 0

def text_of(response):
    """The text of an answer to /v1/completions, or to /detokenize."""
    return response.body["prompt"] if "prompt" in response.body else response.body["choices"][0]["text"]
'''

# Why a test says nothing about us, by the first pattern that fits its file and name.
SKIPS = [
    (r"test_(anthropic|compat_anthropic)", "Anthropic's /v1/messages"),
    (r"test_compat_oai_responses", "/v1/responses: not served"),
    (r"test_compat_gcp|test_vertexai", "Vertex AI's envelope"),
    (r"test_ctx_shift", "context shift and llama-server's `truncated`"),
    (r"test_embedding", "/v1/embeddings: no embedding model"),
    (r"test_rerank", "reranking"),
    (r"test_infill", "/infill"),
    (r"test_ignore_eos", "asks for llama-server's `generation_settings`"),
    (r"test_kv_keep|test_slot_save|test_cache", "slots, and K/V saved to files"),
    (r"test_lora|test_speculative", "adapters and drafts: later steps"),
    (r"test_mcp|test_tools_builtin|test_proxy", "llama-server's own tools, MCP and proxy"),
    (r"test_router|test_stream\.py", "llama-server's router of models"),
    (r"test_sleep", "a server that unloads its model"),
    (r"test_metrics", "metrics under llama-server's names; ours have vLLM's"),
    (r"test_template", "/apply-template, with llama.cpp's template files"),
    (r"test_tool_call", "tools: a later step (a request with tools gets 400)"),
    (r"test_vision|local_media", "images"),
    (r"multiple_addresses", "--host takes one address"),
    (r"server_props|test_server_slots|parallel_slots|cancel_request", "/props and /slots"),
    (r"split_model", "GGUF files"),
    (r"no_ui", "--no-ui: our page is always there"),
    (r"aliases_and_tags", "a model's aliases and tags"),
    (r"static_assets", "the files of llama-server's page"),
    (r"cors_options", "differs by design: no CORS headers unless --cors-origin; theirs echo any origin"),
    (r"cors", "their --cors-origins localhost, in their router"),
    (r"with_pieces|with_bos", "/tokenize: vLLM's shape (`return_token_strs`); the demo has no BOS"),
    (r"chat_template|apply_chat|verbose", "their template names, or the prompt in `__verbose`"),
    (r"cached_tokens", "exact counts of their cache, which keeps single tokens; ours keeps blocks of 16"),
    (r"json_prompt_no_mtmd", "prompts that are objects, for images"),
    (r"invalid_chat_completion_req\[messages7", "llama-server refuses two assistant messages at the end; the template decides here"),
    (r"test_chat_completion\[.*(chatml|This is not).*\]", "their --chat-template"),
    (r"response_format\[response_format[0-3]|json_schema|grammar", "constrained output: a later step (such a request gets 400)"),
    (r"timings|return_progress", "llama-server's timings"),
    (r"token_count", "their /chat/completions/input_tokens; ours is /tokenize"),
    (r"test_completion\.py::test_completion(_stream)?\[", "the body of their /completion: timings, truncated"),
    (r"response_fields|n_probs|prompt_cache", "the body of their /completion"),
    (r"library_stops", "a model of their hub"),
    (r"tokens_input", "texts and token ids mixed in one prompt"),
    (r"stream_vs_non_stream", "the chunks of their /completion"),
    (r"cache_vs_nocache", "skipped by themselves"),
    (r"logit_bias\[(False|True-False)", "a bias by text, or as a list of pairs"),
]


def value(flags, name, default=None):
    """A flag's value."""
    return flags[flags.index(name) + 1] if name in flags else default


def endless_model():
    """The demo model without an end: all outputs have the length that is asked for."""
    folder = TARGET / "judges" / "endless"
    if not folder.exists():
        shutil.copytree(ROOT / "models" / "demo", folder)
        for name in ("config.json", "generation_config.json"):
            settings = json.loads((folder / name).read_text())
            settings["eos_token_id"] = settings.get("vocab_size", 2048) - 1
            (folder / name).write_text(json.dumps(settings))
    return folder


def serve(flags):
    """Becomes `stairwell serve` with the flags that we know."""
    parallel = int(value(flags, "--parallel", 4))
    context = int(value(flags, "--ctx-size", 2048)) // parallel
    command = [os.environ["STAIRWELL"], "serve", "--model", endless_model(), "--max-num-seqs", parallel, "--max-model-len", min(context, 2048)]
    command += ["--served-model-name", ",".join(dict.fromkeys([value(flags, "--alias", NAMES[0]), *NAMES]))]
    for theirs, ours in [("--host", "--host"), ("--port", "--port"), ("--api-key", "--api-key"), ("--batch-size", "--max-batched-tokens")]:
        if theirs in flags:
            command += [ours, value(flags, theirs)]
    os.execv(command[0], [str(part) for part in command])


def adapt(tests):
    """The changes, in a copy."""
    for path in (tests / "unit").glob("test_*.py"):
        text = path.read_text()
        for pattern, by, _ in CHANGES:
            text = re.sub(pattern, by, text)
        path.write_text(text)
    utils = tests / "utils.py"
    # /health says that the process is alive, and /ready that the model is loaded; theirs says both.
    utils.write_text(utils.read_text().replace('"GET", "/health"', '"GET", "/ready"') + HELPERS)
    conftest = tests / "conftest.py"
    # Their fixture downloads all of their models first.
    conftest.write_text(conftest.read_text().replace("ServerPreset.load_all()", "pass"))


def pytest(tests, *args):
    """Lines of a run."""
    environment = os.environ | {"LLAMA_SERVER_BIN_PATH": str(Path(__file__).resolve())}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]
    return subprocess.run(command, cwd=tests, env=environment, stdout=subprocess.PIPE, text=True).stdout.splitlines()


def reason(test):
    """Why it is skipped, or None."""
    return next((why for pattern, why in SKIPS if re.search(pattern, test)), None)


def run(folder):
    """Runs the tests; prints a table."""
    with tempfile.TemporaryDirectory() as scratch:
        tests = shutil.copytree(folder, Path(scratch) / "tests")
        adapt(tests)
        collected = [line for line in pytest(tests, "--collect-only", "-q", "unit") if "::" in line]
        chosen = [test for test in collected if reason(test) is None]
        lines = pytest(tests, "-q", "--tb=short", "--show-capture=no", "--junitxml", str(tests / "results.xml"), *chosen)
        found = {}
        for case in ElementTree.parse(tests / "results.xml").iter("testcase"):
            bad = next((part.tag for part in case if part.tag in ("failure", "error", "skipped")), "passed")
            found[case.get("classname").replace(".", "/") + ".py::" + case.get("name")] = bad
    table = {}
    for test in collected:
        name = re.sub(r"\[.*", "", test.removeprefix("unit/"))
        file = name.split("::")[0]
        why = reason(test)
        row = (file, f"skipped: {why}") if why else (name, found.get(test, "not run"))
        table[row] = table.get(row, 0) + 1
    print("\n".join(lines))
    print("\n| tests of llama.cpp | cases | result |\n|---|---|---|")
    for (name, result), cases in sorted(table.items(), key=lambda row: row[0][1].startswith("skipped:")):
        print(f"| `{name}` | {cases} | {result} |")
    passed = sum(n for (_, result), n in table.items() if result == "passed")
    skipped = sum(n for (_, result), n in table.items() if result.startswith("skipped:"))
    failed = len(collected) - passed - skipped
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0)


if __name__ == "__main__":
    os.environ.setdefault("STAIRWELL", str(TARGET / "release" / "stairwell"))
    run(sys.argv[2]) if sys.argv[1:2] == ["run"] else serve(sys.argv[1:])
