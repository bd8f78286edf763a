//! Step 6: attention over prompts against f64, version by version: random shapes, ragged batches, prefixes in a cache, windows, scores far apart.

use crate::device::device_in;
use crate::paged_case::{Case, KeepsKv, Sequence, bits};
use crate::random::{Random, download, near};
use stairwell::{
    attention::{
        KvDtype, KvOptions,
        cuda::{FLASH_ROWS, FlashCuda},
    },
    backend::{
        Backend,
        cuda::{
            Cuda, CudaOptions, CudaTensor, FlashVersion, FlashWork, Ids, KernelShape, PagedShape, Profile,
            Schedule, profile_kernel,
        },
    },
    batch::Batch,
    model::{Attention, AttentionShape},
    tensor::DType,
};

impl KeepsKv for FlashCuda {
    fn build(cuda: &Cuda, shape: AttentionShape, options: &KvOptions) -> FlashCuda {
        FlashCuda::new(cuda.device(), shape, options, 1 << 32).unwrap()
    }
    fn keep(&self, cuda: &Cuda, k: &CudaTensor, v: &CudaTensor) {
        self.write(cuda, 0, k, v).unwrap();
    }
}

/// The largest distance from f64 on the same rounded q, k and v, relative to 1 + |expected|. v2 and v3 round weights to 16 bits, which is all
/// of it: a weight is off by half a unit of its dtype.
fn tolerance(version: FlashVersion, dtype: KvDtype) -> f64 {
    match (version, dtype) {
        (FlashVersion::V0 | FlashVersion::V1, _) => 4e-5,
        (_, KvDtype::Bf16) => 6e-3,
        _ => 8e-4,
    }
}

const WIDTHS: [usize; 5] = [64, 80, 96, 128, 256];

fn asking(version: FlashVersion) -> CudaOptions {
    CudaOptions { prefill: Some(version as usize), ..CudaOptions::default() }
}

/// Those that the device has.
fn versions() -> Vec<FlashVersion> {
    let hopper = crate::device::device().is_hopper();
    FlashVersion::ALL.into_iter().filter(|version| hopper || *version != FlashVersion::V4).collect()
}

fn on_tensor_cores(version: FlashVersion) -> bool {
    !matches!(version, FlashVersion::V0 | FlashVersion::V1)
}

/// Prompts of up to `rows` rows, some behind a prefix, among sequences that decode.
fn random_case(random: &mut Random, version: FlashVersion, rows: usize) -> Case {
    let block_size = random.of(&[1, 4, 8, 16, 32]);
    let mut sequences: Vec<Sequence> = (0..random.between(1, 4))
        .map(|_| {
            let (many, new) = (random.between(0, 150), random.between(2, rows));
            Sequence { shared: 0, before: random.of(&[0, 1, many]), new: random.of(&[1, new, new]) }
        })
        .collect();
    let whole = sequences[0].before / block_size;
    for sequence in &mut sequences[1..] {
        sequence.shared = random.between(0, whole).min(sequence.before / block_size);
    }
    let dtype = match on_tensor_cores(version) {
        true => random.of(&[KvDtype::Bf16, KvDtype::F16]),
        false => random.of(&[KvDtype::F32, KvDtype::Bf16, KvDtype::F16, KvDtype::Fp8]),
    };
    let widths = match version {
        FlashVersion::V0 | FlashVersion::V1 => &[4, 12, 36, 64, 80, 128, 256],
        FlashVersion::V4 => &[64, 128][..],
        _ => &WIDTHS,
    };
    Case {
        group: random.of(&[1, 2, 3, 4, 7, 8, 16]),
        kv_heads: random.between(1, 2),
        head_dim: random.of(widths),
        block_size,
        window: (random.next() < 0.3).then(|| random.between(1, 90)),
        dtype,
        options: asking(version),
        queries: if on_tensor_cores(version) { dtype.stored() } else { DType::F32 },
        sequences,
    }
}

