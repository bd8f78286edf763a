//! The contracts of step 2, for the exercises of chapter 2: a KV cache in pieces.

pub use super::cached::{Pieces, tells_the_demo_story, tells_the_windowed_story};
use super::check_values;
use stairwell::model::AttentionShape;
use std::{cell::RefCell, collections::BTreeMap};

/// The cache of one layer and one sequence, in pieces. Each has an answer of ours, so that a reader can write one alone.
pub trait KvCache: Send {
    /// Keeps one token's K and V, [kv_heads · head_dim] each. The caches are [tokens, kv_heads · head_dim]; `place` says which row
    /// of them is the token's.
    fn write(&self, k_cache: &mut [f32], v_cache: &mut [f32], place: usize, k: &[f32], v: &[f32]) {
        let start = place * k.len();
        k_cache[start..][..k.len()].copy_from_slice(k);
        v_cache[start..][..v.len()].copy_from_slice(v);
    }

    /// out = softmax(q · k · scale) v for one token, over the positions up to its own; q and out are [heads · head_dim].
    /// Each vector of K and V is read once, for all query heads that share it.
    fn attend(
        &self,
        shape: &AttentionShape,
        position: usize,
        q: &[f32],
        k: &Vectors,
        v: &Vectors,
        out: &mut [f32],
    ) {
        let d = shape.head_dim;
        let group = shape.heads / shape.kv_heads;
        let queries = q.chunks_exact(group * d).zip(out.chunks_exact_mut(group * d));
        for (kv_head, (q, out)) in queries.enumerate() {
            let mut weights = vec![vec![0.0; position + 1]; group];
            for t in 0..=position {
                let k = k.vector(t, kv_head);
                for (weights, q) in weights.iter_mut().zip(q.chunks_exact(d)) {
                    weights[t] = q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>() * shape.scale;
                }
            }
            for weights in &mut weights {
                let greatest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                weights.iter_mut().for_each(|w| *w = (*w - greatest).exp());
                let sum: f32 = weights.iter().sum();
                weights.iter_mut().for_each(|w| *w /= sum);
            }
            out.fill(0.0);
            for t in 0..=position {
                let v = v.vector(t, kv_head);
                for (weights, out) in weights.iter().zip(out.chunks_exact_mut(d)) {
                    out.iter_mut().zip(v).for_each(|(out, v)| *out += weights[t] * v);
                }
            }
        }
    }

    /// The row of a ring of `tokens` rows that a position has.
    fn ring_place(&self, position: usize, tokens: usize) -> usize {
        position % tokens
    }

    /// How many rows the ring of a layer needs whose queries see `window` keys, their own included, if forward passes bring at most
    /// `max_chunk` tokens and a sequence has at most `max_tokens`.
    fn ring_tokens(&self, window: usize, max_chunk: usize, max_tokens: usize) -> usize {
        max_tokens.min(window + max_chunk - 1)
    }
}

/// K or V of one layer and one sequence, read one vector at a time. It counts the reads.
pub struct Vectors<'a> {
    name: &'static str,
    /// [tokens, kv_heads · head_dim]
    kept: &'a [f32],
    shape: &'a AttentionShape,
    /// The row of a position.
    place: &'a dyn Fn(usize) -> usize,
    reads: RefCell<BTreeMap<(usize, usize), usize>>,
}

impl<'a> Vectors<'a> {
    pub(super) fn new(
        name: &'static str,
        kept: &'a [f32],
        shape: &'a AttentionShape,
        place: &'a dyn Fn(usize) -> usize,
    ) -> Vectors<'a> {
        Vectors { name, kept, shape, place, reads: RefCell::default() }
    }

    /// The vector `[head_dim]` of a position and a head of K and V.
    ///
    /// # Panics
    /// If there is no such position or head.
    #[track_caller]
    pub fn vector(&self, position: usize, kv_head: usize) -> &'a [f32] {
        let (name, kv_heads, head_dim) = (self.name, self.shape.kv_heads, self.shape.head_dim);
        if kv_head >= kv_heads {
            panic!(
                "{name} of KV head {kv_head} was asked for, and there are {kv_heads}: did you give each query head a KV head of its own?"
            );
        }
        let start = ((self.place)(position) * kv_heads + kv_head) * head_dim;
        let Some(vector) = self.kept.get(start..start + head_dim) else {
            let tokens = self.kept.len() / (kv_heads * head_dim);
            panic!("{name} of position {position} was asked for, and the cache has room for {tokens} tokens");
        };
        *self.reads.borrow_mut().entry((position, kv_head)).or_default() += 1;
        vector
    }

    /// Panics if a vector was read more than once.
    #[track_caller]
    fn check_reads(&self) {
        let reads = self.reads.borrow();
        let Some(((position, kv_head), times)) = reads.iter().find(|(_, times)| **times > 1) else { return };
        let (name, group) = (self.name, self.shape.heads / self.shape.kv_heads);
        panic!(
            "the values are right, but {name} of position {position}, KV head {kv_head}, was read {times} times: did you read it again \
             for each query head? Read it once, and use it for all {group} of its group"
        );
    }
}

