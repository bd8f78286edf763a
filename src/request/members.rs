//! The members of a request's JSON object, each as it is written, and the fields that are read from them.

use crate::{
    error::{Error, Result},
    json,
};
use serde::{Deserialize, de::value::MapDeserializer};
use serde_json::value::RawValue;
use std::{collections::BTreeMap, iter};

/// An object's members by name. A name that stands twice has its last value.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Members(BTreeMap<String, Box<RawValue>>);

/// A member that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongMember {
    /// Its name; empty if the object as a whole is wrong.
    pub name: String,
    /// What was found, and what it takes.
    pub what: String,
}

impl Members {
    /// Reads an object.
    ///
    /// # Errors
    /// What is wrong with the JSON.
    pub fn parse(text: &[u8]) -> Result<Members> {
        json::parse(text).map_err(Error::Request)
    }

    /// Whether there is such a member, null or not.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Takes out a member; `None` if there is none, or if it is null.
    ///
    /// # Errors
    /// A value of another type.
    pub fn take<T: for<'de> Deserialize<'de>>(&mut self, name: &str) -> Result<Option<T>, WrongMember> {
        let Some(value) = self.0.remove(name).filter(|value| value.get() != "null") else { return Ok(None) };
        let wrong =
            |error: serde_json::Error| WrongMember { name: name.into(), what: in_words(&error.to_string()) };
        serde_json::from_str(value.get()).map(Some).map_err(wrong)
    }

    /// Keeps the members of these names.
    pub fn retain(&mut self, names: &[&str]) {
        self.0.retain(|name, _| names.contains(&name.as_str()));
    }

    /// Reads the members that are not null as the fields of `T`, all of which may be absent.
    ///
    /// # Errors
    /// The first member that is wrong.
    pub fn read<'de, T: Deserialize<'de>>(&'de self) -> Result<T, WrongMember> {
        let given = self.0.iter().filter(|(_, value)| value.get() != "null");
        let given = given.map(|(name, value)| (name.as_str(), &**value));
        T::deserialize(MapDeserializer::new(given.clone())).map_err(|error: serde_json::Error| {
            // serde does not say which field it was, so each is tried by itself.
            let wrong = |member| T::deserialize(MapDeserializer::new(iter::once(member))).err();
            let found = given.clone().find_map(|(name, value)| Some((name, wrong((name, value))?)));
            let (name, error) = found.unwrap_or(("", error));
            WrongMember { name: name.into(), what: in_words(&error.to_string()) }
        })
    }
}

impl WrongMember {
    /// As an error, with the path of the object that the member is in, such as `body.`.
    pub fn within(self, path: &str) -> Error {
        let WrongMember { name, what } = self;
        let named = name.is_empty() || what.contains(&format!("`{name}`"));
        Error::Request(if named { what } else { format!("{path}{name}: {what}") })
    }
}

/// serde's message about one value, for people who don't write Rust.
fn in_words(message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(what, _)| what);
    let Some((what, expected)) = message.rsplit_once(", expected ") else { return message.into() };
    let expected = match expected {
        "f32" => "a number",
        "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "i64" | "i128" => "a whole number",
        other => other,
    };
    format!("{what}, expected {expected}")
}
