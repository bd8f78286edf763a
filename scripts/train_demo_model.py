#!/usr/bin/env python3
"""Trains the demo checkpoint in models/demo: a real Qwen3 model, small enough to ship with the crate.

    pip install -r scripts/requirements-train.txt
    python scripts/train_demo_model.py              # tokenizer, training, export, figures, model card
    python scripts/train_demo_model.py --measure    # only the figures and the model card, from the exported model

The text comes from the generator in the package demo_stories beside this script, and nothing else. Every training document is seen
once. Documents of the split "train" are trained on; those of "unseen" have other seeds and are only measured.
"""

import argparse
import csv
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen3Config, Qwen3ForCausalLM

from demo_rows import CONTEXT, ROW, Documents, loss_of
from demo_stories import END, IM_END, IM_START, story
from measure_demo_model import measure

DEMO = Path(__file__).resolve().parent.parent / "models" / "demo"
SPECIAL = [END, IM_START, IM_END]
# The shapes that training batches take in turn: (rows, tokens in a row). Small, since the number of steps is what counts.
BATCH = [(3, ROW)] * 19 + [(1, CONTEXT)]
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 32
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# ---- tokenizer -------------------------------------------------------------------------------------------------------
def train_tokenizer(vocab_size):
    """A byte-level BPE tokenizer. Its alphabet is all 256 bytes, so that any text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = (story("train", i).text() + "\n\n".join(f"{f.question} {f.answer}" for f in story("train", i).facts) for i in range(6000))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer, out):
    """Writes tokenizer.json and tokenizer_config.json, with the chat template that `demo_stories.render` follows."""
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "bos_token": None,
        "eos_token": END,
        "pad_token": END,
        "unk_token": None,
        "additional_special_tokens": [IM_START, IM_END],
        "chat_template": CHAT_TEMPLATE,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


# ---- training --------------------------------------------------------------------------------------------------------
def new_model(args, vocab_size):
    """The model with its starting weights.

    Each head starts as a copier: its output matrix is the transpose of its value matrix, so what it attends to is what it
    says. A story's names must be copied from where they stood before. With random heads this takes a small model very long
    to find: in a trial with 20 names, after 1,200 steps, a name that was there before cost 3.4 nats, and 2.0 with copiers.
    """
    config = Qwen3Config(
        vocab_size=vocab_size, hidden_size=args.hidden, num_hidden_layers=args.layers, intermediate_size=args.intermediate,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM, max_position_embeddings=CONTEXT,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=0, pad_token_id=0, use_cache=True, initializer_range=0.05,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.1)
        for layer in model.model.layers:
            values = layer.self_attn.v_proj.weight
            torch.nn.init.normal_(values, std=args.hidden**-0.5)
            of_head = [values[HEAD_DIM * (h * KV_HEADS // HEADS) :][:HEAD_DIM] for h in range(HEADS)]
            layer.self_attn.o_proj.weight.copy_(0.5 * torch.cat([v.T for v in of_head], dim=1))
    return model


def new_optimizer(args, model):
    """AdamW, with weight decay on the matrices alone."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))


