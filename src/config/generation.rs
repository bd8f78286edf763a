//! generation_config.json: how the makers of a model mean it to be sampled.
//!
//! **Which value wins.** The command line, then this file, then a default that changes nothing. Each value
//! remembers where it came from, so that a run can say "temperature 0.6 (generation_config.json)".
//!
//! **As vLLM takes it.** vLLM's `--generation-config auto`, its default, reads `repetition_penalty`, `temperature`, `top_k`,
//! `top_p`, `min_p` and `max_new_tokens` (`vllm/config/model.py`, `ModelConfig.get_diff_sampling_param`) and the
//! end-of-sequence ids (`SamplingParams.update_from_generation_config`). So does this module. It follows:
//!
//! - No file, or a file with token ids alone (GPT-2's): temperature 1 and no filter. transformers is greedy there, since its
//!   `do_sample` defaults to false. `--temperature 0` is greedy.
//! - `do_sample` decides nothing, here as in vLLM. A file that says `do_sample: false` means greedy, so there
//!   [`SamplingDefaults::note`] has a sentence for the user, unless the command line gives a temperature.
//! - A value that stands in the file counts, also one that equals transformers' old default, such as `top_k: 50`. vLLM
//!   sees only what `GenerationConfig.to_diff_dict` leaves; transformers before 5 left such a value out.
//! - Where it samples, transformers has `top_k` 50 if the file has none; vLLM and we keep all tokens.

use super::{ConfigError, fields::Fields};
use crate::sampling::{SamplingError, SamplingParams};
use crate::words::Words;
use crate::{json, words};
use std::path::{Path, PathBuf};

/// What can be wrong with generation_config.json.
#[derive(Debug, thiserror::Error)]
pub enum GenerationConfigError {
    /// What can be wrong with config.json too.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A value of the file that is used and outside its range: its `key` in the file, the `field` of [`Knobs`] that overrides it, and the
    /// range in words.
    #[error("{}", self.words())]
    OutOfRange { path: PathBuf, key: &'static str, field: &'static str, value: String, limit: String },
}

impl GenerationConfigError {
    /// The message, with the fields that it names.
    pub fn words(&self) -> Words {
        match self {
            Self::Config(error) => error.to_string().into(),
            Self::OutOfRange { path, key, field, value, limit } => {
                let (path, field) = (path.display(), words::field(field));
                format!("{path}: '{key}': it is {value}; it must be {limit}; {field} overrides it").into()
            }
        }
    }
}

/// The fields of generation_config.json that matter here; all may be absent. A `null` counts as absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// The file, for messages.
    pub path: PathBuf,
    /// Tokens that end the output; an int in the file or a list.
    pub eos_token_id: Vec<u32>,
    /// transformers' switch between sampling and greedy; see the module's page.
    pub do_sample: Option<bool>,
    /// The values for sampling.
    pub knobs: Knobs,
}

impl GenerationConfig {
    /// Parses generation_config.json; `file` is for messages. Unknown fields are ignored. Ranges are checked
    /// in [`SamplingDefaults::resolve`], and only of the values that are used.
    ///
    /// # Errors
    /// [`GenerationConfigError`] if it is not a JSON object or a field has the wrong type.
    pub fn parse(bytes: &[u8], file: &Path) -> Result<Self, GenerationConfigError> {
        let object = json::object(bytes).map_err(|reason| ConfigError::Json { path: file.into(), reason })?;
        let fields = Fields::new(&object, file);
        let float = |name| fields.float(name).map(|x| x.map(|x| x as f32));
        Ok(Self {
            path: file.into(),
            eos_token_id: fields.token_ids("eos_token_id")?,
            do_sample: fields.flag("do_sample")?,
            knobs: Knobs {
                temperature: float("temperature")?,
                top_k: if fields.is_minus_one("top_k") { Some(0) } else { fields.size("top_k")? },
                top_p: float("top_p")?,
                min_p: float("min_p")?,
                repetition_penalty: float("repetition_penalty")?,
                max_tokens: fields.size("max_new_tokens")?,
            },
        })
    }
}

/// What may be given both on the command line, each as the flag of its name, and in the file. The meanings are
/// [`SamplingParams`]'.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Knobs {
    pub temperature: Option<f32>,
    /// -1 in the file is 0, off.
    pub top_k: Option<usize>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    /// The longest output, in tokens; `max_new_tokens` in the file.
    pub max_tokens: Option<usize>,
}

type Shown = fn(&Knobs) -> Option<String>;

