//! From a checkpoint's tensor names to a model's parameter names.
//!
//! Checkpoints disagree with models in small ways: a prefix more or less, buffers that nobody needs, tensors of a training
//! run. The rules here are vLLM's (`WeightsMapper` and `AutoWeightsLoader` in `vllm/model_executor/models/utils.py`), with the
//! same names: renames by prefix, substring and suffix, where a rename to nothing drops the tensor; tensors to skip; unexpected
//! names to ignore. A name that is still unknown is an error, never a silence.

use crate::words::{Words, field};
use std::borrow::Cow;

/// Renames. Each applies to every name it matches; prefixes first, then substrings, then suffixes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mapper {
    /// `(from, to)`: a prefix; `to = None` drops the tensor.
    pub prefixes: Vec<(String, Option<String>)>,
    /// `(from, to)`: anywhere in the name.
    pub substrings: Vec<(String, Option<String>)>,
    /// `(from, to)`: a suffix.
    pub suffixes: Vec<(String, Option<String>)>,
}

impl Mapper {
    /// The new name, or `None` if the tensor is dropped.
    pub fn map<'a>(&self, name: &'a str) -> Option<Cow<'a, str>> {
        let mut name = Cow::Borrowed(name);
        for (from, to) in &self.prefixes {
            if let Some(rest) = name.strip_prefix(from.as_str()) {
                name = Cow::Owned(format!("{}{rest}", to.as_ref()?));
            }
        }
        for (from, to) in &self.substrings {
            if name.contains(from.as_str()) {
                name = Cow::Owned(name.replace(from.as_str(), to.as_ref()?));
            }
        }
        for (from, to) in &self.suffixes {
            if let Some(rest) = name.strip_suffix(from.as_str()) {
                name = Cow::Owned(format!("{rest}{}", to.as_ref()?));
            }
        }
        Some(name)
    }
}

/// What to do with names that are not parameters. What every load of a family skips stands in its
/// [`FamilyNames`](crate::config::FamilyNames).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadRules {
    /// Applied to every name first.
    pub mapper: Mapper,
    /// Tensors to leave out.
    pub skip_prefixes: Vec<String>,
    /// Tensors to leave out.
    pub skip_substrs: Vec<String>,
    /// Tensors to leave out.
    pub skip_suffixes: Vec<String>,
    /// Unknown names that are no error.
    pub ignore_unexpected_prefixes: Vec<String>,
    /// Unknown names that are no error.
    pub ignore_unexpected_suffixes: Vec<String>,
}

/// What becomes of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolution {
    /// It is this parameter.
    Parameter(String),
    /// A rule leaves it out.
    Skipped,
    /// No rule, no parameter: an error. Holds the name after renaming.
    Unexpected(String),
}

impl LoadRules {
    /// Resolves a name. `is_parameter` knows the model's names; `base_prefix` is its base model's (`model.`,
    /// `transformer.`), which some checkpoints leave out.
    // ANCHOR: resolve
    pub fn resolve(&self, name: &str, base_prefix: &str, is_parameter: impl Fn(&str) -> bool) -> Resolution {
        let Some(mapped) = self.mapper.map(name) else { return Resolution::Skipped };
        let any = |list: &[String], matches: &dyn Fn(&str) -> bool| list.iter().any(|s| matches(s));
        if any(&self.skip_prefixes, &|p| mapped.starts_with(p))
            || any(&self.skip_substrs, &|s| mapped.contains(s))
            || any(&self.skip_suffixes, &|s| mapped.ends_with(s))
        {
            return Resolution::Skipped;
        }
        if is_parameter(&mapped) {
            return Resolution::Parameter(mapped.into_owned());
        }
        let with_prefix = format!("{base_prefix}{mapped}");
        if is_parameter(&with_prefix) {
            return Resolution::Parameter(with_prefix);
        }
        if any(&self.ignore_unexpected_prefixes, &|p| mapped.starts_with(p))
            || any(&self.ignore_unexpected_suffixes, &|s| mapped.ends_with(s))
        {
            return Resolution::Skipped;
        }
        Resolution::Unexpected(mapped.into_owned())
    }
    // ANCHOR_END: resolve
}

/// All names that don't fit, with the nearest candidates.
#[derive(Clone, Debug, Default, thiserror::Error)]
#[error("{}", self.words())]
pub struct NameMismatch {
    /// The model's class.
    pub model: String,
    /// The directory.
    pub directory: String,
    /// Parameters that no tensor came for, each with the nearest unexpected name.
    pub missing: Vec<(String, Option<String>)>,
    /// Tensors that are no parameter, each with the nearest parameter.
    pub unexpected: Vec<(String, Option<String>)>,
}

impl NameMismatch {
    /// Pairs each missing parameter with its nearest unexpected name, and each of these with its nearest known parameter.
    pub fn new(model: &str, directory: String, [missing, unexpected, known]: [&[String]; 3]) -> Self {
        let with_nearest = |names: &[String], candidates: &[String]| {
            let near = |name: &String| (name.clone(), nearest(name, candidates));
            names.iter().map(near).collect()
        };
        NameMismatch {
            model: model.into(),
            directory,
            missing: with_nearest(missing, unexpected),
            unexpected: with_nearest(unexpected, known),
        }
    }