#[test]
fn every_version_over_random_shapes() {
    let random = &mut Random(11);
    let versions = versions();
    for turn in 0..50 {
        let version = versions[turn % versions.len()];
        let mut case = random_case(random, version, 70);
        // Rows that decode keep their queries in f32: they run beside prompts in the test of mixed batches.
        case.sequences.iter_mut().for_each(|s| s.new = s.new.max(FLASH_ROWS));
        case.check::<FlashCuda>(random, tolerance(version, case.dtype));
    }
}

/// Prompts and rows that decode in one batch: each gets what it gets alone, on its own kernel.
#[test]
fn mixed_batches() {
    let random = &mut Random(12);
    for _ in 0..12 {
        let mut case = random_case(random, FlashVersion::V1, 40);
        case.head_dim = random.of(&[16, 64]);
        case.sequences.push(Sequence { shared: 0, before: random.between(1, 100), new: 1 });
        case.sequences.push(Sequence { shared: 0, before: random.between(0, 100), new: 9 });
        case.check::<FlashCuda>(random, 4e-5);
    }
}

/// Every width and dtype that models have, for groups from 1 to 16, on the version that is chosen where nobody asks.
#[test]
fn the_widths_of_real_models_run_on_tensor_cores() {
    let random = &mut Random(13);
    for head_dim in WIDTHS {
        for (dtype, arithmetic) in [(KvDtype::Bf16, DType::BF16), (KvDtype::F16, DType::F16)] {
            for group in [1, 5, 16] {
                let options = CudaOptions { dtype: Some(arithmetic), ..CudaOptions::default() };
                let sequences = vec![Sequence { shared: 0, before: 40, new: 33 }];
                let (kv_heads, block_size, window, queries) = (1, 16, None, dtype.stored());
                let case = Case {
                    group,
                    kv_heads,
                    head_dim,
                    block_size,
                    window,
                    dtype,
                    options,
                    queries,
                    sequences,
                };
                case.check::<FlashCuda>(random, tolerance(FlashVersion::V3, dtype));
                let cuda = Cuda::with_options(device_in(Schedule::Forward), options);
                let mut attention: FlashCuda = case.attention(&cuda);
                let mut batch = Batch::default();
                batch.push(&[0; 20], 0, &case.tables()[0]);
                attention.begin(&cuda, &batch).unwrap();
                assert_eq!(attention.prefill_kernel(), Some("flash_attention_v3"), "{head_dim}, {dtype}");
            }
        }
    }
}

/// A prompt in chunks has the bits of the prompt at once, as long as a chunk is a prompt too.
#[test]
fn chunks_have_the_same_bits() {
    let random = &mut Random(14);
    for version in versions() {
        let mut case = random_case(random, version, 2);
        case.window = None;
        case.sequences = vec![Sequence { shared: 0, before: 0, new: 75 }];
        let numbers = case.numbers(random);
        let cuda = Cuda::with_options(device_in(Schedule::Forward), case.options);
        let whole = case.attend(&cuda, &mut case.attention::<FlashCuda>(&cuda), &numbers, &[0]).remove(0);
        for chunk in [2, 17, 40] {
            let mut attention: FlashCuda = case.attention(&cuda);
            let row = case.heads() * case.head_dim;
            for start in (0..75).step_by(chunk).filter(|start| 75 - start >= FLASH_ROWS) {
                let new = chunk.min(75 - start);
                let part =
                    Case { sequences: vec![Sequence { shared: 0, before: start, new }], ..case.clone() };
                let cut =
                    |x: &[f32], width: usize, from: usize| x[from * width..(start + new) * width].to_vec();
                let width = case.kv_heads * case.head_dim;
                let of_chunk = crate::paged_case::Numbers {
                    q: vec![cut(&numbers.q[0], row, start)],
                    k: vec![cut(&numbers.k[0], width, 0)],
                    v: vec![cut(&numbers.v[0], width, 0)],
                };
                let tables = case.tables();
                let got = part.attend_in(&cuda, &mut attention, &of_chunk, &[0], &tables).remove(0);
                assert_eq!(
                    bits(&got),
                    bits(&whole[start * row..(start + new) * row]),
                    "{version:?}, chunks of {chunk}, from row {start}"
                );
            }
        }
    }
}

