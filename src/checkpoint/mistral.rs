//! Mistral's own layout: `params.json` beside `consolidated.safetensors`, or beside its shards and their index.
//!
//! The files are safetensors, with names and an order of rows that mistral-inference uses. Both are changed here, where the names enter, so that
//! everything behind sees Hugging Face's.
//!
//! RoPE rotates pairs of numbers. Mistral has the two of a pair side by side in a head (0 1, 2 3, …), Hugging Face half a head apart
//! (0 and d/2, 1 and d/2 + 1, …). So the rows of wq and wk are copied once, in the other order: row j of a half comes from row 2j, or 2j + 1.

use super::dummy::memory;
use super::{CheckpointError, Directory, FileFormat, Header, Result, Shard, TensorInfo};
use crate::{json, tensor::Owner};
use serde_json::Value;
use std::sync::Arc;

const SINGLE: &str = "consolidated.safetensors";
const INDEX: &str = "consolidated.safetensors.index.json";
pub(super) const PARAMS: &str = "params.json";

/// Parts of names, as vLLM maps them (`maybe_remap_mistral`).
const NAMES: [(&str, &str); 16] = [
    ("tok_embeddings", "model.embed_tokens"),
    ("norm", "model.norm"),
    ("output", "lm_head"),
    ("layers", "model.layers"),
    ("attention", "self_attn"),
    ("attention_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("feed_forward", "mlp"),
    ("wq", "q_proj"),
    ("wk", "k_proj"),
    ("wv", "v_proj"),
    ("wo", "o_proj"),
    ("w1", "gate_proj"),
    ("w2", "down_proj"),
    ("w3", "up_proj"),
    ("qscale_weight", "weight_scale"),
];

/// Mistral's files.
pub(super) struct Consolidated {
    /// Rows of a head of wq and wk.
    head_dim: usize,
}

impl Consolidated {
    /// Those of a directory; `None` if there is no params.json or none of the files.
    ///
    /// # Errors
    /// If params.json does not say how large a head is.
    pub(super) fn of(directory: &Directory) -> Result<Option<Consolidated>> {
        if !directory.has(SINGLE) && !directory.has(INDEX) {
            return Ok(None);
        }
        let Some(params) = directory.read(PARAMS)? else { return Ok(None) };
        let bad = |reason: String| CheckpointError::Json { path: directory.path(PARAMS), reason };
        let params = json::object(&params).map_err(bad)?;
        let size = |field: &str| params.get(field).and_then(Value::as_u64).filter(|&n| n > 0);
        let head_dim = size("head_dim").or_else(|| Some(size("dim")? / size("n_heads")?));
        let head_dim = head_dim.filter(|dim| dim % 2 == 0 && *dim > 0);
        let head_dim = head_dim
            .ok_or_else(|| bad("neither 'head_dim' nor 'dim' and 'n_heads' give an even head size".into()))?;
        Ok(Some(Consolidated { head_dim: head_dim as usize }))
    }

    /// Whether the rows of a tensor are in RoPE's order: weights, biases and scales of wq and wk that have a number for each row.
    fn is_rotated(&self, name: &str, info: &TensorInfo) -> bool {
        let of_query_or_key = [".q_proj.", ".k_proj."].iter().any(|part| name.contains(part));
        of_query_or_key
            && info.shape.first().is_some_and(|&rows| rows > 1 && rows.is_multiple_of(self.head_dim))
    }
}

impl FileFormat for Consolidated {
    fn single(&self) -> &str {
        SINGLE
    }

    fn index(&self) -> &str {
        INDEX
    }

    /// A name that is none of Mistral's stays, so that a load can say that it is unexpected.
    fn name(&self, name: &str) -> Option<String> {
        if name.ends_with(".qscale_act") {
            return None; // scales of activations, which stay in f32 here
        }
        let renamed = |part| NAMES.iter().find(|(from, _)| *from == part).map_or(part, |(_, to)| *to);
        Some(name.split('.').map(renamed).collect::<Vec<_>>().join("."))
    }

    fn open(
        &self,
        directory: &Directory,
        file: &str,
        owner: Owner,
        wanted: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Vec<Shard>> {
        let mut shard = Shard::safetensors(directory, file, owner)?;
        let mut rotated = Vec::new();
        let mut header = Header { metadata: std::mem::take(&mut shard.header.metadata), ..Header::default() };
        for (name, info) in std::mem::take(&mut shard.header.tensors) {
            let Some(name) = self.name(&name) else { continue };
            match self.is_rotated(&name, &info) {
                true if wanted(&name) => rotated.push((name, info)),
                true => {}
                false => drop(header.tensors.insert(name, info)),
            }
        }
        shard.header = header;
        let copies = self.copies(&shard, rotated)?;
        Ok([shard].into_iter().chain(copies).collect())
    }
}

impl Consolidated {
    /// The tensors with their rows in Hugging Face's order, in memory of their own.
    fn copies(&self, shard: &Shard, tensors: Vec<(String, TensorInfo)>) -> Result<Option<Shard>> {
        let total: usize = tensors.iter().map(|(_, info)| info.range.len()).sum();
        if total == 0 {
            return Ok(None);
        }
        let (bytes, mut memory, mut header, mut at) =
            ((*shard.owner).as_ref(), memory(total)?, Header::default(), 0);
        for (name, info) in tensors {
            let range = at..at + info.range.len();
            at = range.end;
            unrotate(&bytes[info.range.clone()], &mut memory[range.clone()], info.shape[0], self.head_dim);
            shard.owner.release(info.range.clone());
            header.tensors.insert(name, TensorInfo { range, ..info });
        }
        Ok(Some(Shard { file: shard.file.clone(), owner: Arc::new(memory), header, copied: true }))
    }
}

/// Copies rows: pairs that are side by side in a head come half a head apart.
fn unrotate(from: &[u8], to: &mut [u8], rows: usize, head_dim: usize) {
    let (row, half) = (from.len() / rows, head_dim / 2);
    for (i, to) in to.chunks_exact_mut(row).enumerate() {
        let (head, at) = (i / head_dim, i % head_dim);
        let source = head * head_dim + at % half * 2 + at / half;
        to.copy_from_slice(&from[source * row..(source + 1) * row]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_pair_come_half_a_head_apart() {
        // Two heads of four rows of two bytes.
        let from: Vec<u8> = (0..16).collect();
        let mut to = [0; 16];
        unrotate(&from, &mut to, 8, 4);
        assert_eq!(to, [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]);
    }

    #[test]
    fn names_become_hugging_faces() {
        let name = |name| Consolidated { head_dim: 4 }.name(name);
        for (mistral, want) in [
            ("tok_embeddings.weight", Some("model.embed_tokens.weight")),
            ("norm.weight", Some("model.norm.weight")),
            ("output.weight", Some("lm_head.weight")),
            ("layers.10.attention.wq.weight", Some("model.layers.10.self_attn.q_proj.weight")),
            ("layers.0.attention_norm.weight", Some("model.layers.0.input_layernorm.weight")),
            ("layers.0.ffn_norm.weight", Some("model.layers.0.post_attention_layernorm.weight")),
            ("layers.0.feed_forward.w3.qscale_weight", Some("model.layers.0.mlp.up_proj.weight_scale")),
            ("layers.0.feed_forward.w2.qscale_act", None),
            ("vision.patch.weight", Some("vision.patch.weight")),
        ] {
            assert_eq!(name(mistral).as_deref(), want, "{mistral}");
        }
    }
}
