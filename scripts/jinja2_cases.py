#!/usr/bin/env python3
"""Renders the templates of crates/jinja/src/jinja2.jsonl with Jinja2 itself, set up as transformers 5 sets it up, and writes down what it
gives; `null` is an error. Add a line `["{{ template }}", null]` and run this.

    pip install jinja2; python3 scripts/jinja2_cases.py"""

import copy
import json
import pathlib
import re
import warnings

import jinja2.ext
from jinja2.nodes import CallBlock
from jinja2.sandbox import ImmutableSandboxedEnvironment

FILE = pathlib.Path(__file__).parent.parent / "crates/jinja/src/jinja2.jsonl"
warnings.simplefilter("ignore")


class Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's text and changes none."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return CallBlock(self.call_method("inside"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def inside(self, context, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception


def render(template, variables):
    try:
        text = env.from_string(template).render(**copy.deepcopy(variables))
        text.encode()
        # An address in memory is no text to expect.
        return None if re.search("0x[0-9a-f]{9}", text) else text
    except Exception:  # whatever is wrong, it is an error
        return None


first, *cases = [json.loads(line) for line in FILE.read_text().split("\n") if line]
wide = lambda x: int(x["\0number"]) if isinstance(x, dict) and "\0number" in x else x
variables = {name: wide(value) for name, value in first.items()}
lines = [first] + [[template, render(template, variables)] for template, _ in cases]
FILE.write_text("".join(json.dumps(line) + "\n" for line in lines))
