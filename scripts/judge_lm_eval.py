"""lm-eval's `local-completions` as a judge of `stairwell serve`: log-likelihoods over HTTP equal those of transformers.

    python3 -m venv target/judges/lm_eval && target/judges/lm_eval/bin/pip install "lm_eval[api,hf]" torch transformers
    target/judges/lm_eval/bin/python scripts/judge_lm_eval.py [DIRECTORY…]          # default: models/demo

The server gets prompts as token ids and answers `echo`, `logprobs` and `max_tokens: 0` or 1: the hardest use of /v1/completions. Two tasks of our own, written
below: endings to choose from (log-likelihood of an ending), and whole texts (rolling log-likelihood). lm-eval asks both models, the server's and transformers'
own (`hf`, float64, on the CPU), for the same requests.

Last run on 30 November 2026 with lm-eval 0.4.13 and transformers 5.23.0: 25 log-likelihoods each of models/demo and SmolLM2-135M; the largest differences are
9.7e-05 and 3.5e-05. (In float32, lm-eval's `hf` itself is off by 4e-3 on the long text; transformers called directly is not.)
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import lm_eval
import torch
from lm_eval.tasks import TaskManager
from recording import ROOT
from serving import serving

WITHIN = 1e-3

ENDINGS = [
    ("Once upon a time, there was a little girl who had a red", [" ball", " sky", " running", " umbrella"]),
    ("The dog saw a cat and began to", [" bark.", " sing a song about bread.", " the.", " run after it as fast as it could."]),
    ("Mum said: «It is late. You must go to", [" bed", " bed now", " the moon", " Überlingen 🐈"]),
    ("Tom was sad because his", [" toy was broken", " friend had gone away", " two plus two", "\n\n"]),
    ("The sun was", [" warm", " a", " cold and he didn't like it at all, so he went home to his mother."]),
    ("A", [" cat", "b", " boy and his dog went for a walk in the park. They saw a big tree."]),
]
TEXTS = [
    "Once upon a time, there was a small boy. He liked to walk in the garden and look at the flowers.",
    "Ünïcödé, 日本語 and 🐈‍⬛ are tokens of single bytes.",
    "One day, a bird came to the window. " * 40,
]

CHOOSE = """
task: choose
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/endings.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{begin}}"
doc_to_choice: "{{ends}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc}]
"""
ROLL = """
task: roll
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/texts.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: byte_perplexity}]
"""


def write_tasks(folder):
    """The tasks' files."""
    dumped = lambda rows: "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "endings.jsonl").write_text(dumped({"begin": begin, "ends": ends} for begin, ends in ENDINGS))
    (folder / "texts.jsonl").write_text(dumped({"text": text} for text in TEXTS))
    for name, text in [("choose", CHOOSE), ("roll", ROLL)]:
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))


def likelihoods(model, arguments, manager):
    """Each request's log-likelihood, by task, document and number; and whether it is the greedy choice."""
    result = lm_eval.simple_evaluate(
        model, model_args=arguments, tasks=["choose", "roll"], task_manager=manager, num_fewshot=0, log_samples=True, bootstrap_iters=0
    )
    found = {}
    for task, samples in result["samples"].items():
        for sample in samples:
            for i, response in enumerate(sample["resps"]):
                likelihood = response[0]  # of a whole text it is a number alone
                found[task, sample["doc_id"], i] = tuple(likelihood) if isinstance(likelihood, (list, tuple)) else (likelihood, None)
    return found


def judge(directory, manager):
    """Compares one model; returns how many requests and the largest difference."""
    with serving("--model", directory, "--dtype", "f32") as server:
        arguments = {
            "model": Path(directory).resolve().name,
            "base_url": server.url + "/v1/completions",
            "tokenizer": str(directory),
            "tokenizer_backend": "huggingface",
            "num_concurrent": 4,
            "max_length": 512,
        }
        ours = likelihoods("local-completions", arguments, manager)
    theirs = likelihoods("hf", {"pretrained": str(directory), "dtype": "float64", "device": "cpu", "max_length": 512}, manager)
    assert ours.keys() == theirs.keys() and len(ours) == sum(len(ends) for _, ends in ENDINGS) + len(TEXTS), (len(ours), len(theirs))
    worst = 0.0
    for request, (likelihood, greedy) in theirs.items():
        difference = abs(ours[request][0] - likelihood)
        assert difference <= WITHIN and ours[request][1] == greedy, (request, ours[request], likelihood, greedy)
        worst = max(worst, difference)
    return len(ours), worst


def main():
    torch.set_num_threads(1)
    directories = sys.argv[1:] or [ROOT / "models" / "demo"]
    with tempfile.TemporaryDirectory() as folder:
        write_tasks(Path(folder))
        manager = TaskManager(include_path=folder, include_defaults=False)
        for directory in directories:
            requests, worst = judge(directory, manager)
            print(f"lm-eval {lm_eval.__version__}, {Path(directory).resolve().name}: {requests} log-likelihoods, the largest difference is {worst:.1e}")


if __name__ == "__main__":
    main()
