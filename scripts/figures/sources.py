"""What the figures read: the demo checkpoint, recorded results, and the model's source."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "models" / "demo"


def config():
    """models/demo/config.json with the widths that follow from it."""
    c = SimpleNamespace(**json.loads((DEMO / "config.json").read_text(encoding="utf-8")))
    c.q = c.num_attention_heads * c.head_dim
    c.kv = c.num_key_value_heads * c.head_dim
    return c


def weight_map():
    """Tensor name → shard, of the demo checkpoint."""
    index = json.loads((DEMO / "model.safetensors.index.json").read_text(encoding="utf-8"))
    return index["weight_map"]


def shard(name):
    """(length of the header, tensors by name, length of the file) of a shard of the demo checkpoint."""
    with (DEMO / name).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        end = file.seek(0, 2)
    header.pop("__metadata__", None)
    return length, header, end


class NotRecorded(Exception):
    """A figure's measurement is not there yet."""


def recorded(name, part):
    """A file of benches/results that has the measurement `part`."""
    file = ROOT / "benches" / "results" / name
    result = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if part not in result:
        raise NotRecorded(
            f"benches/results/{name} has no '{part}'" if result else f"there is no benches/results/{name}"
        )
    return result


def field(struct, name):
    """The type of a struct's field in src/model/decoder.rs."""
    source = (ROOT / "src" / "model" / "decoder.rs").read_text(encoding="utf-8")
    found = re.search(rf"struct {struct}<[^{{]*{{(.*?)\n}}", source, re.DOTALL)
    if not found:
        raise ValueError(f"src/model/decoder.rs has no struct {struct} any more: draw the figure anew")
    types = dict(re.findall(r"^    (?:pub )?(\w+): (.*),$", found[1], re.MULTILINE))
    if name not in types:
        raise ValueError(f"{struct} of src/model/decoder.rs has no field {name} any more: draw the figure anew")
    return types[name]
