//! What each model family calls things: one table a family, for config.json, the loader and the module tree.

/// The names of one family. Names of tensors and modules are those of its state dict in transformers.
#[derive(Debug, PartialEq, Eq)]
pub struct FamilyNames {
    /// The model's class, in `architectures` and at the root of the module tree.
    pub architecture: &'static str,
    /// config.json's `model_type`, which names the family where `architectures` is absent.
    pub model_type: &'static str,
    /// What else `architectures` and `model_type` call it: old spellings, and families that compute the same.
    pub also: &'static [&'static str],
    /// The first part of its other classes' names: `Qwen3` of `Qwen3Attention`.
    pub class: &'static str,
    /// The base model's prefix. Checkpoints of the base model alone leave it out.
    pub prefix: &'static str,
    /// The token embedding, which lm_head may be tied to.
    pub embedding: &'static str,
    /// The embedding of positions, if they are learned.
    pub positions: Option<&'static str>,
    /// What the names of layer i's tensors begin with, up to i.
    pub layers: &'static str,
    /// What the names of the final norm's tensors begin with.
    pub norm: &'static str,
    /// Ends of the names of tensors that checkpoints hold and no load needs.
    pub skipped: &'static [&'static str],
}

/// lm_head's tensor, in every family.
pub const LM_HEAD: &str = "lm_head.weight";

pub(super) static GPT2: FamilyNames = FamilyNames {
    architecture: "GPT2LMHeadModel",
    model_type: "gpt2",
    also: &[],
    class: "GPT2",
    prefix: "transformer.",
    embedding: "transformer.wte.weight",
    positions: Some("transformer.wpe.weight"),
    layers: "transformer.h.",
    norm: "transformer.ln_f.",
    // Causal masks, which early versions of transformers saved.
    skipped: &[".attn.bias", ".attn.masked_bias"],
};
pub(super) static LLAMA: FamilyNames =
    FamilyNames { also: &["LLaMAForCausalLM"], ..decoder("LlamaForCausalLM", "llama", "Llama") };
/// Ministral is Mistral with windows in the layers that `layer_types` names.
pub(super) static MISTRAL: FamilyNames = FamilyNames {
    also: &["MinistralForCausalLM", "ministral"],
    ..decoder("MistralForCausalLM", "mistral", "Mistral")
};
pub(super) static QWEN2: FamilyNames = decoder("Qwen2ForCausalLM", "qwen2", "Qwen2");
pub(super) static QWEN3: FamilyNames = decoder("Qwen3ForCausalLM", "qwen3", "Qwen3");

/// A family that has Llama's module names.
const fn decoder(architecture: &'static str, model_type: &'static str, class: &'static str) -> FamilyNames {
    FamilyNames {
        architecture,
        model_type,
        also: &[],
        class,
        prefix: "model.",
        embedding: "model.embed_tokens.weight",
        positions: None,
        layers: "model.layers.",
        norm: "model.norm.",
        // Tables of RoPE, which early versions of transformers saved.
        skipped: &["rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached"],
    }
}

/// The part of a model that a tensor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The token embedding.
    Embedding,
    /// The embedding of positions.
    Positions,
    /// The layer of this number.
    Layer(usize),
    /// The final norm.
    Norm,
    /// lm_head.
    Head,
}

impl Place {
    /// Where a tensor of this name belongs in whatever family has it, with or without the base model's prefix.
    pub fn of(name: &str) -> Option<Place> {
        super::Architecture::ALL.into_iter().find_map(|family| family.names().place(name))
    }
}

impl FamilyNames {
    /// Whether config.json means this family by a name in `architectures` or `model_type`.
    pub fn is_called(&self, name: &str) -> bool {
        name == self.architecture || name == self.model_type || self.also.contains(&name)
    }

    /// Where a tensor of this name belongs, with or without the base model's prefix; `None` if the family has no such tensor.
    pub fn place(&self, name: &str) -> Option<Place> {
        let bare = |name| str::strip_prefix(name, self.prefix).unwrap_or(name);
        let (name, is) = (bare(name), |known: &'static str| bare(name) == bare(known));
        match name {
            LM_HEAD => Some(Place::Head),
            _ if is(self.embedding) => Some(Place::Embedding),
            _ if self.positions.is_some_and(is) => Some(Place::Positions),
            _ if name.starts_with(bare(self.norm)) => Some(Place::Norm),
            _ => name.strip_prefix(bare(self.layers))?.split('.').next()?.parse().ok().map(Place::Layer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_place_with_and_without_the_prefix() {
        for (name, place) in [
            ("model.embed_tokens.weight", Some(Place::Embedding)),
            ("wte.weight", Some(Place::Embedding)),
            ("transformer.wpe.weight", Some(Place::Positions)),
            ("layers.12.mlp.up_proj.weight", Some(Place::Layer(12))),
            ("transformer.h.3.ln_1.bias", Some(Place::Layer(3))),
            ("ln_f.bias", Some(Place::Norm)),
            ("lm_head.weight", Some(Place::Head)),
            ("model.layers.x.weight", None),
            ("vision.patch.weight", None),
        ] {
            assert_eq!(Place::of(name), place, "{name}");
        }
        assert_eq!(GPT2.place("model.norm.weight"), None);
    }
}
