#!/usr/bin/env python3
"""Make tests/fixtures/massive: a tiny Llama with massive activations, and what transformers computes for it.

    python scripts/make_massive_fixture.py

Trained models often carry one value of thousands in the residual stream of their first token, and cancel it near the end
(SmolLM2-135M: 24,926 in column 507; Sun et al., "Massive Activations in Large Language Models", arXiv:2402.17762). Random weights
have none, so this script plants one by hand: in layer 0 a neuron of the MLP sees BOS and writes 20,000 into column 7, and in layer 2
another sees that value and takes all but about 30 away. What f32 rounded off 20,000 stays, and is large beside 30.

`stairwell verify` must call this checkpoint right, and must still name a fault at its first module: tests/suite/verify.rs. The reference
is named verify.safetensors, since the tolerances of the tests that read every fixture's reference.safetensors are for values that are
never larger than 100. The same command gives the same weights; on another CPU the last bits of the reference may differ.
"""

import shutil
import tempfile
from pathlib import Path

import make_fixtures as fixtures
import torch
import transformers

import dump_hf_reference as dump

BOS_COLUMN, MASSIVE_COLUMN = 3, 7
MASSIVE, LEFT = 20000.0, 30.0
GRID = 2**-12  # weights that are computed here are rounded to it, so that they are the same on every machine
CONFIG = fixtures.decoder(
    "llama", hidden=24, inter=20, heads=4, kv_heads=2, vocab=96, rms_norm_eps=1e-5, max_position_embeddings=64,
    tie_word_embeddings=True, torch_dtype="float32", rope_theta=10000.0,
) | {"num_hidden_layers": 4}  # fmt: skip
PROMPT = [fixtures.BOS, 17, 40, 5, 88, 23, 61, 9, 34]


def plant(weights, layer, gate, up, down):
    """Neuron 0 of a layer's MLP: silu(gate · x) · (up · x) · down into the massive column; gate and up are {column: weight}."""
    mlp = f"model.layers.{layer}.mlp"
    for name, row in (("gate_proj", gate), ("up_proj", up)):
        weights[f"{mlp}.{name}.weight"][0] = 0
        for column, value in row.items():
            weights[f"{mlp}.{name}.weight"][0, column] = value
    # No other neuron writes into that column, and this one writes nowhere else.
    weights[f"{mlp}.down_proj.weight"][:, 0] = 0
    weights[f"{mlp}.down_proj.weight"][MASSIVE_COLUMN] = 0
    weights[f"{mlp}.down_proj.weight"][MASSIVE_COLUMN, 0] = down


def outputs(weights):
    """Every module's output in double precision."""
    with tempfile.TemporaryDirectory() as folder:
        fixtures.write_json(Path(folder) / "config.json", CONFIG)
        fixtures.write_weights(Path(folder), weights, 1)
        return dump.reference(folder, PROMPT, double=True)[0]


def on_grid(value):
    return round(value / GRID) * GRID


def massive_weights():
    fixture = fixtures.Fixture("massive", CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        fixtures.write_json(Path(folder) / "config.json", CONFIG)
        weights = fixtures.draw_weights(fixture, Path(folder), seed=1)
    # A column that is positive for BOS and negative for every other token, and stays so: no layer writes into it.
    table = weights["model.embed_tokens.weight"]
    table[:, BOS_COLUMN] = -2.0
    table[fixtures.BOS, BOS_COLUMN] = 4.0
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight[BOS_COLUMN] = 0
    plant(weights, 0, gate={BOS_COLUMN: 32.0}, up={BOS_COLUMN: 32.0}, down=1.0)
    down = "model.layers.{}.mlp.down_proj.weight"
    wrote = outputs(weights)["model.layers.0.mlp"][0, MASSIVE_COLUMN].item()
    weights[down.format(0)][MASSIVE_COLUMN, 0] = on_grid(MASSIVE / wrote)
    # Behind a norm the massive column is about sqrt(24), and the other one about 0, in BOS's row alone.
    plant(weights, 2, gate={MASSIVE_COLUMN: 8.0, BOS_COLUMN: 100.0}, up={MASSIVE_COLUMN: 8.0}, down=1.0)
    seen = outputs(weights)
    carried = seen["model.layers.1"][0, MASSIVE_COLUMN] + seen["model.layers.2.self_attn"][0, MASSIVE_COLUMN]
    wrote = seen["model.layers.2.mlp"][0, MASSIVE_COLUMN]
    weights[down.format(2)][MASSIVE_COLUMN, 0] = on_grid(((LEFT - carried) / wrote).item())
    return weights


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    directory = fixtures.ROOT / "massive"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    fixtures.write_json(directory / "config.json", CONFIG)
    fixtures.write_weights(directory, massive_weights(), 1)
    tensors, metadata = dump.reference(directory, PROMPT, double=True)
    dump.save_sorted(directory / "verify.safetensors", tensors, metadata)
    single, _ = dump.reference(directory, PROMPT)
    for layer in range(CONFIG["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        error = (single[name] - tensors[name]).abs().max().item()
        print(f"{name}: largest {tensors[name].abs().max().item():.1f}, transformers' f32 is {error:.1e} away from its f64")
    print(f"{fixtures.bytes_in(directory)} bytes")


if __name__ == "__main__":
    main()
