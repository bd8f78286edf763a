//! A reader's KV cache in the engine: pieces put together to an [`Attention`], and the stories that are told with it.

use super::{
    step2::{KvCache, Vectors},
    story::{NO_WINDOWS, PROMPT, TOKENS, Windows, check_story_of},
};
use stairwell::{
    backend::{
        Shaped,
        cpu::{Cpu, CpuTensor},
    },
    batch::Batch,
    demo,
    error::Result,
    model::{Attention, AttentionShape},
    runner::{LoadOptions, ModelRunner},
};

/// The positions that a row sees in the windowed story; the prompt, one chunk, is longer.
pub const WINDOWS: Windows = [Some(4), None, Some(4), None];
pub const WINDOWED_PROMPT: &str = "One day, Tom found a big box in the park. He";

/// The demo model with this cache writes the story that it writes by computing everything again, and computes each token once.
///
/// # Panics
/// If it does not, with both stories.
#[track_caller]
pub fn tells_the_demo_story(cache: impl KvCache + 'static) {
    tells(NO_WINDOWS, PROMPT, cache);
}

/// The same with windows of 4 tokens in every other layer, whose K and V are kept in rings.
///
/// # Panics
/// If it does not, with both stories.
#[track_caller]
pub fn tells_the_windowed_story(cache: impl KvCache + 'static) {
    tells(WINDOWS, WINDOWED_PROMPT, cache);
}

#[track_caller]
fn tells(windows: Windows, prompt: &str, cache: impl KvCache + 'static) {
    let longest = prompt.len() + TOKENS; // a token of the prompt has at least a byte
    let (demo, options) = (demo::directory(), LoadOptions::default());
    let mine = ModelRunner::load_with(Cpu::default(), &demo, options, |mut shape, _| {
        shape.windows = windows.to_vec();
        Ok(Box::new(Pieces::new(cache, shape, prompt.len(), longest)) as Box<dyn Attention<Cpu>>)
    });
    let (prompt, computed) = check_story_of(windows, prompt, mine);
    let once = prompt + TOKENS as u64 - 1; // the last token is sampled and not run
    assert_eq!(
        computed, once,
        "{computed} tokens went through the model for a prompt of {prompt} and {TOKENS} more: is the cache used?"
    );
}

/// Attention over a cache that is put together from pieces: one sequence, row by row, on one core.
pub struct Pieces<C> {
    cache: C,
    shape: AttentionShape,
    /// Position of the batch's first row.
    start: usize,
    layers: Vec<Layer>,
}

/// K and V of one layer, each [tokens, kv_heads · head_dim].
struct Layer {
    tokens: usize,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl<C: KvCache> Pieces<C> {
    /// A cache of `max_tokens`, for forward passes of at most `max_chunk`.
    pub fn new(cache: C, shape: AttentionShape, max_chunk: usize, max_tokens: usize) -> Pieces<C> {
        let layer = |layer: usize| {
            let ring = |window| cache.ring_tokens(window, max_chunk, max_tokens);
            let tokens = shape.windows[layer].map_or(max_tokens, ring);
            let elements = tokens * shape.kv_heads * shape.head_dim;
            Layer { tokens, k: vec![0.0; elements], v: vec![0.0; elements] }
        };
        let layers = shape.layers.clone().map(layer).collect();
        Pieces { cache, shape, start: 0, layers }
    }
}

impl<C: KvCache> Attention<Cpu> for Pieces<C> {
    fn name(&self) -> &'static str {
        "pieces"
    }

    fn begin(&mut self, _: &Cpu, batch: &Batch) -> Result<Option<u64>> {
        self.start = batch.positions[0] as usize;
        Ok(None)
    }

    fn attend(&mut self, cpu: &Cpu, layer: usize, [q, k, v]: [&CpuTensor; 3]) -> Result<CpuTensor> {
        let Pieces { cache, shape, start, layers } = self;
        let (window, Layer { tokens, k: k_cache, v: v_cache }) = (shape.windows[layer], &mut layers[layer]);
        let place = |position| window.map_or(position, |_| cache.ring_place(position, *tokens));
        for row in 0..q.rows() {
            cache.write(k_cache, v_cache, place(*start + row), k.row(row), v.row(row));
        }
        let mut out = cpu.take(q.rows(), q.cols());
        for row in 0..q.rows() {
            let position = *start + row;
            // A window's positions are counted from its first, so that `attend` needs to know nothing of it.
            let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
            let place = |position| place(first + position);
            let k = Vectors::new("K", k_cache, shape, &place);
            let v = Vectors::new("V", v_cache, shape, &place);
            cache.attend(shape, position - first, q.row(row), &k, &v, out.row_mut(row));
        }
        Ok(out)
    }
}