/// The logarithm of each row's sum, which merges parts of a context: against f64, and as what merges two halves into the whole.
#[test]
fn the_log_of_the_sum_is_kept() {
    let random = &mut Random(15);
    for version in versions() {
        let (heads, head_dim, tokens) = (2, 64, 50);
        let cuda = Cuda::new(device_in(Schedule::Forward));
        let dtype = if on_tensor_cores(version) { KvDtype::Bf16 } else { KvDtype::F32 };
        let sequences = vec![Sequence { shared: 0, before: 0, new: tokens }];
        let (kv_heads, block_size, options) = (1, 64, CudaOptions::default());
        let queries = if on_tensor_cores(version) { DType::BF16 } else { DType::F32 };
        let case = Case {
            group: heads,
            kv_heads,
            head_dim,
            block_size,
            window: None,
            dtype,
            options,
            queries,
            sequences,
        };
        let numbers = case.numbers(random);
        let kept = |x: &[f32]| -> Vec<f32> {
            x.iter().map(|x| crate::random::rounded(dtype.stored(), *x)).collect()
        };
        let (q, k) = (&numbers.q[0], kept(&numbers.k[0]));
        let want: Vec<f64> = (0..tokens * heads)
            .map(|at| {
                let query = &q[at * head_dim..][..head_dim];
                let score = |t: usize| -> f64 {
                    let pairs = query.iter().zip(&k[t * head_dim..][..head_dim]);
                    pairs
                        .map(|(q, k)| f64::from(crate::random::rounded(queries, *q)) * f64::from(*k))
                        .sum::<f64>()
                        * f64::from(case.scale())
                };
                let scores: Vec<f64> = (0..=at / heads).map(score).collect();
                let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                largest + scores.iter().map(|s| (s - largest).exp()).sum::<f64>().ln()
            })
            .collect();
        let bytes = |x: &[f32]| -> Vec<u8> {
            let each = |x: &f32| match dtype {
                KvDtype::Bf16 => half::bf16::from_f32(*x).to_le_bytes().to_vec(),
                _ => x.to_le_bytes().to_vec(),
            };
            x.iter().flat_map(each).collect()
        };
        // One block holds the whole sequence, [1, 1, block_size, head_dim].
        let upload = |x: &[f32]| {
            let mut all = bytes(x);
            all.resize(block_size * head_dim * dtype.stored().bytes(), 0);
            stairwell::backend::cuda::Buffer::of(cuda.device(), &all).unwrap()
        };
        let (k, v) = (upload(&numbers.k[0]), upload(&numbers.v[0]));
        let ids = |values: &[u32]| {
            let mut ids = Ids::new(cuda.device(), values.len()).unwrap();
            ids.write(values).unwrap();
            ids
        };
        let (table, starts) = (ids(&[0]), ids(&vec![0; tokens]));
        let (positions, row_starts, row_counts) =
            (ids(&(0..tokens as u32).collect::<Vec<_>>()), ids(&[0]), ids(&[tokens as u32]));
        let work = FlashWork {
            shape: PagedShape { heads, kv_heads, head_dim, block_size, dtype: dtype.stored() },
            places: stairwell::backend::cuda::PagedPlaces {
                k: k.address,
                v: v.address,
                tables: table.address(),
                table_starts: starts.address(),
                positions: positions.address(),
            },
            row_starts: row_starts.address(),
            row_counts: row_counts.address(),
            sequences: 1,
            most_rows: tokens,
            rows: tokens,
            longest: tokens,
            window: None,
            scale: case.scale(),
        };
        let [out, lse] = [heads * head_dim, heads].map(|cols| cuda.take(tokens, cols).unwrap());
        let q = cuda.upload(q, tokens, heads * head_dim).unwrap();
        cuda.flash_attention(version, &work, &out, Some(&lse), &q).unwrap();
        near(&format!("{version:?}"), &download(&cuda, &lse), &want, 1e-6);
    }
}

