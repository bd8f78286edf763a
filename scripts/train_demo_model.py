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
import random
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from demo_stories import END, IM_END, IM_START, document, story

DEMO = Path(__file__).resolve().parent.parent / "models" / "demo"
SPECIAL = [END, IM_START, IM_END]
CONTEXT = 2048  # positions the model is trained for
ROW = 512  # tokens in an ordinary training row; every tenth batch has rows of CONTEXT tokens instead
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
class Documents:
    """Token ids of a split's documents, made as they are asked for, in order."""

    def __init__(self, tokenizer, split):
        self.tokenizer, self.split, self.next = tokenizer, split, 0

    def row(self, length):
        """The next `length` tokens. A row begins with a new document; the last document is cut at the row's end."""
        ids = []
        while len(ids) < length:
            ids += self.tokenizer.encode(document(self.split, self.next)).ids
            self.next += 1
        return ids[:length]

    def batch(self, tokens, length):
        """[tokens / length, length] token ids."""
        return torch.tensor([self.row(length) for _ in range(tokens // length)])


def new_model(args, vocab_size):
    """The model with random weights. 160 / 4 heads is not 32: head_dim is a number of its own, as in real Qwen3."""
    config = Qwen3Config(
        vocab_size=vocab_size, hidden_size=args.hidden, num_hidden_layers=args.layers, intermediate_size=args.intermediate,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=0, pad_token_id=0, use_cache=True,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


def loss_of(model, ids):
    """Mean cross-entropy in nats of each token given those before it in its row; every token counts, prompts too."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))


def learning_rate(step, progress, args):
    """Linear warm-up over 100 steps, and a cosine down to a fiftieth as progress goes from 0 to 1."""
    return args.lr * min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(args, tokenizer, out):
    """Trains for args.steps steps. Exports every 200 steps, so that an early stop leaves a usable model."""
    torch.manual_seed(args.seed)
    model = new_model(args, tokenizer.get_vocab_size())
    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}], lr=args.lr, betas=(0.9, 0.97)
    )
    documents, curve, recent, start = Documents(tokenizer, "train"), [], [], time.time()
    unseen = Documents(tokenizer, "unseen").batch(8 * ROW, ROW)
    for step in range(args.steps):
        progress = max(step / args.steps, (time.time() - start) / 60 / args.minutes)
        last = step + 1 == args.steps or progress >= 1
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, min(progress, 1), args)
        loss = loss_of(model, documents.batch(args.batch, CONTEXT if step % 10 == 9 else ROW))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent.append(loss.item())
        if (step + 1) % 50 == 0 or last:
            with torch.no_grad():
                held_out = loss_of(model, unseen).item()
            curve.append((step + 1, (step + 1) * args.batch, round(sum(recent) / len(recent), 4), round(held_out, 4)))
            recent, minutes = [], (time.time() - start) / 60
            print(f"step {step + 1}/{args.steps}  train {curve[-1][2]:.4f}  unseen {held_out:.4f}  {minutes:.1f} min", flush=True)
        if (step + 1) % 200 == 0 or last:
            facts = {"steps": step + 1, "documents": documents.next, "tokens": curve[-1][1], "minutes": round(minutes, 1)}
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
    parts.append(f'<text x="{width - 300}" y="40" fill="#1f77b4">training text, mean of 50 steps</text>')
    parts.append(f'<text x="{width - 300}" y="58" fill="#d62728">unseen seeds (nats per token)</text></svg>')
    path.write_text("\n".join(parts) + "\n")


# ---- measure ---------------------------------------------------------------------------------------------------------
class Demo:
    """The exported checkpoint, loaded as anyone would load it, computing in f32."""

    def __init__(self, path):
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.bpe = Tokenizer.from_file(str(path / "tokenizer.json"))
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    def write(self, prompt, copies=1, **how):
        """Continuations of a text, or answers to a list of messages, as lists of token ids; up to 200 tokens each."""
        if isinstance(prompt, list):
            prompt = self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            out = self.model.generate(**ids, max_new_tokens=200, num_return_sequences=copies, **how)
        return [row[ids["input_ids"].shape[1] :].tolist() for row in out]

    def text(self, ids):
        """The ids as text, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()


def split_loss(demo, split):
    """Loss of the exported model on 64 rows of a split, nats per token."""
    rows = Documents(demo.bpe, split).batch(64 * ROW, ROW)
    with torch.no_grad():
        return float(np.mean([loss_of(demo.model, rows[i : i + 8]).item() for i in range(0, 64, 8)]))


def right_answers(demo, stories=50):
    """Right answers, greedy, to three questions each about unseen stories: (right, asked, wrong ones as text)."""
    right, wrong = 0, []
    for index in range(1_000_000, 1_000_000 + stories):
        world = story("unseen", index)
        for fact in random.Random(index).sample(world.facts, 3):
            answer = demo.text(demo.write([{"role": "user", "content": f"{world.text()}\n\n{fact.question}"}], do_sample=False)[0])
            if all(key in answer.lower() for key in fact.keys):
                right += 1
            else:
                wrong.append(f"{fact.question} -> {answer} (expected: {fact.answer})")
    return right, 3 * stories, wrong


def copied_spans(samples, corpus):
    """For each sample, the longest run of its tokens that occurs in the corpus: [(start, length)].

    Windows of n tokens are compared by a 64-bit rolling hash, for n = 1, 2, ... until no sample has a copied window. A
    collision could only make a span look longer than it is.
    """
    rng = np.random.default_rng(0)
    value = rng.integers(1, 2**63, size=int(corpus.max()) + 1, dtype=np.uint64)
    base = np.uint64(0x9E3779B97F4A7C15)
    rows = [np.asarray(s, dtype=np.int64) for s in samples]
    seen, mine = value[corpus], [value[r] for r in rows]
    spans, n = [(0, 0)] * len(rows), 1
    while True:
        wanted = np.unique(np.concatenate(mine))
        at = np.minimum(np.searchsorted(wanted, seen), len(wanted) - 1)
        present = np.unique(seen[wanted[at] == seen])
        hits = [np.flatnonzero(np.isin(m, present)) for m in mine]
        if not any(len(h) for h in hits):
            return spans
        spans = [(int(h[0]), n) if len(h) else s for h, s in zip(hits, spans)]
        seen = seen[:-1] * base + value[corpus[n:]]
        mine = [m[:-1] * base + value[r[n:]] if len(m) > 1 else m[:0] for m, r in zip(mine, rows)]
        n += 1


def training_tokens(bpe, documents):
    """All the text that the model was trained on, made again from its seeds."""
    return np.concatenate([np.asarray(bpe.encode(document("train", i)).ids, dtype=np.int32) for i in range(documents)])


FOX = [{"role": "user", "content": "Tell me a story about a fox and a lost key."}]
PROMPTS = ["Once upon a time", "One day", "In a small village", FOX]


def measure(out):
    """Prints the figures and writes the model card from what the exported model does."""
    demo, training = Demo(out), json.loads((out / "training.json").read_text())
    figures = {"training": training, "loss_train": split_loss(demo, "train"), "loss_unseen": split_loss(demo, "unseen")}
    figures["right"], figures["asked"], wrong = right_answers(demo)
    print("\n".join(wrong), flush=True)

    shown = [(p, "greedy", demo.text(demo.write(p, do_sample=False)[0])) for p in PROMPTS]
    torch.manual_seed(0)
    written = [(p, ids) for p in PROMPTS for ids in demo.write(p, copies=25, do_sample=True)]
    shown += [(p, "sampled", demo.text(ids)) for p, ids in written[0:2] + written[25:26] + written[50:51] + written[75:77]]

    special = demo.tokenizer.all_special_ids
    samples = []
    for prompt, ids in written:
        opening = [] if isinstance(prompt, list) else demo.tokenizer(prompt)["input_ids"]
        samples.append(opening + [i for i in ids if i not in special])
    spans = copied_spans(samples, training_tokens(demo.bpe, training["documents"]))
    longest = max(range(len(spans)), key=lambda i: spans[i][1])
    start, length = spans[longest]
    copied = demo.text(samples[longest][start : start + length])
    figures["copied"] = {
        "samples": len(samples),
        "mean_sample_tokens": round(float(np.mean([len(s) for s in samples])), 1),
        "longest_tokens": length,
        "longest_words": len(copied.split()),
        "median_tokens": float(np.median([n for _, n in spans])),
        "longest_text": copied,
        "whole_samples": sum(n == len(s) for (_, n), s in zip(spans, samples)),
    }
    (out / "README.md").write_text(card(demo, figures, shown, out))
    print(json.dumps(figures, indent=2))


def card(demo, figures, shown, out):
    """The model card."""
    config, training, copied = demo.model.config, figures["training"], figures["copied"]
    parameters = sum(p.numel() for p in demo.model.parameters())
    size = sum(f.stat().st_size for f in out.iterdir() if f.name != "README.md") / 1e6

    def sample(prompt, how, text):
        if isinstance(prompt, list):
            return f"**{how}, chat:** *{prompt[-1]['content']}*\n\n" + quote(text)
        return f"**{how}:** *{prompt}* ...\n\n" + quote(f"{prompt} {text}" if text[:1] not in ",.!?" else prompt + text)

    def quote(text):
        return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))

    samples = "\n\n".join(sample(*s) for s in shown)
    return f"""# Demo model

A very small Qwen3 model that writes little stories and answers simple questions about them. It ships with stairwell so
that everything runs with nothing to download. It knows a toy world of its own and nothing else: do not ask it for facts.

## Shape

| | |
|---|---|
| architecture | `Qwen3ForCausalLM`: RMSNorm, rotary positions, q/k norm, SwiGLU, tied embeddings |
| parameters | {parameters:,}, stored as bf16 in {len(list(out.glob("*.safetensors")))} shards ({size:.1f} MB with everything) |
| layers, hidden, intermediate | {config.num_hidden_layers}, {config.hidden_size}, {config.intermediate_size} |
| heads | {config.num_attention_heads} query heads, {config.num_key_value_heads} key/value heads, `head_dim` {config.head_dim} |
| context | {config.max_position_embeddings} tokens; trained on rows of {ROW} and, every tenth step, {CONTEXT} |
| tokenizer | byte-level BPE, {config.vocab_size} tokens, all 256 bytes among them, so any text round-trips |
| end tokens | `{END}` closes a document, `{IM_END}` a chat message |

A bare prompt is continued as a story; no token goes before it. The chat template puts each message between `{IM_START}role`
and `{IM_END}`, with the roles system, user and assistant.

## How it was made

    pip install -r scripts/requirements-train.txt
    python scripts/train_demo_model.py

All text comes from a generator, `scripts/demo_stories`: a small world with characters, things, places, wishes, causes and
endings, and a grammar that says each step in many ways. There is no outside text. Six documents in ten are
bare stories. The others are conversations: a wish and a story, or a story and questions about it.

{training["tokens"]:,} tokens in {training["documents"]:,} documents, each seen once; {training["steps"]} steps of AdamW with a cosine schedule, seed
{training["seed"]}; {training["minutes"]} minutes with {training["threads"]} threads on two CPU cores that other work shared.

![loss](loss.svg)

Loss of the exported bf16 model in nats per token, on 64 rows of {ROW} tokens: **{figures["loss_train"]:.3f}** on training text,
**{figures["loss_unseen"]:.3f}** on text of unseen seeds. The curves are in `loss.csv`.

## What it can do, measured

`python scripts/train_demo_model.py --measure` computes these figures and writes this card.

- **Questions.** Greedy answers to {figures["asked"]} questions about {figures["asked"] // 3} unseen stories: {figures["right"]} right ({100 * figures["right"] / figures["asked"]:.0f} %). An answer is right
  if it has the words that matter, such as the helper's name.
- **Copying.** In {copied["samples"]} sampled texts (mean length {copied["mean_sample_tokens"]:.0f} tokens), the longest span that also stands in the training text has
  {copied["longest_tokens"]} tokens, {copied["longest_words"]} words; the median over the samples of the longest span is {copied["median_tokens"]:.0f} tokens. {copied["whole_samples"]} of the samples stand there whole.
  All {training["documents"]:,} training documents are compared, token by token. The longest span:

{quote(copied["longest_text"])}

## Samples

The prompt is in italics. Sampled with the values of `generation_config.json`. Not chosen: the first ones that the script wrote.

{samples}

## License

MIT OR Apache-2.0, as the rest of the repository.
"""


# ---- command line ----------------------------------------------------------------------------------------------------
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEMO, help="where the checkpoint goes (default: models/demo)")
    parser.add_argument("--measure", action="store_true", help="do not train; measure the checkpoint in --out and write its card")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--minutes", type=float, default=90, help="shorten the schedule if the steps take longer than this")
    parser.add_argument("--batch", type=int, default=8 * ROW, help="tokens in a step, a multiple of 2048")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=1, help="seed of the weights; the text has its own seeds")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads for torch")
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=160)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--intermediate", type=int, default=480)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # attention's smallest weights are denormal floats, which are many times slower
    if not args.measure:
        args.out.mkdir(parents=True, exist_ok=True)
        train(args, train_tokenizer(args.vocab), args.out)
    measure(args.out)


if __name__ == "__main__":
    main()