def schedule(step, progress):
    """The share of the peak learning rate: a warm-up over 200 steps, and a cosine from 1 to 0.02 as progress goes to 1."""
    return min(1, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def update(model, optimizer, ids, learning_rate):
    """One step on a batch. Returns the batch's loss."""
    loss = loss_of(model, ids)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def train(args, tokenizer, out):
    """Trains for args.steps steps. Exports every 1000 steps, so that an early stop leaves a usable model."""
    torch.manual_seed(args.seed)
    model = new_model(args, tokenizer.get_vocab_size())
    optimizer = new_optimizer(args, model)
    unseen = Documents(tokenizer, "unseen").batch(12, ROW)
    documents, curve, losses, tokens, start = Documents(tokenizer, "train"), [], [], 0, time.time()
    for step in range(args.steps):
        minutes = (time.time() - start) / 60
        progress = max(step / args.steps, minutes / args.minutes)
        last = step + 1 == args.steps or progress >= 1
        batch = documents.batch(*BATCH[step % len(BATCH)])
        losses.append(update(model, optimizer, batch, args.lr * schedule(step, min(progress, 1))))
        tokens += batch.numel()
        if (step + 1) % 100 == 0 or last:
            with torch.no_grad():
                held_out = loss_of(model, unseen).item()
            curve.append((step + 1, tokens, round(float(np.mean(losses[-100:])), 4), round(held_out, 4)))
            print(f"step {step + 1}/{args.steps}  train {curve[-1][2]:.4f}  unseen {held_out:.4f}  {minutes:.1f} min", flush=True)
        if (step + 1) % 1000 == 0 or last:
            facts = {"steps": step + 1, "documents": documents.next, "tokens": tokens, "minutes": round(minutes, 1)}
            (out / "training.json").write_text(json.dumps(facts | {"seed": args.seed, "threads": args.threads}) + "\n")
            export(model, tokenizer, curve, out)
        if last:
            return


# ---- export ----------------------------------------------------------------------------------------------------------
def export(model, tokenizer, curve, out):
    """Writes the checkpoint as bf16 shards with an index, its configs, its tokenizer and the loss curve."""
    half = Qwen3ForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.to(torch.bfloat16).save_pretrained(out, max_shard_size="2MB")
    generation = {
        "eos_token_id": [tokenizer.token_to_id(END), tokenizer.token_to_id(IM_END)],
        "pad_token_id": tokenizer.token_to_id(END),
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 40,
        "top_p": 0.95,
    }
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    save_tokenizer(tokenizer, out)
    with open(out / "loss.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("step", "tokens", "train", "unseen"), *curve])
    draw(curve, out / "loss.svg")


def draw(curve, path):
    """The two loss curves as a small SVG with a logarithmic loss axis."""
    width, height, left, top = 640, 320, 50, 20
    steps, low, high = curve[-1][0], 0.25, 8.0

    def point(step, loss):
        x = left + (width - left - 20) * step / steps
        return f"{x:.1f},{top + (height - top - 40) * math.log(high / min(max(loss, low), high)) / math.log(high / low):.1f}"

    def line(column, color, dash):
        points = " ".join(point(row[0], row[column]) for row in curve)
        return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"{dash}/>'

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">']
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for value in (0.25, 0.5, 1, 2, 4, 8):
        x, y = point(0, value).split(",")
        parts.append(f'<path d="M{x} {y}H{width - 20}" stroke="#ddd"/><text x="8" y="{float(y) + 4}">{value}</text>')
    parts += [line(2, "#1f77b4", ""), line(3, "#d62728", ' stroke-dasharray="5 3"')]
    parts.append(f'<text x="{left}" y="{height - 12}">step 0</text><text x="{width - 90}" y="{height - 12}">step {steps}</text>')
    parts.append(f'<text x="{width - 300}" y="40" fill="#1f77b4">training text, mean of 100 steps</text>')
    parts.append(f'<text x="{width - 300}" y="58" fill="#d62728">unseen seeds (nats per token)</text></svg>')
    path.write_text("\n".join(parts) + "\n")


# ---- command line ----------------------------------------------------------------------------------------------------
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEMO, help="where the checkpoint goes (default: models/demo)")
    parser.add_argument("--measure", action="store_true", help="do not train; measure the checkpoint in --out and write its card")
    parser.add_argument("--steps", type=int, default=13000)
    parser.add_argument("--minutes", type=float, default=90, help="shorten the schedule if the steps take longer than this")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=1, help="seed of the weights; the text has its own seeds")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for torch")
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--intermediate", type=int, default=384)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # attention's smallest weights are denormal floats, which are many times slower
    if not args.measure:
        args.out.mkdir(parents=True, exist_ok=True)
        train(args, train_tokenizer(args.vocab), args.out)
    measure(args.out)


if __name__ == "__main__":
    main()
