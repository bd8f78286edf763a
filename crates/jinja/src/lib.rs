//! Jinja2 as transformers runs it, byte for byte, on minijinja.
//!
//! A chat template is a program that comes with a checkpoint, written for Python. minijinja knows Jinja's language; what Jinja2 leaves to Python is
//! in this crate. A template's way through it:
//!
//! 1. [`source`] reads literals as Python does;
//! 2. [`compile`] puts calls of [`operators`] where minijinja has its own;
//! 3. [`methods`], [`filters`], [`texts`], [`format`] and [`tojson`] are called as it runs;
//! 4. [`budget`] counts what it makes, because it may be hostile.

mod budget;
mod call;
mod compile;
mod filters;
mod format;
mod guard;
mod literal;
mod methods;
mod numbers;
mod operators;
mod predicates;
mod python;
mod source;
mod strings;
#[cfg(test)]
mod tests;
mod texts;
mod tojson;
mod values;

use std::error::Error as _;
use std::sync::Arc;
use std::thread;

use minijinja::machinery::{TemplateConfig, eval, make_string_output};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, Value};

use budget::bad;
use call::{AnyArguments, Call, Function, bind};
pub use guard::caught;
use source::Source;

/// The stack of the thread that renders. Blocks, operators and values may lie in each other only so deep that it suffices.
const STACK: usize = 256 << 20;

/// The key of an object that stands for a number that `serde_json` has not and Python has, with the number's text as value: integers beyond
/// 64 bits, NaN and infinities.
pub const NUMBER: &str = "\0number";

/// Why there is no text.
#[derive(Debug, PartialEq)]
pub enum Failure {
    /// The template called `raise_exception` with this.
    Refused(String),
    /// What is wrong, with its line.
    Failed(String),
}

/// Checks that a template can be read.
///
/// # Errors
/// What is wrong with it.
pub fn check(source: &str) -> Result<(), Failure> {
    isolated(|| run(source, None)).map(|_| ())
}

/// Whether a template goes over the parts of a message's content, rather than expect a text.
pub fn takes_parts(source: &str) -> bool {
    Source::read(source).is_ok_and(|source| source.takes_parts)
}

/// The text that a template gives with these variables, an object.
///
/// # Errors
/// What is wrong with the template, or what it refuses.
pub fn render(source: &str, variables: &serde_json::Value) -> Result<String, Failure> {
    isolated(|| run(source, Some(variables)))
}

fn run(source: &str, variables: Option<&serde_json::Value>) -> Result<String, Failure> {
    let size = source.len() + variables.map_or(0, |variables| variables.to_string().len());
    let fuel = budget::begin(size);
    let source = Source::read(source).map_err(Failure::Failed)?;
    let calls: Vec<String> = source.macros.iter().map(|found| compile::macro_call(&found.name)).collect();
    let env = environment(&source, fuel);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let config = TemplateConfig {
        syntax_config: syntax.map_err(|error| failure(&error))?,
        default_auto_escape: Arc::new(|_| AutoEscape::None),
    };
    let template = compile::compile(&source, &calls, &config).map_err(|error| failure(&error))?;
    let mut text = String::new();
    if let Some(variables) = variables {
        let variables = python::from_json(variables);
        let out = &mut make_string_output(&mut text);
        eval(&env, &template.instructions, variables, &template.blocks, out, AutoEscape::None)
            .map_err(|error| failure(&error))?;
    }
    Ok(text)
}

/// Runs in a thread of its own, whose stack is known, and where a panic is an error.
fn isolated<T: Send>(work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    thread::scope(|scope| {
        let guarded = || caught("minijinja", || Ok(work())).unwrap_or_else(|said| Err(Failure::Failed(said)));
        let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, guarded);
        match thread.map(thread::ScopedJoinHandle::join) {
            Ok(joined) => joined.unwrap_or_else(|_| Err(Failure::Failed("its thread panics".into()))),
            Err(error) => Err(Failure::Failed(format!("there is no thread to render in: {error}"))),
        }
    })
}