    /// The message, with the field that it names.
    pub fn words(&self) -> Words {
        let list = |names: &[(String, Option<String>)]| {
            let one = |(name, near): &(String, Option<String>)| match near {
                Some(near) => format!("'{name}' (nearest: '{near}')"),
                None => format!("'{name}'"),
            };
            names.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        let mut text = format!("{}: the tensors do not fit {}:", self.directory, self.model);
        if !self.unexpected.is_empty() {
            let (n, names, skip) = (self.unexpected.len(), list(&self.unexpected), field("skip_substr"));
            text += &format!(" {n} unexpected, there is no parameter named {names}; ");
            text += &format!("to leave such tensors out, use {skip} with a part of their names");
        }
        if !self.missing.is_empty() {
            let separator = if self.unexpected.is_empty() { "" } else { ";" };
            text += &format!("{separator} {} missing: {}", self.missing.len(), list(&self.missing));
        }
        text.into()
    }
}

/// The candidate with the fewest edits, if it is near at all.
fn nearest(name: &str, candidates: &[String]) -> Option<String> {
    let distance = |c: &String| strsim::levenshtein(name, c);
    // Long lists of long names: compare only names of similar length.
    let similar = |c: &&String| c.len().abs_diff(name.len()) <= name.len() / 2;
    let best = candidates.iter().filter(similar).map(|c| (distance(c), c)).min()?;
    (best.0 <= name.len() / 2).then(|| best.1.clone())
}

/// A sort key that puts `layers.2` before `layers.10`.
pub fn natural_order(name: &str) -> Vec<(usize, &str)> {
    name.split('.').map(|part| (part.parse().unwrap_or(usize::MAX), part)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMETERS: [&str; 3] =
        ["model.norm.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"];
    fn resolve(rules: &LoadRules, name: &str) -> Resolution {
        rules.resolve(name, "model.", |n| PARAMETERS.contains(&n))
    }
    fn parameter(name: &str) -> Resolution {
        Resolution::Parameter(name.into())
    }

    #[test]
    fn names_are_found_with_and_without_the_base_prefix() {
        let rules = LoadRules::default();
        assert_eq!(resolve(&rules, "model.norm.weight"), parameter("model.norm.weight"));
        assert_eq!(resolve(&rules, "norm.weight"), parameter("model.norm.weight"));
        assert_eq!(resolve(&rules, "lm_head.weight"), parameter("lm_head.weight"));
        assert_eq!(resolve(&rules, "norm.bias"), Resolution::Unexpected("norm.bias".into()));
    }

    #[test]
    fn the_mapper_renames_and_drops() {
        let mut rules = LoadRules::default();
        rules.mapper.prefixes =
            vec![("language_model.".into(), Some("model.".into())), ("vision.".into(), None)];
        rules.mapper.substrings = vec![(".ffn.".into(), Some(".mlp.".into()))];
        rules.mapper.suffixes = vec![(".gamma".into(), Some(".weight".into()))];
        assert_eq!(resolve(&rules, "language_model.norm.gamma"), parameter("model.norm.weight"));
        assert_eq!(
            resolve(&rules, "layers.0.ffn.up_proj.weight"),
            parameter("model.layers.0.mlp.up_proj.weight")
        );
        assert_eq!(resolve(&rules, "vision.norm.weight"), Resolution::Skipped);
    }

    #[test]
    fn skipping_and_ignoring() {
        let rules = LoadRules {
            skip_prefixes: vec!["optimizer.".into()],
            skip_substrs: vec!["norm_mean".into()],
            ignore_unexpected_prefixes: vec!["model.norm".into()],
            ignore_unexpected_suffixes: vec![".zero_point".into()],
            ..LoadRules::default()
        };
        for name in ["optimizer.step", "model.norm_mean", "model.norm.extra", "a.zero_point"] {
            assert_eq!(resolve(&rules, name), Resolution::Skipped, "{name}");
        }
        // Ignoring unexpected names never hides a parameter; skipping does.
        assert_eq!(resolve(&rules, "model.norm.weight"), parameter("model.norm.weight"));
    }

    #[test]
    fn the_message_lists_everything_with_the_nearest_name() {
        let own = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let (missing, unexpected) = (own(&["model.norm.weight"]), own(&["model.morn.weight", "zzz"]));
        let e =
            NameMismatch::new("LlamaForCausalLM", "dir".into(), [&missing, &unexpected, &own(&PARAMETERS)])
                .to_string();
        for part in [
            "dir",
            "LlamaForCausalLM",
            "2 unexpected",
            "'zzz'",
            "1 missing",
            "(nearest: 'model.norm.weight')",
        ] {
            assert!(e.contains(part), "{part}: {e}");
        }
        assert!(!e.contains('\n'));
    }

    #[test]
    fn natural_order_counts() {
        let mut names = ["layers.10.a", "layers.2.a", "embed"];
        names.sort_by(|a, b| natural_order(a).cmp(&natural_order(b)));
        assert_eq!(names, ["embed", "layers.2.a", "layers.10.a"]);
    }
}
