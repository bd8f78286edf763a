//! Chat templates: programs that come with a model, and run.

use crate::rig::{Budget, MEMORY_FACTOR, fuzz};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};
use stairwell::{
    demo,
    tokenizer::{ChatOptions, ChatTemplate, TokenizerFiles},
};

/// A template may loop, up to its fuel; what it writes has a cap.
const TEMPLATE: Budget = Budget { cases: 200, base: 64 << 20, factor: MEMORY_FACTOR };

#[test]
fn template() {
    let tools =
        json!([{"type": "function", "function": {"name": "f", "parameters": {"x": [1, 2.5, null, "é"]}}}]);
    let options = ChatOptions {
        tools: tools.as_array().cloned(),
        add_generation_prompt: true,
        ..ChatOptions::default()
    };
    let messages = [
        json!({"role": "system", "content": "Be kind."}),
        json!({"role": "user", "content": " Hi <b> & ünïcode \n"}),
        json!({"role": "assistant", "content": "4", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}),
    ];
    let parse = |bytes: &[u8]| {
        let files = TokenizerFiles { chat_template: Some(bytes.to_vec()), ..TokenizerFiles::default() };
        let Ok(template) = ChatTemplate::new(&files) else { return false };
        template.render(&messages, &options).is_ok()
    };
    let config = demo::tokenizer_files().tokenizer_config.unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let valid = [config["chat_template"].as_str().unwrap_or("{{ messages }}"), TURNS, MACROS];
    fuzz("template", TEMPLATE, parse, valid.map(|text| text.as_bytes().to_vec()).to_vec(), program());
}

const TURNS: &str = "{%- set ns = namespace(n=0) %}{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<s>{% endif %}
{%- if m.role == 'user' %}{% set ns.n = ns.n + 1 %}{{ '[' ~ ns.n ~ '] ' + m.content | trim }}{% elif m.tool_calls is defined %}
{{- m.tool_calls[0].function | tojson(indent=2) }}{% else %}{{ m.content.split(' ')[-1].strip('.') | upper }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}<bot>{% endif %}";

const MACROS: &str = "{% macro turn(m, depth=1) %}{{ '#' * depth }} {{ m.role }}{{ caller() if caller }}{% endmacro %}{{ turn(messages[0]) }}
{%- call turn(messages[1], 3) %}x{% endcall %}{% filter replace('a', 'b') %}banana{% endfilter %}{{ messages | map(attribute='role') | join(', ') }}
{{- range(3) | list | length }}{{ '%s-%03d' % ('a', 7) }}{{ tools | tojson }}{{ 10 ** 3 // 7 }}{% generation %}g{% endgeneration %}";

/// Statements around expressions, most of them closed.
fn program() -> impl Strategy<Value = Vec<u8>> {
    vec(statement(), 0..4).prop_map(|statements| statements.concat().into_bytes())
}

fn statement() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        6 => expression().prop_map(|e| format!("{{{{ {e} }}}}")),
        2 => expression().prop_map(|e| format!("{{% set x = {e} %}}")),
        1 => select(vec!["text", "{%", "{{", "%}", "{# note #}", "{% raw %}{{{% endraw %}", "{% break %}", "{% endif %}", "{% else %}",
            "{{ f(f) }}", "{% include 'default' %}", "{% extends 'default' %}", "{% import 'default' as y %}"]).prop_map(String::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let body = vec(inner, 0..3).prop_map(|statements| statements.concat());
        let loops = (expression(), body.clone())
            .prop_map(|(e, body)| format!("{{% for y in {e} %}}{body}{{% endfor %}}"));
        let branches =
            (expression(), body.clone()).prop_map(|(e, body)| format!("{{% if {e} %}}{body}{{% endif %}}"));
        let macros = (expression(), body.clone()).prop_map(|(e, body)| {
            format!("{{% macro f(x, y={e}) %}}{body}{{{{ f(x) }}}}{{% endmacro %}}{{{{ f(1) }}}}")
        });
        let filters = body.prop_map(|body| format!("{{% filter upper %}}{body}{{% endfilter %}}"));
        prop_oneof![4 => loops, 2 => branches, 1 => macros, 1 => filters]
    })
    .boxed()
}

fn expression() -> BoxedStrategy<String> {
    let atom = select(vec![
        "messages",
        "messages[0].content",
        "messages[-1]",
        "tools",
        "x",
        "y",
        "loop",
        "none",
        "true",
        "-1",
        "0",
        "3",
        "2.5",
        "1e308",
        "''",
        "'a é'",
        "'%d %s %99999d'",
        "9223372036854775807",
        "340282366920938463463374607431768211456",
        "range(1000000)",
        "[]",
        "{}",
        "namespace(a=1)",
        "cycler(1, 2)",
        "lipsum(2)",
        "dict(a=1)",
        "undefined_name",
        "raise_exception('no')",
        "strftime_now('%Y %9999d')",
        "'a' * 100000",
        "'\\u00e9\\U0001F600\\N{DASH}'",
        "[[1]] * 10000",
        "messages[0]",
    ])
    .prop_map(String::from);
    atom.prop_recursive(4, 24, 3, |inner| {
        let operators = select(vec!["+", "-", "*", "/", "//", "%", "**", "~", "==", "<", "and", "or", "in", "is", "not in"]);
        let binary = (inner.clone(), operators, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})"));
        let filters = select(vec![
            "length", "list", "tojson", "tojson(indent=100000)", "string", "int", "float", "upper", "title", "trim", "join(',')", "reverse", "sort",
            "unique", "first", "last", "items", "dictsort", "batch(2)", "slice(3)", "groupby('role')", "map('upper')", "map(attribute='a.b')",
            "select", "sum", "min", "replace('', 'aaaa')", "indent(1000000)", "center(10000000)", "wordwrap(1)", "truncate(3)", "urlize", "safe",
            "escape", "round(400)", "default('d')", "format(1, 2)", "pprint", "random", "xmlattr", "filesizeformat", "tojson | safe",
        ]);
        let filtered = (inner.clone(), filters).prop_map(|(a, filter)| format!("({a}) | {filter}"));
        let methods = select(vec![
            "split()", "split('a')", "strip()", "replace('', 'bbbb')", "upper()", "items()", "keys()", "get('role')", "join(['a', 'b'])", "format(1)",
            "startswith('a')", "count('')", "zfill(10000000)", "ljust(100000000)", "center(100000000, 'x')", "expandtabs(100000000)", "encode()",
            "append(1)", "pop()", "update(a=1)", "__class__", "a.b.c", "title()", "splitlines()", "find('a', 99)", "index('z')", "partition('a')",
        ]);
        let called = (inner.clone(), methods).prop_map(|(a, method)| format!("({a}).{method}"));
        let indexed = (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a})[{b}]"));
        let sliced = (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a})[{b}::-1]"));
        let listed = vec(inner.clone(), 0..3).prop_map(|list| format!("[{}]", list.join(", ")));
        let tests = select(vec!["defined", "string", "mapping", "iterable", "number", "divisibleby(0)", "sequence", "none", "in [1]"]);
        let tested = (inner.clone(), tests).prop_map(|(a, test)| format!("({a}) is {test}"));
        let chosen = (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} if {b} else {c})"));
        prop_oneof![3 => binary, 3 => filtered, 3 => called, 1 => indexed, 1 => sliced, 1 => listed, 1 => tested, 1 => chosen]
    })
    .boxed()
}
