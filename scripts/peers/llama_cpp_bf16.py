#!/usr/bin/env python3
"""llama.cpp through the C functions that llama-cpp-python passes on: MODEL is a GGUF file, whose tensors say what it computes in. All prompts are one batch."""

import ctypes

import driver

args = driver.arguments()

import llama_cpp as lib  # noqa: E402
import numpy  # noqa: E402

silent = lib.llama_log_callback(lambda _level, _text, _data: None)
lib.llama_log_set(silent, ctypes.c_void_p(0))
lib.llama_backend_init()
in_model = lib.llama_model_default_params()
in_model.n_gpu_layers = 0
model = lib.llama_model_load_from_file(args.model.encode(), in_model)
assert model, f"{args.model} was not loaded"
in_context = lib.llama_context_default_params()
in_context.n_ctx = args.sequences * (args.prompt + args.tokens + 8)
in_context.n_batch = in_context.n_ubatch = max(512, args.sequences * args.prompt)
in_context.n_seq_max = args.sequences
in_context.n_threads = in_context.n_threads_batch = args.threads
context = lib.llama_init_from_model(model, in_context)
assert context, "no context"
vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
batch = lib.llama_batch_init(args.sequences * args.prompt, 0, 1)


def forget():
    lib.llama_memory_clear(lib.llama_get_memory(context), True)


def run(rows, position):
    length = len(rows[0])
    batch.n_tokens = len(rows) * length
    for at in range(batch.n_tokens):
        row, column = divmod(at, length)
        batch.token[at], batch.pos[at] = rows[row][column], position + column
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, row
        batch.logits[at] = column == length - 1
    assert lib.llama_decode(context, batch) == 0, "llama_decode failed"
    logits = (lib.llama_get_logits_ith(context, (row + 1) * length - 1) for row in range(len(rows)))
    return [int(numpy.ctypeslib.as_array(each, shape=(vocabulary,)).argmax()) for each in logits]


driver.drive(args, vocabulary, f"llama-cpp-python {lib.__version__}", run, forget)
