//! Jinja2's filters over lists, mappings and numbers, and its tests. What is not here, minijinja has as Jinja2 has it.

use std::cmp::Ordering;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use super::budget::{self, bad};
use super::call::bind;
use super::methods::path;
use super::operators::{add, attribute, contains};
use super::python::{
    Number, compare, entries, equal, integer, is_loop, is_plain, is_wide, items, list, string, tuple,
};
use super::values::Generator;

/// A filter: the value, and the other arguments.
pub(super) type Filter = fn(&mut State, &Value, &[Value]) -> Result<Value, Error>;

pub(super) const FILTERS: &[(&str, Filter)] = &[
    ("abs", |_, value, args| {
        let [] = bind(args, [])?;
        match Number::of(value) {
            Some(Number::Int(value)) => {
                value.checked_abs().map(Value::from).ok_or_else(|| bad("abs: the integer is too large"))
            }
            Some(Number::Float(value)) => Ok(value.abs().into()),
            None => Err(bad("abs: a number is needed")),
        }
    }),
    ("attr", |_, value, args| {
        let [name] = bind(args, ["name"])?;
        let is_mapping = value.kind() == ValueKind::Map && !is_plain(value);
        let found = attribute(value, string(&name.unwrap_or_default())?)?;
        // Unlike `value.name`, this finds no keys.
        Ok(if is_mapping && found.kind() != ValueKind::Plain { Value::UNDEFINED } else { found })
    }),
    ("batch", |_, value, args| {
        let [size, fill] = bind(args, ["linecount", "fill_with"])?;
        let size = integer(&size.unwrap_or_default())?;
        let all = items(value)?;
        let mut rows = Vec::new();
        if size == 0 && !all.is_empty() {
            rows.push(list(Vec::new())?);
        }
        let size = usize::try_from(size).ok().filter(|&size| size > 0).unwrap_or(all.len().max(1));
        for row in all.chunks(size) {
            let mut row = row.to_vec();
            if let Some(fill) = fill.as_ref().filter(|fill| !fill.is_none() && size > row.len()) {
                budget::make((size - row.len()).saturating_mul(size_of::<Value>()))?;
                row.resize(size, fill.clone());
            }
            rows.push(list(row)?);
        }
        Ok(Generator::value(rows))
    }),
    ("slice", |_, value, args| {
        let [slices, fill] = bind(args, ["slices", "fill_with"])?;
        let all = items(value)?;
        let slices = usize::try_from(integer(&slices.unwrap_or_default())?).unwrap_or(0);
        if slices == 0 {
            return Err(bad("slice: the number of slices is zero"));
        }
        let (each, extra) = (all.len() / slices, all.len() % slices);
        let mut rows = Vec::new();
        for number in 0..slices {
            let start = number * each + number.min(extra);
            let mut row = all[start..start + each + usize::from(number < extra)].to_vec();
            row.extend(fill.clone().filter(|fill| !fill.is_none() && number >= extra));
            rows.push(list(row)?);
        }
        Ok(Generator::value(rows))
    }),
    ("default", default),
    ("d", default),
    ("count", length),
    ("length", length),
    ("list", |_, value, _| list(items(value)?)),
    ("first", |_, value, _| match value.downcast_object_ref::<Generator>() {
        Some(generator) => Ok(generator.next().unwrap_or_default()),
        None => Ok(items(value)?.into_iter().next().unwrap_or_default()),
    }),
    ("last", |_, value, _| {
        reversible(value)?;
        Ok(items(value)?.pop().unwrap_or_default())
    }),
    ("reverse", |_, value, _| {
        let mut all = items(value)?;
        all.reverse();
        match value.as_str() {
            Some(text) => super::python::made_text(text.chars().rev().collect::<String>(), value.is_safe()),
            None if reversible(value).is_ok() => Ok(Generator::value(all)),
            None => list(all),
        }
    }),
    ("items", |_, value, _| match value.kind() {
        ValueKind::Undefined => Ok(Generator::value(Vec::new())),
        ValueKind::Map if !is_plain(value) => {
            let pairs = entries(value)?.into_iter().map(|(key, value)| tuple(vec![key, value]));
            Ok(Generator::value(pairs.collect::<Result<_, _>>()?))
        }
        _ => Err(bad("items: only mappings have pairs")),
    }),
    ("dictsort", |_, value, args| {
        let [case, by, reverse] = bind(args, ["case_sensitive", "by", "reverse"])?;
        let by = match by.as_ref().map_or(Some("key"), Value::as_str) {
            Some("key") => 0,
            Some("value") => 1,
            _ => return Err(bad("dictsort: one sorts by \"key\" or \"value\"")),
        };
        if value.kind() != ValueKind::Map {
            return Err(bad("dictsort: only mappings have pairs"));
        }
        let pairs = entries(value)?;
        let keyed = pairs.into_iter().map(|(key, value)| {
            let by = if by == 0 { &key } else { &value };
            Ok((vec![folded(by, &case)], tuple(vec![key, value])?))
        });
        list(sorted(keyed.collect::<Result<_, Error>>()?, &reverse, false)?)
    }),
    ("sort", |_, value, args| {
        let [reverse, case, by] = bind(args, ["reverse", "case_sensitive", "attribute"])?;
        let paths: Vec<Value> = match by.as_ref().and_then(Value::as_str) {
            Some(paths) => paths.split(',').map(Value::from).collect(),
            None => vec![by.unwrap_or(().into())],
        };
        let keyed = items(value)?.into_iter().map(|item| {
            let keys = paths.iter().map(|by| Ok(folded(&path(&item, by, None)?, &case)));
            Ok((keys.collect::<Result<_, Error>>()?, item))
        });
        list(sorted(keyed.collect::<Result<_, Error>>()?, &reverse, true)?)
    }),
    ("groupby", groupby),
    ("unique", |_, value, args| {
        let [case, by] = bind(args, ["case_sensitive", "attribute"])?;
        let (mut seen, mut out) = (Vec::new(), Vec::new());
        for item in items(value)? {
            let key = folded(&path(&item, &by.clone().unwrap_or(().into()), None)?, &case);
            super::operators::hashable(&key)?;
            if !contains(&Value::from(seen.clone()), &key)? {
                seen.push(key);
                out.push(item);
            }
        }
        Ok(Generator::value(out))
    }),
    ("min", |_, value, args| extreme(value, args, Ordering::Less)),
    ("max", |_, value, args| extreme(value, args, Ordering::Greater)),
    ("sum", |_, value, args| {
        let [by, start] = bind(args, ["attribute", "start"])?;
        let start = start.unwrap_or(0.into());
        if start.as_str().is_some() {
            return Err(bad("sum: texts are joined, not summed"));
        }
        let by = by.unwrap_or(().into());
        items(value)?.iter().try_fold(start, |sum, item| add(&sum, &path(item, &by, None)?))
    }),
    ("map", |state, value, args| {
        let (all, mut out) = (items_if_any(value)?, Vec::new());
        let keyword = |name: &str| {
            args.last().filter(|last| last.is_kwargs()).and_then(|last| last.get_attr(name).ok())
        };
        if let (Some(by), 1) = (keyword("attribute").filter(|by| !by.is_undefined()), args.len()) {
            let [by_, default] = bind(args, ["attribute", "default"])?;
            let default = default.filter(|default| !default.is_none());
            for item in all {
                out.push(path(&item, by_.as_ref().unwrap_or(&by), default.as_ref())?);
            }
            return Ok(Generator::value(out));
        }
        for item in all {
            let (name, rest) = args.split_first().ok_or_else(|| bad("map: a filter is needed"))?;
            let all: Vec<Value> = [item].into_iter().chain(rest.iter().cloned()).collect();
            out.push(state.apply_filter(string(name)?, &all)?);
        }
        Ok(Generator::value(out))
    }),
    ("select", |state, value, args| select(state, value, args, false, true)),
    ("reject", |state, value, args| select(state, value, args, false, false)),
    ("selectattr", |state, value, args| select(state, value, args, true, true)),
    ("rejectattr", |state, value, args| select(state, value, args, true, false)),
    ("int", |_, value, args| {
        let [default, base] = bind(args, ["default", "base"])?;
        let base = base.as_ref().map_or(Ok(10), integer)?;
        let default = default.unwrap_or(0.into());
        if value.is_undefined() {
            return Err(ErrorKind::UndefinedError.into());
        }
        if is_wide(value) {
            return Ok(value.clone());
        }
        let parsed = match (value.as_str(), Number::of(value)) {
            (Some(text), _) => super::numbers::integer(text, base),
            (_, Some(Number::Int(value))) => Some(value.into()),
            _ => None,
        };
        let float = || {
            super::numbers::float_of(value)
                .filter(|float| float.is_finite())
                .map(|float| (float.trunc() as i128).into())
        };
        Ok(parsed.or_else(float).unwrap_or(default))
    }),
    ("float", |_, value, args| {
        let [default] = bind(args, ["default"])?;
        if value.is_undefined() {
            return Err(ErrorKind::UndefinedError.into());
        }
        Ok(super::numbers::float_of(value).map_or_else(|| default.unwrap_or(0.0.into()), Value::from))
    }),
    ("round", |_, value, args| {
        let [precision, method] = bind(args, ["precision", "method"])?;
        let precision = precision.as_ref().map_or(Ok(0), integer)?;
        let method = method.unwrap_or("common".into());
        super::numbers::round(value, precision, method.as_str().unwrap_or_default())
    }),
    ("random", |_, value, _| {
        let all = items(value)?;
        let at = jiff::Timestamp::now().subsec_nanosecond().unsigned_abs() as usize;
        Ok(all.get(at % all.len().max(1)).cloned().unwrap_or_default())
    }),
];

