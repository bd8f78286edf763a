#!/usr/bin/env python3
"""torch's attention on gathered K and V at the shapes of benches/step5.rs and benches/kernels.rs, on a GPU: what the best versions of ours are
compared with.

    python scripts/torch_sdpa.py     # called by scripts/on_gpu.sh where torch with CUDA is installed

K and V lie contiguous, one copy for each head of K and V: gathering them from blocks is not in the time. Prints µs, and the bytes of K and V ÷
time in GB/s for rows that decode, TFLOP/s for prompts; medians over 9 rounds of 20. It has not run on a GPU yet.
"""

import statistics
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

DECODES = [(64, 4096), (1, 16384)]  # sequences, tokens
PROMPTS = [(4, 4096, 128), (2, 8192, 128), (1, 16384, 128), (4, 4096, 64)]  # sequences, tokens, head_dim
HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128


def seconds(run):
    rounds = []
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(20):
            run()
        torch.cuda.synchronize()
        rounds.append((time.perf_counter() - start) / 20)
    return statistics.median(rounds[1:])


BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attention(sequences, tokens, queries, head_dim, causal):
    """Each backend's name and seconds; None if it refuses, with the reason printed."""
    make = lambda heads, length: torch.randn(sequences, heads, length, head_dim, device="cuda", dtype=torch.bfloat16)  # noqa: E731
    q, k, v = make(HEADS, queries), make(KV_HEADS, tokens), make(KV_HEADS, tokens)
    for backend in BACKENDS:
        if causal and backend == SDPBackend.MATH:
            continue  # the square of scores
        try:
            with sdpa_kernel(backend):
                run = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)  # noqa: E731
                yield backend.name, seconds(run)
        except RuntimeError as error:
            print(f"{sequences} x {tokens}, {backend.name}: {str(error).splitlines()[0]}")


def main():
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name()}")
    for sequences, tokens in DECODES:
        for name, taken in attention(sequences, tokens, 1, HEAD_DIM, False):
            moved = 2 * 2 * sequences * tokens * KV_HEADS * HEAD_DIM
            print(f"{sequences} x {tokens}, {name}: {1e6 * taken:.1f} µs, {moved / taken / 1e9:.0f} GB/s")
    for sequences, tokens, head_dim in PROMPTS:
        for name, taken in attention(sequences, tokens, tokens, head_dim, True):
            operations = 4 * sequences * HEADS * tokens * (tokens + 1) / 2 * head_dim
            print(f"{sequences} x {tokens} prompt, head_dim {head_dim}, {name}: {1e6 * taken:.1f} µs, {operations / taken / 1e12:.0f} TFLOP/s")


if __name__ == "__main__":
    main()
