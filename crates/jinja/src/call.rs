//! Calls: how arguments are bound to parameters, and functions of ours as values.

use std::sync::Arc;

use minijinja::value::{Kwargs, Object, ObjectRepr};
use minijinja::{Error, ErrorKind, State, Value};

use super::budget::bad;
use super::operators::mapping;
use super::python::{entries, tuple};
use super::source::Macro;

/// A function: it gets all arguments as they are.
pub(super) type Call = fn(&mut State, &[Value]) -> Result<Value, Error>;

/// The arguments of a call by the names of its parameters; what was not given is `None`.
///
/// # Errors
/// If there are too many, or one has no such name.
pub(super) fn bind<const N: usize>(args: &[Value], names: [&str; N]) -> Result<[Option<Value>; N], Error> {
    let (args, keywords) = match args.split_last() {
        Some((last, args)) if last.is_kwargs() => (args, entries(last)?),
        _ => (args, Vec::new()),
    };
    if args.len() > N {
        return Err(bad(format!("{} arguments where there are at most {N}", args.len())));
    }
    let mut out = [const { None }; N];
    for (slot, value) in out.iter_mut().zip(args) {
        *slot = Some(value.clone());
    }
    for (key, value) in keywords {
        let at = names.iter().position(|name| Some(*name) == key.as_str()).filter(|&at| out[at].is_none());
        out[at.ok_or_else(|| bad(format!("no argument is named '{key}', or it is given twice")))?] =
            Some(value);
    }
    Ok(out)
}

/// A function of ours.
#[derive(Debug)]
pub(super) struct Function(pub(super) Call);

impl Object for Function {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        self.0(state, args)
    }
}

/// The call of a macro that uses `varargs` or `kwargs`.
#[derive(Debug)]
pub(super) struct AnyArguments(pub(super) Macro);

impl Object for AnyArguments {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let called = state.lookup(&self.0.name).ok_or_else(|| Error::from(ErrorKind::UnknownFunction))?;
        let (mut args, keywords) = match args.split_last() {
            Some((last, args)) if last.is_kwargs() => (args.to_vec(), entries(last)?),
            _ => (args.to_vec(), Vec::new()),
        };
        let mut given = Vec::new();
        if self.0.varargs && args.len() > self.0.parameters.len() {
            let more = args.split_off(self.0.parameters.len());
            given.push(("varargs".into(), tuple(more)?));
        }
        let is_declared = |key: &Value| {
            key.as_str() == Some("caller") || self.0.parameters.iter().any(|name| key.as_str() == Some(name))
        };
        let (known, more): (Vec<_>, Vec<_>) =
            keywords.into_iter().partition(|(key, _)| !self.0.kwargs || is_declared(key));
        if self.0.kwargs {
            given.push(("kwargs".into(), mapping(more)?));
        }
        given.extend(known.into_iter().map(|(key, value)| (key.to_string(), value)));
        args.push(Kwargs::from_iter(given).into());
        called.call(state, &args)
    }
}
