#!/usr/bin/env python3
"""Write tests/fixtures/gguf_blocks.safetensors: random blocks of every GGUF block type, and the numbers that gguf-py makes of them.

    pip install gguf numpy safetensors
    python scripts/make_gguf_vectors.py

The bytes are random from a fixed seed, except that each block's own scales are ordinary f16 numbers. So every code, scale and min occurs. The
file has two tensors for a type: `Q4_K.bytes`, U8, and `Q4_K.numbers`, F32.
"""

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import save_file

# Where the f16 scales of a block begin.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
    "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
}  # fmt: skip
OUT = "tests/fixtures/gguf_blocks.safetensors"


def main():
    random = np.random.default_rng(9)
    tensors = {}
    for name, places in SCALES.items():
        kind = GGMLQuantizationType[name]
        numbers, size = GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (512 // numbers, size), dtype=np.uint8)
        for place in places:
            scales = random.normal(0, 0.05, len(blocks)).astype(np.float16)
            blocks[:, place : place + 2] = scales[:, None].view(np.uint8)
        tensors[f"{name}.bytes"] = blocks.reshape(-1)
        tensors[f"{name}.numbers"] = dequantize(blocks, kind).astype(np.float32).reshape(-1)
    save_file(tensors, OUT)
    print(f"{OUT}: {len(SCALES)} types")


if __name__ == "__main__":
    main()
