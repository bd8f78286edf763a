#!/usr/bin/env python3
"""How far transformers is from double precision when it computes in bf16 and in f16, on the fixtures: tests/fixtures/sixteen_bits.json.

    python scripts/measure_sixteen_bits.py           # writes it; needs scripts/requirements.txt

The engine's runs in these dtypes may err twice as much (tests/suite/cpu_dtypes.rs). All positions of a fixture's prompt are computed in one forward
pass, so nobody's error leads to other tokens.
"""

import json

import torch
import transformers
from dump_hf_reference import reference
from make_fixtures import ROOT
from safetensors.torch import load_file

DTYPES = {"bf16": "bfloat16", "f16": "float16"}


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    errors = {}
    for folder in sorted(path.parent for path in ROOT.glob("*/reference.safetensors")):
        exact = load_file(folder / "reference.safetensors")
        for name, dtype in DTYPES.items():
            tensors, _ = reference(folder, exact["prompt_ids"].tolist(), dtype=dtype, modules=False)
            distance = (tensors["logits"].double() - exact["logits"].double()).abs()
            errors.setdefault(folder.name, {})[name] = {
                "rms": float(f"{distance.square().mean().sqrt().item():.4g}"),
                "largest": float(f"{distance.max().item():.4g}"),
            }
    versions = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
    path = ROOT / "sixteen_bits.json"
    path.write_text(json.dumps({**versions, "errors": errors}, indent=1) + "\n", encoding="utf-8")
    print(f"{path.name}: {len(errors)} fixtures")


if __name__ == "__main__":
    main()
