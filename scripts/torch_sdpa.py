#!/usr/bin/env python3
"""torch's attention on gathered K and V at the shapes of benches/step5.rs, on a GPU: what the best version of ours is compared with.

    python scripts/torch_sdpa.py     # called by scripts/on_gpu.sh where torch with CUDA is installed

K and V lie contiguous, one copy for each head of K and V: gathering them from blocks is not in the time. Prints µs, and the bytes of K and V ÷
time in GB/s, medians over 9 rounds of 20. It has not run on a GPU yet.
"""

import statistics
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SHAPES = [(64, 4096), (1, 16384)]  # sequences, tokens
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


def main():
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name()}")
    for sequences, tokens in SHAPES:
        make = lambda heads, length: torch.randn(sequences, heads, length, HEAD_DIM, device="cuda", dtype=torch.bfloat16)  # noqa: E731
        q, k, v = make(HEADS, 1), make(KV_HEADS, tokens), make(KV_HEADS, tokens)
        for backend in [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]:
            try:
                with sdpa_kernel(backend):
                    taken = seconds(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True))
            except RuntimeError as error:
                print(f"{sequences} x {tokens}, {backend.name}: {str(error).splitlines()[0]}")
                continue
            speed = 2 * 2 * k.numel() / taken
            print(f"{sequences} x {tokens}, {backend.name}: {1e6 * taken:.1f} µs, {speed / 1e9:.0f} GB/s")


if __name__ == "__main__":
    main()