/// `write` puts K and V of a token into its row of the caches, and leaves the others alone.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn write(cache: &impl KvCache) {
    let (tokens, n, width) = (9, 6, 6); // room is left behind the last token
    let k = |token: usize, i: usize| wave(token * width + i);
    let v = |token: usize, i: usize| wave(token * width + i + 200);
    let vector =
        |of: &dyn Fn(usize, usize) -> f32, token| (0..width).map(|i| of(token, i)).collect::<Vec<_>>();
    let (mut k_cache, mut v_cache) = (vec![0.0; tokens * width], vec![0.0; tokens * width]);
    // Position 2 is written again in the end, as when a sequence was taken back.
    for (place, token) in (0..n).map(|t| (t, t)).chain([(2, 7)]) {
        cache.write(&mut k_cache, &mut v_cache, place, &vector(&k, token), &vector(&v, token));
    }

    // The cache if the vector of (place, token) went to element `start` for each of the writes.
    let written = |of: &dyn Fn(usize, usize) -> f32, start: &dyn Fn(usize) -> usize| {
        let mut cache = vec![0.0; tokens * width];
        for (place, token) in (0..n).map(|t| (t, t)).chain([(2, 7)]) {
            let vector = vector(of, token);
            cache[start(place)..][..width].iter_mut().zip(vector).for_each(|(to, x)| *to = f64::from(x));
        }
        cache
    };
    let right = |place| place * width;
    for (name, got, mine, other) in [
        ("K", &k_cache, &k as &dyn Fn(usize, usize) -> f32, &v as &dyn Fn(usize, usize) -> f32),
        ("V", &v_cache, &v, &k),
    ] {
        let left_out = format!("leave out {name}");
        let suspects = [
            ("overwrite position 0 every time", written(mine, &|_| 0)),
            (
                "take the token's place for its first element? A row has k.len() of them, so it starts at place * k.len(): did you multiply",
                written(mine, &|place| place),
            ),
            ("write each token one row behind its own", written(mine, &|place| (place + 1) * width)),
            ("exchange K and V", written(other, &right)),
            (&left_out, vec![0.0; tokens * width]),
        ];
        let what = format!("the {name} cache [{tokens}, {width}] after tokens 0 to {}", n - 1);
        check_values(&what, got, &written(mine, &right), &suspects);
    }
}

/// A case of `attend`: its shape, and values that a mistake could not share.
struct Case {
    shape: AttentionShape,
    tokens: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(heads: usize, kv_heads: usize, head_dim: usize, size: f32) -> Case {
        let tokens = 9;
        let (layers, windows) = (0..1, vec![None]);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let shape = AttentionShape { layers, heads, kv_heads, head_dim, scale, windows, context: tokens };
        let values = |n: usize, from: usize| -> Vec<f32> { (0..n).map(|i| wave(i + from)).collect() };
        let q = values(heads * head_dim, 100).into_iter().map(|q| size * q).collect();
        let kept = tokens * kv_heads * head_dim;
        Case { shape, tokens, q, k: values(kept, 300), v: values(kept, 700) }
    }

    /// In f64: attention over the first `seen` positions, with other ways to scale, to weight and to choose the KV head.
    fn formula(
        &self,
        seen: usize,
        scale: f32,
        weights: &dyn Fn(&[f64]) -> Vec<f64>,
        kv_head: &dyn Fn(usize) -> usize,
    ) -> Vec<f64> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let at = |t: usize, head: usize, i: usize| (t * kv_heads + kv_head(head)) * head_dim + i;
        let dot = |head: usize, t: usize| -> f64 {
            (0..head_dim)
                .map(|i| f64::from(self.q[head * head_dim + i]) * f64::from(self.k[at(t, head, i)]))
                .sum()
        };
        let mut out = Vec::new();
        for head in 0..heads {
            let scores: Vec<f64> = (0..seen).map(|t| dot(head, t) * f64::from(scale)).collect();
            let weights = weights(&scores);
            let sum =
                |i| weights.iter().enumerate().map(|(t, w)| w * f64::from(self.v[at(t, head, i)])).sum();
            out.extend((0..head_dim).map(sum).collect::<Vec<f64>>());
        }
        out
    }
}

fn exps(scores: &[f64]) -> Vec<f64> {
    scores.iter().map(|s| s.exp()).collect()
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = scores.iter().map(|s| (s - greatest).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|e| e / sum).collect()
}

