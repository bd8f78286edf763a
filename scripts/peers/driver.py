"""What the drivers of the Python peers share: their arguments, the ids of the prompts, the clock, and the line of JSON that they print.

A driver makes a function `run(rows, position)`: it computes tokens for some sequences, `rows` of the same length from `position` on, and gives the likeliest
next token of each. `forget()` empties the KV cache.
"""

import argparse
import json
import os
import sys
import time


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--sequences", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=128, help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=0, help="tokens after the first one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--first", action="store_true", help="stop at the first token, without warming up")
    args = parser.parse_args()
    for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS"]:
        os.environ[name] = str(args.threads)
    return args


def prompts(args, vocabulary):
    """Ids that differ within a prompt and between prompts."""
    return [[(7919 * (s * args.prompt + t) + 13) % vocabulary for t in range(args.prompt)] for s in range(args.sequences)]


def timed(run, rows, count):
    """Seconds until the first token, and on average from each to the next."""
    start = time.perf_counter()
    tokens = run(rows, 0)
    first = time.perf_counter()
    for at in range(count):
        tokens = run([[token] for token in tokens], len(rows[0]) + at)
    return first - start, (time.perf_counter() - first) / count if count else None


def drive(args, vocabulary, version, run, forget):
    """Warms up with all of the prompt and two tokens, measures, prints, and ends the process without waiting for destructors."""
    rows = prompts(args, vocabulary)
    if not args.first:
        timed(run, rows, min(args.tokens, 2))
        forget()
    first, step = timed(run, rows, args.tokens)
    print(json.dumps({"version": version, "prefill_seconds": first, "step_seconds": step}), flush=True)
    sys.stderr.flush()
    os._exit(0)
