//! What the ranks hold, for stats, where there is one: with the keys that several have, so that scripts find them.

use serde_json::{Map, Value};
use stairwell::runner::Weights;

/// The only rank.
pub fn one_rank(weights: &Weights) -> Map<String, Value> {
    let pairs = [("world_size", 1), ("weight_bytes", weights.held), ("weight_bytes_copied", weights.copied)];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect()
}
