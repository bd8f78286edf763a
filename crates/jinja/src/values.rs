//! Values of Python's that minijinja lacks: integers that are too large for it, generators, which can be read once, the views that
//! `dict.items()` gives, and the groups of `groupby`.

use std::fmt;
use std::sync::{Arc, Mutex};

use minijinja::Value;
use minijinja::value::{Enumerator, Object, ObjectRepr};

/// An integer beyond 128 bits, or a large one of JSON: its digits. It can be printed and compared, not computed with.
#[derive(Debug)]
pub(super) struct Wide(String);

impl Wide {
    /// The integer with these digits, and perhaps a minus.
    pub(super) fn value(digits: &str) -> Value {
        match digits.parse::<i128>() {
            Ok(integer) => Value::from(integer),
            Err(_) => Value::from_object(Self(digits.into())),
        }
    }
}

impl Object for Wide {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What Python's generators are: items that can be read once.
#[derive(Debug)]
pub(super) struct Generator(Mutex<std::vec::IntoIter<Value>>);

impl Generator {
    pub(super) fn value(items: Vec<Value>) -> Value {
        Value::from_object(Self(Mutex::new(items.into_iter())))
    }

    pub(super) fn next(&self) -> Option<Value> {
        self.0.lock().ok()?.next()
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let this = Arc::clone(self);
        Enumerator::Iter(Box::new(std::iter::from_fn(move || this.next())))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }
}

/// A sequence that prints under a name: `dict_keys(['a'])`, `range(0, 5)`.
#[derive(Debug)]
pub(super) struct View {
    pub(super) items: Vec<Value>,
    pub(super) printed: String,
    /// A range can be indexed; a view of a mapping cannot.
    pub(super) is_range: bool,
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.items.len())
    }
}

/// A group of the filter `groupby`: a tuple whose parts have names.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) grouper: Value,
    pub(super) list: Value,
}

impl Object for Group {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match (key.as_usize(), key.as_str()) {
            (Some(0), _) | (_, Some("grouper")) => Some(self.grouper.clone()),
            (Some(1), _) | (_, Some("list")) => Some(self.list.clone()),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(2)
    }
}