/// `attend` is softmax(q · k · scale) v over the positions up to the token's own, and reads each vector of K and V once.
///
/// # Panics
/// If it is not.
#[track_caller]
pub fn attend(cache: &impl KvCache) {
    // The cache is full, as it is behind a prompt's last row: what comes after the token's own position must not be seen.
    for (heads, kv_heads, head_dim, position, size) in
        [(4, 2, 8, 5, 1.0), (4, 2, 8, 0, 1.0), (3, 1, 5, 7, 1.0), (2, 2, 4, 6, 1.0), (4, 2, 8, 5, 400.0)]
    {
        let case = Case::new(heads, kv_heads, head_dim, size);
        let Case { shape, tokens, q, .. } = &case;
        let place = |position| position;
        let (k, v) = (Vectors::new("K", &case.k, shape, &place), Vectors::new("V", &case.v, shape, &place));
        let old = 7.0;
        let mut out = vec![old; q.len()];
        cache.attend(shape, position, q, &k, &v, &mut out);

        let what = format!(
            "attention [{heads}, {head_dim}] at position {position} ({kv_heads} KV heads, q up to {size})"
        );
        if let Some(at) = out.iter().position(|x| !x.is_finite()) {
            panic!(
                "element {at} of {what} is {}: did you subtract the greatest score before exp? e^89 is more than f32 holds",
                out[at]
            );
        }
        let (group, seen) = (heads / kv_heads, position + 1);
        let neighbours = |head| head / group;
        let over = |seen| case.formula(seen, shape.scale, &softmax, &neighbours);
        let want = over(seen);
        let shifted = want.iter().map(|x| x + f64::from(old)).collect();
        let mut suspects = vec![
            ("forget to scale", case.formula(seen, 1.0, &softmax, &neighbours)),
            (
                "divide by scale, which is a factor",
                case.formula(seen, 1.0 / shape.scale, &softmax, &neighbours),
            ),
            ("attend over one position too many, the future", over(seen + 1)),
            ("attend over the whole cache, the future included", over(*tokens)),
            (
                "take head % kv_heads? The heads of a group are neighbours: did you divide by the group's size",
                case.formula(seen, shape.scale, &softmax, &|head| head % kv_heads),
            ),
            ("read KV head 0 for every query head", case.formula(seen, shape.scale, &softmax, &|_| 0)),
            (
                "forget to divide by the sum of the weights",
                case.formula(seen, shape.scale, &exps, &neighbours),
            ),
            ("forget exp", case.formula(seen, shape.scale, &|scores| scores.to_vec(), &neighbours)),
            ("add to the old values in out", shifted),
        ];
        if position > 0 {
            suspects.push(("attend over one position too few, without the token's own", over(position)));
        }
        check_values(&what, &out, &want, &suspects);
        k.check_reads();
        v.check_reads();
    }
}

/// `ring_place` starts again where the ring ends, and `ring_tokens` makes it just long enough for a window and a chunk.
///
/// # Panics
/// If they do not.
#[track_caller]
pub fn ring(cache: &impl KvCache) {
    for tokens in [1, 4, 5] {
        for position in 0..3 * tokens {
            let (got, want) = (cache.ring_place(position, tokens), position % tokens);
            let hint = match () {
                () if got == position => ": did you forget to start again at 0?",
                () if got == position.min(tokens - 1) => ": did you stop at the last place?",
                () if got == (position + 1) % tokens => ": did you put position 0 into place 1?",
                () => "",
            };
            if got != want {
                panic!("position {position} is in place {got} of a ring of {tokens}, expected {want}{hint}");
            }
        }
    }
    for (window, chunk, max_tokens) in
        [(4, 1, 20), (4, 3, 20), (8, 5, 100), (8, 5, 10), (3, 10, 100), (1, 1, 5)]
    {
        let got = cache.ring_tokens(window, chunk, max_tokens);
        let want = max_tokens.min(window + chunk - 1);
        if got == want {
            continue;
        }
        let hint = match () {
            () if got == window && chunk > 1 => ": is the ring as long as the window alone?",
            () if got == window + chunk && got != max_tokens => {
                ": did you count the row's own position twice? It is in the window and in the chunk"
            }
            () if got == window + chunk - 1 => ": did you forget that no sequence is longer than max_tokens?",
            () if got == max_tokens => ": did you keep the whole sequence? Only the window is seen",
            () => "",
        };
        let lost = lost_key(got, window, chunk, max_tokens).unwrap_or_default();
        panic!(
            "a ring for window {window}, chunks of {chunk}, at most {max_tokens} tokens is {got} long, expected {want}{hint}{lost}"
        );
    }
}

/// Runs a sequence through a ring in chunks, and tells of the first key that a row wants and no longer finds.
pub fn lost_key(tokens: usize, window: usize, chunk: usize, max_tokens: usize) -> Option<String> {
    let mut ring = vec![usize::MAX; tokens];
    if tokens == 0 {
        return Some("\n  nothing can be kept in it".into());
    }
    for start in (0..max_tokens).step_by(chunk) {
        let rows = start..max_tokens.min(start + chunk);
        rows.clone().for_each(|position| ring[position % tokens] = position);
        for row in rows.clone() {
            let lost = ((row + 1).saturating_sub(window)..=row).find(|t| ring[t % tokens] != *t);
            if let Some(t) = lost {
                let found = ring[t % tokens];
                return Some(format!(
                    "\n  the chunk of positions {} to {} is written; then row {row} looks for position {t} and finds {found} in its place",
                    rows.start,
                    rows.end - 1
                ));
            }
        }
    }
    None
}

/// Values in −1..1 without a pattern that a mistake could share.
fn wave(i: usize) -> f32 {
    (1.7 * i as f32 + 0.3).sin()
}
