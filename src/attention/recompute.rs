//! Attention that keeps nothing.
//!
//! Every forward pass is given whole sequences and attends within them, so generating n tokens computes 1 + 2 + … + n of
//! them. That is step 1's honest cost, and the reason for step 2.

use crate::attention::cpu::head::{Keys, attend_head};
use crate::backend::cpu::{Cpu, CpuTensor};
use crate::batch::{Batch, Span};
use crate::model::{Attention, AttentionShape, KvMemory};
use crate::{backend::Shaped, error::Result};
use std::cell::RefCell;

/// See the module's documentation.
pub struct Recompute {
    shape: AttentionShape,
    spans: Vec<Span>,
}

impl Recompute {
    /// Attention of this shape.
    pub fn new(shape: AttentionShape) -> Recompute {
        Recompute { shape, spans: Vec::new() }
    }

    /// The first row of the sequence that holds `row`.
    fn sequence_start(&self, row: usize) -> usize {
        self.spans.iter().find(|s| s.rows.contains(&row)).map_or(row, |s| s.rows.start)
    }
}

thread_local! {
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Attention<Cpu> for Recompute {
    fn name(&self) -> &'static str {
        "recompute"
    }

    fn begin(&mut self, _: &Cpu, batch: &Batch) -> Result<Option<u64>> {
        self.spans.clone_from(&batch.spans);
        Ok(None)
    }

    fn attend(&mut self, cpu: &Cpu, layer: usize, [q, k, v]: [&CpuTensor; 3]) -> Result<CpuTensor> {
        let AttentionShape { heads, kv_heads, head_dim, scale, .. } = self.shape;
        let mut out = cpu.take(q.rows(), heads * head_dim);
        // ANCHOR: attend
        cpu.for_each_chunk(out.data_mut(), head_dim, |i, out| {
            let (row, head) = (i / heads, i % heads);
            let kv_head = cpu.kernels().kv_head(head, heads, kv_heads);
            // Causal: a row sees its sequence up to itself, or the window's last keys of it.
            let mut seen = self.sequence_start(row)..row + 1;
            if let Some(window) = self.shape.windows[layer] {
                seen.start = seen.start.max(seen.end.saturating_sub(window));
            }
            let keys = Keys { k: k.data(), v: v.data(), at: |t| (t * kv_heads + kv_head) * head_dim };
            let q = &q.row(row)[head * head_dim..][..head_dim];
            SCORES.with_borrow_mut(|scores| attend_head(cpu.isa(), q, &keys, seen, scale, scores, out));
        });
        // ANCHOR_END: attend
        Ok(out)
    }

    fn remembers(&self) -> bool {
        false
    }

    /// Nothing is reserved, and one request runs at a time.
    fn memory(&self) -> KvMemory {
        KvMemory { slots: 1, ..KvMemory::default() }
    }
}
