//! The proof: what was written computes what the source computes.

use super::Source;
use crate::attention::{self, KvOptions};
use crate::backend::cpu::{Arithmetic, Cpu};
use crate::backend::{Backend, Shaped};
use crate::batch::Batch;
use crate::checkpoint::{Directory, LoadRules, StateDict};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::{self, Completeness, Loading, load_weights};
use crate::runner::{ModelRunner, read_config};

/// Tokens of the prompt.
const PROMPT: usize = 8;

/// How two models' logits compare, over a short prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    /// The largest distance of two logits.
    pub difference: f32,
    /// The largest logit of the source.
    pub largest: f32,
    /// Tokens after which both models have the same first choice, of so many.
    pub same: usize,
    pub of: usize,
}

/// Logits of one model: [tokens, vocabulary].
pub struct Logits {
    numbers: Vec<f32>,
    vocabulary: usize,
}

/// Loads a checkpoint, and computes what it says after a prompt of any tokens, in f32.
fn logits(mut config: ModelConfig, state_dict: &StateDict, rules: &LoadRules) -> Result<Logits> {
    let backend = Cpu::default().with_arithmetic(Arithmetic::F32);
    config.tie_word_embeddings &= !model::unties(&config, state_dict);
    let mut model = model::build(&backend, &config, PROMPT)?;
    let loading = Loading {
        architecture: config.architecture,
        quantization: config.quantization.as_ref(),
        rules,
        completeness: Completeness::All,
        file_of: &|name| state_dict.file_of(name),
        origin: state_dict.directory().root(),
        events: &mut |_| {},
    };
    load_weights(&backend, &mut *model, state_dict.tensors(), loading)?;
    let attention = attention::build(model.attention_shape(), &KvOptions::recompute())?;
    let vocabulary = config.vocab_size;
    let tokens = PROMPT.min(config.context());
    // Any tokens do. These are far from each other.
    let prompt: Vec<u32> = (0..tokens).map(|i| ((i * 7919 + 1) % vocabulary) as u32).collect();
    let mut runner = ModelRunner::new(config, backend, model, attention)?;
    let mut batch = Batch::of(&prompt);
    batch.want_all_logits();
    let logits = runner.forward(&batch, None)?;
    Ok(Logits { vocabulary: logits.cols(), numbers: runner.backend.download(&logits)? })
}

impl Logits {
    /// Of the source.
    ///
    /// # Errors
    /// As a load.
    pub fn of_source(source: &Source) -> Result<Logits> {
        logits(source.config.clone(), &source.state_dict()?, source.rules())
    }

    /// Of what was written.
    ///
    /// # Errors
    /// As a load.
    pub fn of_written(directory: &Directory) -> Result<Logits> {
        logits(read_config(directory)?, &StateDict::open(directory)?, &LoadRules::default())
    }

    /// Compares this source's logits with those of what was written.
    ///
    /// # Errors
    /// If they are not of one model.
    pub fn compare(&self, written: &Logits) -> Result<Compared> {
        if self.numbers.len() != written.numbers.len() || self.vocabulary != written.vocabulary {
            let (a, b) = (self.vocabulary, written.vocabulary);
            return Err(Error::Usage(format!("the source has {a} logits, and what was written has {b}")));
        }
        let pairs = || self.numbers.iter().zip(&written.numbers);
        // max() would lose a NaN.
        let distance =
            |(a, b): (&f32, &f32)| if a == b || a.is_nan() && b.is_nan() { 0.0 } else { (a - b).abs() };
        let larger = |x: f32, y: f32| if y > x || y.is_nan() { y } else { x };
        let rows =
            self.numbers.chunks_exact(self.vocabulary).zip(written.numbers.chunks_exact(self.vocabulary));
        Ok(Compared {
            difference: pairs().map(distance).fold(0.0, larger),
            largest: self.numbers.iter().fold(0.0, |largest, x| larger(largest, x.abs())),
            same: rows.filter(|(a, b)| first_choice(a) == first_choice(b)).count(),
            of: self.numbers.len() / self.vocabulary,
        })
    }
}

fn first_choice(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
}