fn counted(kernel: &str, shape: &str) -> Profile {
    profile_kernel(kernel, &KernelShape::parse(kernel, shape).unwrap()).unwrap()
}

/// A prompt of whole tiles, four query heads on one of K and V.
const SHAPE: &str = "sequences=1,tokens=256,heads=4,kv_heads=1,head_dim=64,block_size=16";

/// Bytes that tiles of `rows` packed rows read, if each reads the keys up to its last row, and all its queries once.
fn once_a_tile(rows: usize, keys: usize, bytes: usize) -> f64 {
    let (tokens, heads, head_dim) = (256, 4, 64);
    let tiles = tokens * heads / rows;
    let seen = |tile: usize| {
        ((tile + 1) * rows / heads).next_multiple_of(keys).min(((tile + 1) * rows).div_ceil(heads))
    };
    let k_and_v: usize = (0..tiles).map(|tile| 2 * seen(tile) * head_dim * bytes).sum();
    (k_and_v + 4 * tokens * heads * head_dim) as f64
}

/// Q once, K and V once for each tile of queries, within 5 %: what is left are block tables.
#[test]
fn tiles_read_what_they_must() {
    let within = |kernel: &str, want: f64| {
        let read = 32.0 * counted(kernel, SHAPE).sectors(false) as f64;
        assert!((want..1.05 * want).contains(&read), "{kernel}: {read} bytes, expected {want}");
    };
    within("flash_attention_v1_bf16", once_a_tile(32, 32, 2));
    within("flash_attention_v1_f32", once_a_tile(32, 32, 4));
    within("flash_attention_v2_bf16", once_a_tile(64, 64, 2));
    within("flash_attention_v3_bf16", once_a_tile(64, 64, 2));
    within("flash_attention_v3_f16", once_a_tile(64, 64, 2));
    within("flash_attention_v4_bf16", once_a_tile(128, 64, 2));
}

/// v0 writes each score, reads it, writes the weight and reads that: over v1 it is quadratic.
#[test]
fn scores_in_memory_are_quadratic_traffic() {
    let over = |tokens: usize| {
        let shape = format!("tokens={tokens},heads=4,kv_heads=1,head_dim=64");
        let moved = |kernel: &str| {
            let profile = counted(kernel, &shape);
            32 * (profile.sectors(false) + profile.sectors(true))
        };
        moved("flash_attention_v0_bf16") - moved("flash_attention_v1_bf16")
    };
    let (short, long) = (over(64) as f64, over(256) as f64);
    assert!((10.0..17.0).contains(&(long / short)), "four times the tokens: {}", long / short);
}

/// Turns that reads of shared memory take, and the least that they could.
fn shared_reads(profile: &Profile) -> (u64, u64) {
    let reads = profile.sites.iter().filter(|site| site.shared && !site.writes);
    reads.fold((0, 0), |(turns, least), site| (turns + site.turns, least + site.least_turns))
}

#[test]
fn swizzled_tiles_lose_no_turns_to_banks() {
    for head_dim in WIDTHS {
        for version in ["v2", "v3"] {
            let kernel = format!("flash_attention_{version}_bf16");
            let profile = counted(&kernel, &format!("tokens=64,heads=2,kv_heads=1,head_dim={head_dim}"));
            let (turns, least) = shared_reads(&profile);
            assert_eq!(turns, least, "{kernel}, head_dim {head_dim}");
            // Vectors of 80 and 96 numbers are padded instead, and what is written across the padding takes a turn more now and then.
            assert_eq!(profile.bank_conflicts() > 0, head_dim % 64 != 0, "{kernel}, head_dim {head_dim}");
        }
    }
    let plain = counted("flash_attention_v2_unswizzled", "tokens=64,heads=2,kv_heads=1,head_dim=64");
    let (turns, least) = shared_reads(&plain);
    assert!(turns > 7 * least, "8 rows in the same 4 banks: {turns} turns, and {least} would do");
}
