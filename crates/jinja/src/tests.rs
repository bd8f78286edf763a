//! Templates whose text Jinja2 gave, and templates that would do harm.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Failure, check, isolated, render};

/// A line each: first the variables, then a template and its text, or null where Jinja2 has an error. `scripts/jinja2_cases.py` writes it.
const JINJA2: &str = include_str!("jinja2.jsonl");

#[test]
fn as_jinja2_renders_them() {
    let mut lines = JINJA2.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let variables = lines.next().expect("the variables");
    let wrong: Vec<String> = lines
        .filter_map(|case| {
            let template = case[0].as_str().expect("a template");
            let given = render(template, &variables);
            let fits = given.as_deref().ok() == case[1].as_str();
            (!fits).then(|| format!("{template}\n  Jinja2 {}\n  here   {given:?}", case[1]))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn failure(template: &str) -> String {
    let start = Instant::now();
    let result = render(template, &json!({"messages": [{"role": "user", "content": "hi"}]}));
    // Dependencies are not optimised in tests; a release build takes a tenth of this.
    assert!(start.elapsed() < Duration::from_secs(20), "{template:.100}: {:?}", start.elapsed());
    match result {
        Err(Failure::Failed(reason)) => reason,
        other => panic!("{template:.100}: {:.100}", format!("{other:?}")),
    }
}

#[test]
fn what_takes_too_long_or_too_much_is_an_error() {
    for template in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{{ 'a\n' | indent(1000000000) }}",
        "{{ '%5000000000d' | format(3) }}",
        "{{ '%*d' % (999999999, 3) }}",
        "{{ '{:{}}'.format(3, 10**9) }}",
        "{{ '{:.99999}'.format(1.5) }}",
        "{{ 'x' * 10**12 }}",
        "{{ [1] * 10**10 }}",
        "{{ 'x' | center(10**10) }}",
        "{{ '\\t'.expandtabs(10**10) }}",
        "{{ [[1]] | tojson(indent=10**9) }}",
        "{{ range(10**9) }}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set x = 'a' * 1000000 %}{% for i in range(100000) %}{{ x }}{% endfor %}",
        "{% set x = 'a' * 1000000 %}{% for i in range(100000) %}{% if 'b' in x %}{% endif %}{% endfor %}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    ] {
        failure(template);
    }
    failure(&format!("{{% for i in range(100000) %}}{}{{% endfor %}}", "x".repeat(100_000)));
}

#[test]
fn what_lies_too_deep_is_not_parsed() {
    let deep = |open: &str, inner: &str, close: &str| {
        [&open.repeat(100_000), inner, &close.repeat(100_000)].concat()
    };
    for expression in [
        deep("not ", "1", ""),
        deep("-", "1", ""),
        deep("(", "1", ")"),
        deep("[", "", "]"),
        deep("1 + ", "1", ""),
        deep("1 if 1 else ", "1", ""),
        deep("", "a", ".b"),
        deep("", "a", "|upper"),
    ] {
        let reason = failure(&format!("{{{{ {expression} }}}}"));
        assert!(reason.starts_with("line 1: a tag has more than"), "{reason}");
        assert!(matches!(check(&format!("{{{{ {expression} }}}}")), Err(Failure::Failed(_))));
    }
    for blocks in
        [deep("{% if 1 %}", "", "{% endif %}"), format!("{{% if 0 %}}{}", deep("{% elif 0 %}", "", ""))]
    {
        assert!(failure(&blocks).contains("blocks lie within each other"));
    }
}

#[test]
fn errors_name_the_line() {
    assert_eq!(
        failure("a\n{{ 'b\nc' }}\n{{ 1 + none }}"),
        "line 4: unsupported operand types for +: 'int' and 'NoneType'"
    );
    assert_eq!(failure("\n{{ '\\xy' }}"), "line 2: '\\xy' is no character");
    assert_eq!(
        failure("{{ messages.append(1) }}"),
        "line 1: the method 'append' of a list is not allowed in a template"
    );
    let refused = render("{{ raise_exception('no ' ~ 1) }}", &json!({}));
    assert_eq!(refused, Err(Failure::Refused("no 1".into())));
}

#[test]
fn a_panic_is_an_error() {
    let result = isolated(|| -> Result<(), Failure> { panic!("a bug") });
    assert!(matches!(result, Err(Failure::Failed(reason)) if reason.contains("panic")));
}

/// A chat of 1,000 messages takes a small part of what is allowed.
#[test]
fn long_chats_are_rendered() {
    let turn = |i: usize| json!({"role": if i.is_multiple_of(2) { "user" } else { "assistant" }, "content": "word ".repeat(200)});
    let messages: Vec<Value> = (0..1000).map(turn).collect();
    let template = "{% for m in messages %}{% if loop.index0 % 2 == 0 and m.role != 'user' %}{{ raise_exception('') }}{% endif %}\
                    {{ '<' ~ m.role ~ '>' + m.content.split('</think>')[-1] | trim + '\\n' }}{% endfor %}";
    assert!(render(template, &json!({"messages": messages})).is_ok_and(|text| text.len() > 999_000));
}