/// What templates may call.
fn environment(source: &Source, fuel: u64) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_fuel(Some(fuel));
    env.set_formatter(print);
    env.set_unknown_method_callback(methods::call);
    // minijinja's own, which Jinja2 lacks.
    for name in ["bool", "split", "lines", "chain", "zip"] {
        env.remove_filter(name);
    }
    for name in ["startingwith", "endingwith", "safe", "int"] {
        env.remove_test(name);
    }
    env.remove_global("debug");
    for &(name, filter) in filters::FILTERS.iter().chain(texts::FILTERS).chain(tojson::FILTERS) {
        env.add_filter(name, move |state: &mut State, value: ValueOrKwargs, args: Rest<ValueOrKwargs>| {
            filter(state, &value.into_value(), &args.into_values())
        });
    }
    predicates::install(&mut env);
    for &(name, call) in operators::OPERATORS.iter().chain(FUNCTIONS) {
        env.add_global(name, Value::from_object(Function(call)));
    }
    env.add_function("cycler", minijinja_contrib::globals::cycler);
    env.add_function("joiner", minijinja_contrib::globals::joiner);
    for (name, value) in &source.literals {
        env.add_global(name.clone(), value.clone());
    }
    for found in &source.macros {
        env.add_global(compile::macro_call(&found.name), Value::from_object(AnyArguments(found.clone())));
    }
    env
}

/// `{{ value }}`
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let text = match value.as_str() {
        Some(_) => value.clone(),
        None => python::text(value)?.into(),
    };
    let text = match *state.auto_escape() != AutoEscape::None && !value.is_safe() {
        true => format::escape(text.as_str().unwrap_or_default()).into(),
        false => text,
    };
    let text = text.as_str().unwrap_or_default();
    budget::make(text.len())?;
    Ok(out.write_str(text)?)
}

const FUNCTIONS: &[(&str, Call)] = &[
    ("raise_exception", |_, args| {
        let [message] = bind(args, ["message"])?;
        let message = python::text(&message.unwrap_or_default())?;
        Err(bad(message.clone()).with_source(Refusal(message)))
    }),
    ("strftime_now", |_, args| {
        let [format] = bind(args, ["format"])?;
        let format = format.unwrap_or_default();
        let format = python::string(&format)?;
        // The local time, in C's format, such as "%d %b %Y".
        let now = jiff::fmt::strtime::format(format, &jiff::Zoned::now());
        now.map(Value::from).map_err(|error| bad(format!("strftime_now({format:?}): {error}")))
    }),
    ("lipsum", |_, _| Err(bad("lipsum() is random text, which no template of a chat should have"))),
    ("range", |_, args| {
        let [start, stop, step] = bind(args, ["start", "stop", "step"])?;
        let number = |value: &Option<Value>| value.as_ref().map_or(Ok(0), python::integer);
        let (start, stop) = match stop {
            None => (0, number(&start)?),
            _ => (number(&start)?, number(&stop)?),
        };
        let printed = |end: String| format!("range({start}, {stop}{end})");
        let (step, printed) = match step {
            None => (1, printed(String::new())),
            Some(step) => match python::integer(&step)? {
                1 => (1, printed(String::new())),
                step => (step, printed(format!(", {step}"))),
            },
        };
        if step == 0 {
            return Err(bad("range() arg 3 must not be zero"));
        }
        let (distance, step_size) = (i128::from(stop) - i128::from(start), i128::from(step));
        let length = if (distance > 0) == (step > 0) {
            (distance.abs() + step_size.abs() - 1) / step_size.abs()
        } else {
            0
        };
        if length > 100_000 {
            return Err(bad("a range has at most 100000 numbers in the sandbox"));
        }
        budget::make(length as usize * size_of::<Value>())?;
        let items = (0..length as i64).map(|i| Value::from(start + i * step)).collect();
        Ok(Value::from_object(values::View { items, printed, is_range: true }))
    }),
    ("dict", |_, args| dict(args)),
    ("namespace", |_, args| {
        budget::make(budget::CONTAINER)?;
        minijinja::functions::namespace(Some(dict(args)?.into()))
    }),
];

/// Python's `dict(mapping or pairs, **more)`.
fn dict(args: &[Value]) -> Result<Value, Error> {
    let mut pairs = Vec::new();
    for arg in args {
        match arg.kind() {
            ValueKind::Map => pairs.extend(python::entries(arg)?),
            _ => {
                for pair in python::items(arg)? {
                    match python::items(&pair)?.as_slice() {
                        [key, value] => pairs.push((key.clone(), value.clone())),
                        _ => return Err(bad("dict() is made of pairs")),
                    }
                }
            }
        }
    }
    pairs.iter().try_for_each(|(_, value)| python::made(std::slice::from_ref(value)))?;
    operators::mapping(pairs)
}

/// The template called `raise_exception` with this text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// What went wrong, and the line in the template.
fn failure(error: &Error) -> Failure {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(Refusal(message)) = error.downcast_ref() {
            return Failure::Refused(message.clone());
        }
        source = error.source();
    }
    let what = match error.kind() {
        ErrorKind::OutOfFuel => "it takes too many steps".into(),
        kind => error.detail().map_or_else(|| kind.to_string(), String::from),
    };
    let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
    Failure::Failed(error.line().map_or_else(|| what.clone(), |line| format!("line {line}: {what}")))
}
