//! Which part of a model a process holds: all of it until step 7.
//!
//! Tensor parallelism cuts every matrix among the *ranks* of a stage; pipeline parallelism gives each *stage* some of the layers. The model's code is
//! the same for every part: parameters that are not held are never loaded, and the layers that own them never run.

use super::{Alone, Collective, Rank};
use crate::backend::Backend;
use crate::config::{ModelConfig, Place};
use std::{ops::Range, sync::Arc};

/// Consecutive layers of a model. The first stage has the embedding too, the last one the final norm and lm_head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// The layers that it holds.
    pub layers: Range<usize>,
    /// Layers of the whole model.
    pub of: usize,
}

impl Stage {
    /// All layers.
    pub fn whole(config: &ModelConfig) -> Stage {
        Stage { layers: 0..config.num_hidden_layers, of: config.num_hidden_layers }
    }

    /// Whether it begins with the embedding.
    pub fn is_first(&self) -> bool {
        self.layers.start == 0
    }

    /// Whether it ends in logits.
    pub fn is_last(&self) -> bool {
        self.layers.end == self.of
    }

    // ANCHOR: holds
    /// Whether it needs a tensor of this name, with or without the base model's prefix. Where lm_head is tied to the embedding, both ends need that table,
    /// by whichever of the two names the checkpoint has it. A tensor that belongs to no stage, such as one of a layer that the model does not have, is every stage's: each refuses it.
    pub fn holds(&self, name: &str, tied: bool) -> bool {
        let (first, last) = (self.is_first(), self.is_last());
        match Place::of(name) {
            Some(Place::Layer(layer)) => self.layers.contains(&layer) || layer >= self.of,
            Some(Place::Positions) => first,
            Some(Place::Embedding) => first || tied && last,
            Some(Place::Head) => last || tied && first,
            Some(Place::Norm) => last,
            None => true,
        }
    }
    // ANCHOR_END: holds
}

/// A process's place among those that share a model.
pub struct Part<B: Backend> {
    /// Which slice of every matrix, and which layers.
    pub rank: Rank,
    pub stage: Stage,
    /// What puts the slices' results together.
    pub collective: Arc<dyn Collective<B>>,
}

impl<B: Backend> Part<B> {
    /// All of a model.
    pub fn whole(config: &ModelConfig) -> Part<B> {
        Part { rank: Rank::ALONE, stage: Stage::whole(config), collective: Arc::new(Alone) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;

    /// Every name of two families is held by the stage that runs it, and a tied table by both ends.
    #[test]
    fn names_go_to_their_stages() {
        let stages = [0..1, 1..3, 3..4].map(|layers| Stage { layers, of: 4 });
        let holders =
            |name: &str, tied| -> Vec<usize> { (0..3).filter(|i| stages[*i].holds(name, tied)).collect() };
        for (name, untied, tied) in [
            ("model.embed_tokens.weight", vec![0], vec![0, 2]),
            ("embed_tokens.weight", vec![0], vec![0, 2]),
            ("wte.weight", vec![0], vec![0, 2]),
            ("transformer.wpe.weight", vec![0], vec![0]),
            ("model.layers.0.mlp.up_proj.weight", vec![0], vec![0]),
            ("layers.2.self_attn.q_norm.weight", vec![1], vec![1]),
            ("h.3.ln_1.bias", vec![2], vec![2]),
            ("model.norm.weight", vec![2], vec![2]),
            ("transformer.ln_f.bias", vec![2], vec![2]),
            ("lm_head.weight", vec![2], vec![0, 2]),
            ("vision.patch.weight", vec![0, 1, 2], vec![0, 1, 2]),
            ("model.layers.4.mlp.up_proj.weight", vec![0, 1, 2], vec![0, 1, 2]),
        ] {
            assert_eq!(holders(name, false), untied, "{name}");
            assert_eq!(holders(name, true), tied, "{name}, tied");
        }
    }

    /// A family's table knows every parameter of its model.
    #[test]
    fn tables_fit_their_models() {
        for name in ["gpt2", "llama2", "mistral-f16", "qwen2", "qwen3"] {
            let path = format!("{}/tests/fixtures/{name}/config.json", env!("CARGO_MANIFEST_DIR"));
            let config = ModelConfig::parse(&std::fs::read(&path).unwrap(), path.as_ref()).unwrap();
            let (names, mut found) = (config.architecture.names(), Vec::new());
            let mut model = crate::model::build(&Cpu::default(), &config, 8).unwrap();
            model
                .visit(&mut |param| {
                    found.extend(param.sources.iter().map(|source| source.name.clone()));
                    Ok(())
                })
                .unwrap();
            assert!(found.iter().all(|name| names.place(name).is_some()), "{name}: {found:?}");
            let tables = [Some(names.embedding), names.positions];
            assert!(
                tables.into_iter().flatten().all(|table| found.iter().any(|name| name == table)),
                "{name}"
            );
        }
    }
}
