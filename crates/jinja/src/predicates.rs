//! Jinja2's tests, `x is odd`, where they ask Python.

use std::cmp::Ordering;

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, State, Value, tests};

use super::operators::{arithmetic, contains};
use super::python::{Number, compare, equal, is_loop, is_plain, is_wide, text};
use super::strings::is;
use super::values::View;

/// Puts them in place of minijinja's.
pub(super) fn install(env: &mut Environment) {
    let is_kind = |value: &Value, kind: ValueKind| value.kind() == kind;
    env.add_test("iterable", |v: &Value| v.is_undefined() || v.as_str().is_some() || iterates(v));
    env.add_test("sequence", move |v: &Value| {
        let is_range = v.downcast_object_ref::<View>().is_some_and(|view| view.is_range);
        v.is_undefined()
            || v.as_str().is_some()
            || is_range
            || is_kind(v, ValueKind::Seq)
            || (is_kind(v, ValueKind::Map) && !is_plain(v))
    });
    env.add_test("filter", |state: &State, v: &Value| v.as_str().is_some_and(|v| tests::is_filter(state, v)));
    env.add_test("test", |state: &State, v: &Value| v.as_str().is_some_and(|v| tests::is_test(state, v)));
    env.add_test("mapping", move |v: &Value| is_kind(v, ValueKind::Map) && !is_plain(v));
    env.add_test("number", |v: &Value| Number::of(v).is_some() || is_wide(v));
    env.add_test("integer", |v: &Value| v.is_integer() || is_wide(v));
    env.add_test("callable", |v: &Value| {
        let is_function = v.kind() == ValueKind::Plain && !is_wide(v);
        v.is_undefined()
            || is_function
            || (is_plain(v) && !v.as_object().is_some_and(|o| o.type_name().ends_with("Namespace")))
    });
    env.add_test("lower", |v: &Value| Ok::<_, Error>(is(&text(v)?, "islower")));
    env.add_test("upper", |v: &Value| Ok::<_, Error>(is(&text(v)?, "isupper")));
    for name in ["==", "eq", "equalto"] {
        env.add_test(name, equal);
    }
    for name in ["!=", "ne"] {
        env.add_test(name, |a: &Value, b: &Value| equal(a, b).map(|equal| !equal));
    }
    env.add_test("in", |a: &Value, b: &Value| contains(b, a));
    let orders: [(&[&str], &'static [Ordering]); 4] = [
        (&[">", "gt", "greaterthan"], &[Ordering::Greater]),
        (&[">=", "ge"], &[Ordering::Greater, Ordering::Equal]),
        (&["<", "lt", "lessthan"], &[Ordering::Less]),
        (&["<=", "le"], &[Ordering::Less, Ordering::Equal]),
    ];
    for (names, wanted) in orders {
        for name in names {
            env.add_test(*name, move |a: &Value, b: &Value| {
                Ok::<_, Error>(compare(a, b)?.is_some_and(|order| wanted.contains(&order)))
            });
        }
    }
    for (name, remainder) in [("even", 0), ("odd", 1)] {
        env.add_test(name, move |v: &Value| divides(v, &2.into(), remainder));
    }
    env.add_test("divisibleby", |v: &Value, by: &Value| divides(v, by, 0));
}

fn iterates(value: &Value) -> bool {
    value.as_object().is_some() && value.kind() != ValueKind::Plain && (!is_plain(value) || is_loop(value))
}

fn divides(value: &Value, by: &Value, remainder: i64) -> Result<bool, Error> {
    equal(&arithmetic("%", value, by)?, &remainder.into())
}
