#!/usr/bin/env python3
"""transformers on torch, in bf16: MODEL is a checkpoint's directory. The loop over tokens is written out, so that generate()'s own work is not charged to it."""

import driver

args = driver.arguments()  # sets variables that torch reads when it is imported

import torch  # noqa: E402
import transformers  # noqa: E402

torch.set_num_threads(args.threads)
model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).eval()
cache = None


def forget():
    global cache
    cache = transformers.DynamicCache(config=model.config)


@torch.inference_mode()
def run(rows, _position):
    out = model(input_ids=torch.tensor(rows), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return out.logits[:, -1].argmax(-1).tolist()


forget()
version = f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"
driver.drive(args, model.config.vocab_size, version, run, forget)