fn default(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [default, boolean] = bind(args, ["default_value", "boolean"])?;
    let boolean = boolean.is_some_and(|boolean| boolean.is_true());
    let is_missing = value.is_undefined() || (boolean && !value.is_true());
    Ok(if is_missing { default.unwrap_or("".into()) } else { value.clone() })
}

fn length(_: &mut State, value: &Value, _: &[Value]) -> Result<Value, Error> {
    budget::look(value.as_str().map_or(0, str::len))?;
    let length = if value.is_undefined() { Some(0) } else { value.len() };
    let has_none = is_plain(value) && !is_loop(value);
    length
        .filter(|_| !has_none)
        .map(Value::from)
        .ok_or_else(|| bad(format!("object of type '{}' has no length", super::python::type_name(value))))
}

/// # Errors
/// If Python's `reversed` refuses the value.
fn reversible(value: &Value) -> Result<(), Error> {
    match value.downcast_object_ref::<Generator>() {
        None => Ok(()),
        Some(_) => Err(bad("a generator cannot be reversed; make it a list first: |list")),
    }
}

/// What filters compare by: texts in lower case, unless case counts.
fn folded(value: &Value, case_sensitive: &Option<Value>) -> Value {
    match (value.as_str(), case_sensitive.as_ref().is_some_and(Value::is_true)) {
        (Some(text), false) => text.to_lowercase().into(),
        _ => value.clone(),
    }
}

