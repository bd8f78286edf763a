"""Measures the exported demo model and writes its model card: losses, right answers, copied spans, samples.

Run by `train_demo_model.py`, after training or alone with `--measure`.
"""

import json
import random

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo_rows import CONTEXT, ROW, Documents, loss_of
from demo_stories import END, IM_END, IM_START, document, story

FOX = [{"role": "user", "content": "Tell me a story about a fox and a lost key."}]
PROMPTS = ["Once upon a time", "One day", "In a small village", FOX]


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
    rows = Documents(demo.bpe, split).batch(64, ROW)
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
| context | {config.max_position_embeddings} tokens; trained on rows of {ROW} and, every twentieth step, {CONTEXT} |
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
{training["seed"]}; {training["minutes"]} minutes on {training["threads"]} thread of a two-core machine (AMD EPYC).

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