/// Each knob by its name, and how to show its value.
const KNOBS: [(&str, Shown); 6] = [
    ("temperature", |knobs| shown(knobs.temperature)),
    ("top_k", |knobs| shown(knobs.top_k)),
    ("top_p", |knobs| shown(knobs.top_p)),
    ("min_p", |knobs| shown(knobs.min_p)),
    ("repetition_penalty", |knobs| shown(knobs.repetition_penalty)),
    ("max_tokens", |knobs| shown(knobs.max_tokens)),
];

fn shown(value: Option<impl ToString>) -> Option<String> {
    value.map(|value| value.to_string())
}

impl Knobs {
    /// What counts where neither gave a value: temperature 1, the filters off, and no limit for the output.
    const OFF: Knobs = Knobs {
        temperature: Some(1.0),
        top_k: Some(0),
        top_p: Some(1.0),
        min_p: Some(0.0),
        repetition_penalty: Some(1.0),
        max_tokens: None,
    };
}

/// The knobs of the command line and of the file. A knob of the command line counts before the same knob of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingDefaults {
    flags: Knobs,
    file: Knobs,
    /// `None` if neither the command line nor the file limits the output.
    pub max_tokens: Option<usize>,
    /// A sentence for the user where the file asks for something that is not done.
    pub note: Option<String>,
}

impl SamplingDefaults {
    /// Puts the command line over the file over the defaults. `file` is `None` if the model has none.
    ///
    /// # Errors
    /// [`GenerationConfigError`] for a value of the file that is used and out of range. Values of the command line are
    /// checked by [`SamplingParams::validate`].
    pub fn resolve(flags: &Knobs, file: Option<&GenerationConfig>) -> Result<Self, GenerationConfigError> {
        let none = GenerationConfig::default();
        let config = file.unwrap_or(&none);
        let (flags, file) = (*flags, config.knobs);
        let resolved = Self { flags, file, max_tokens: flags.max_tokens.or(file.max_tokens), note: None };
        resolved.check_file(&config.path)?;
        Ok(Self { note: resolved.greedy_note(config), ..resolved })
    }

    /// These knobs, and the default for those that a file cannot give.
    pub fn params(&self) -> SamplingParams {
        let float = |of: fn(&Knobs) -> Option<f32>, off| of(&self.flags).or(of(&self.file)).unwrap_or(off);
        let off = SamplingParams::default();
        SamplingParams {
            temperature: float(|knobs| knobs.temperature, off.temperature),
            top_k: self.flags.top_k.or(self.file.top_k).unwrap_or(off.top_k),
            top_p: float(|knobs| knobs.top_p, off.top_p),
            min_p: float(|knobs| knobs.min_p, off.min_p),
            repetition_penalty: float(|knobs| knobs.repetition_penalty, off.repetition_penalty),
            ..off
        }
    }

    /// Name and `value (source)` of each knob, for the figures of a run.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        let given =
            [(self.flags, "command line"), (self.file, "generation_config.json"), (Knobs::OFF, "default")];
        let line = |(name, value): &(&'static str, fn(&Knobs) -> Option<String>)| {
            let (value, source) = given.iter().find_map(|(knobs, source)| Some((value(knobs)?, source)))?;
            Some((*name, format!("{value} ({source})")))
        };
        KNOBS.iter().filter_map(line).collect()
    }

    /// Checks the values that the file gave and no flag replaced.
    fn check_file(&self, path: &Path) -> Result<(), GenerationConfigError> {
        let path = path.to_owned();
        let is_flag =
            |field| KNOBS.iter().any(|(name, value)| *name == field && value(&self.flags).is_some());
        match self.params().check_ranges() {
            Err(SamplingError::OutOfRange { field, value, limit }) if !is_flag(field) => {
                Err(GenerationConfigError::OutOfRange { path, key: field, field, value, limit })
            }
            _ if self.max_tokens == Some(0) && !is_flag("max_tokens") => {
                let (key, field) = ("max_new_tokens", "max_tokens");
                let (value, limit) = ("0".into(), "at least 1".into());
                Err(GenerationConfigError::OutOfRange { path, key, field, value, limit })
            }
            _ => Ok(()),
        }
    }

    fn greedy_note(&self, file: &GenerationConfig) -> Option<String> {
        let temperature = self.params().temperature;
        let asked = file.do_sample == Some(false) && self.flags.temperature.is_none();
        (asked && temperature != 0.0).then(|| {
            format!(
                "generation_config.json says do_sample: false, which is greedy in transformers; \
                 sampling at temperature {temperature}, as vLLM does (temperature 0 is greedy)"
            )
        })
    }
}

#[cfg(test)]
mod tests;
