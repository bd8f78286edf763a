//! Into how many ranks a model can be cut.

use crate::config::ModelConfig;
use crate::error::{Error, Result};

/// Whether each of so many ranks gets whole query heads, and whole heads of K and V or one that others hold too.
fn divides(config: &ModelConfig, ranks: usize) -> bool {
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    let whole = |n: usize, by: usize| n.is_multiple_of(by);
    whole(heads, ranks) && (whole(kv_heads, ranks) || whole(ranks, kv_heads))
}

/// Checks that a model can be cut among so many ranks. The vocabulary and the MLP are cut anywhere.
///
/// # Errors
/// [`Error::Usage`] with the sizes that do.
pub fn check_ranks(config: &ModelConfig, ranks: usize) -> Result<()> {
    if ranks > 0 && divides(config, ranks) {
        return Ok(());
    }
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    let sizes: Vec<String> =
        (1..=heads).filter(|ranks| divides(config, *ranks)).map(|n| n.to_string()).collect();
    Err(Error::Usage(format!(
        "--tp {ranks}: each rank takes whole heads, and the model has {heads} query heads on {kv_heads} of K and V; give {}",
        sizes.join(", ")
    )))
}