type Keyed = Vec<(Vec<Value>, Value)>;

/// Sorts by one key, or by several as Python compares lists.
fn sorted(mut keyed: Keyed, reverse: &Option<Value>, is_list: bool) -> Result<Vec<Value>, Error> {
    let reverse = reverse.as_ref().is_some_and(Value::is_true);
    let mut failed = None;
    let order = |a: &[Value], b: &[Value]| -> Result<Ordering, Error> {
        for (a, b) in a.iter().zip(b) {
            if !is_list || !equal(a, b)? {
                return Ok(compare(a, b)?.unwrap_or(Ordering::Equal));
            }
        }
        Ok(Ordering::Equal)
    };
    keyed.sort_by(|(a, _), (b, _)| {
        let order = if failed.is_some() { Ok(Ordering::Equal) } else { order(a, b) };
        let order = order.unwrap_or_else(|error| {
            failed = Some(error);
            Ordering::Equal
        });
        if reverse { order.reverse() } else { order }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(keyed.into_iter().map(|(_, item)| item).collect()),
    }
}

fn groupby(_: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [by, default, case] = bind(args, ["attribute", "default", "case_sensitive"])?;
    let by = by.ok_or_else(|| bad("groupby: an attribute is needed"))?;
    let default = default.filter(|default| !default.is_none());
    let key = |item: &Value| Ok::<_, Error>(folded(&path(item, &by, default.as_ref())?, &case));
    let keyed = items(value)?.into_iter().map(|item| Ok((vec![key(&item)?], item)));
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for item in sorted(keyed.collect::<Result<_, Error>>()?, &None, false)? {
        let key = key(&item)?;
        match groups.last_mut() {
            Some((last, group)) if equal(last, &key)? => group.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let groups = groups.into_iter().map(|(_, group)| {
        let grouper = path(&group[0], &by, default.as_ref())?;
        Ok(Value::from_object(super::values::Group { grouper, list: list(group)? }))
    });
    list(groups.collect::<Result<_, Error>>()?)
}

fn extreme(value: &Value, args: &[Value], wanted: Ordering) -> Result<Value, Error> {
    let [case, by] = bind(args, ["case_sensitive", "attribute"])?;
    let by = by.unwrap_or(().into());
    let mut best: Option<(Value, Value)> = None;
    for item in items(value)? {
        let key = folded(&path(&item, &by, None)?, &case);
        let is_better = match &best {
            None => true,
            Some((_, best)) => compare(&key, best)? == Some(wanted),
        };
        if is_better {
            best = Some((item, key));
        }
    }
    Ok(best.map(|(item, _)| item).unwrap_or_default())
}

/// These filters don't look at a value that is false.
fn items_if_any(value: &Value) -> Result<Vec<Value>, Error> {
    if value.is_true() { items(value) } else { Ok(Vec::new()) }
}

fn select(
    state: &mut State,
    value: &Value,
    args: &[Value],
    has_attribute: bool,
    wanted: bool,
) -> Result<Value, Error> {
    let mut out = Vec::new();
    for item in items_if_any(value)? {
        let (tested, rest) = match (has_attribute, args.split_first()) {
            (false, _) => (item.clone(), args),
            (true, Some((by, rest))) => (path(&item, by, None)?, rest),
            (true, None) => return Err(bad("the name of an attribute is needed")),
        };
        let passes = match rest.split_first() {
            None => tested.is_true(),
            Some((test, rest)) => {
                let all: Vec<Value> = [tested].into_iter().chain(rest.iter().cloned()).collect();
                state.perform_test(string(test)?, &all)?
            }
        };
        if passes == wanted {
            out.push(item);
        }
    }
    Ok(Generator::value(out))
}
