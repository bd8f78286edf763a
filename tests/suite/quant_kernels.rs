//! Every kernel of kernels/quant_matmul.cu and kernels/quant_rows.cu against f64, over shapes that fill no tile: ragged outputs, several rows, a last group that is shorter.

use crate::common::bits;
use crate::quant_case::{Case, Fault, Given, by_the_backend, by_version};
use crate::random::{DTYPES, Random, near};
use stairwell::{
    backend::cuda::Schedule,
    quant::{CodeWords, DeviceCodes, Numbers},
    tensor::DType,
};

const TOLERANCE: f64 = 2e-5;
const SCHEDULES: [Schedule; 3] = [Schedule::Forward, Schedule::Reverse, Schedule::Random(5)];

/// A case of 4-bit codes: outputs and inputs are multiples of 8, and so are groups.
fn four_bits(random: &mut Random, group_size: usize) -> Case {
    let (outputs, inputs) = (8 * random.between(1, 40), 8 * random.between(1, 50));
    Case::new(random, Numbers::Affine4, outputs, inputs, group_size)
}

fn words(case: &Case) -> CodeWords {
    CodeWords::new(case, 0..case.outputs, 0..case.inputs).expect("words")
}

/// v0 to v2, launched as they are.
#[test]
fn versions_that_read_gptqs_words() {
    let random = &mut Random(21);
    for (turn, version) in ["v0", "v1", "v2"].into_iter().cycle().take(45).enumerate() {
        let group_size = random.of(&[8, 24, 32, 64, 128, 200, 4096]);
        let mut case = four_bits(random, group_size);
        if turn % 4 == 0 {
            // Scales of bf16, most of which f16 rounds.
            let of = |s: &f32| half::bf16::from_f32(s * 1e-3).to_f32();
            case.scales = case.scales.iter().map(of).collect();
        }
        let (words, dtype) = (words(&case), random.of(&DTYPES));
        assert_eq!(words.scales_dtype, if turn % 4 == 0 { DType::BF16 } else { DType::F16 });
        let rows = random.between(1, 9);
        let x = random.numbers(rows * case.inputs);
        let got = by_version(version, &words, None, dtype, &x, SCHEDULES[turn % 3]);
        let what = format!("{version} {dtype}, {rows} x {} x {}, g{group_size}", case.inputs, case.outputs);
        near(&what, &got, &case.product(&x, dtype), TOLERANCE);
    }
}

/// v2, v3, v4 and the general kernel, as the backend chooses them.
#[test]
fn kernels_that_the_backend_chooses() {
    let random = &mut Random(22);
    for turn in 0..40 {
        let (dtype, rows) = (DTYPES[turn % 3], random.between(1, 70));
        let group_size = random.of(&[24, 32, 64, 128, 4096]);
        let case = four_bits(random, group_size);
        let x = random.numbers(rows * case.inputs);
        let got = by_the_backend(&case, Given::Words, None, dtype, &x, SCHEDULES[turn % 3]);
        let what = format!("words {dtype}, {rows} x {} x {}, g{group_size}", case.inputs, case.outputs);
        near(&what, &got, &case.product(&x, dtype), TOLERANCE);

        let (outputs, inputs) = (random.between(1, 300), 16 * random.between(1, 50));
        let case = Case::fp8_blocks(random, outputs, inputs);
        let x = random.numbers(rows * inputs);
        let got = by_the_backend(&case, Given::Blocks, None, dtype, &x, Schedule::Forward);
        near(
            &format!("fp8 {dtype}, {rows} x {inputs} x {outputs}"),
            &got,
            &case.product(&x, dtype),
            TOLERANCE,
        );
    }
}

/// The general kernel: every kind, groups in any order, inputs and outputs of any number, and numbers beside the codes.
#[test]
fn the_general_kernel() {
    let random = &mut Random(23);
    let kinds = [Numbers::Affine4, Numbers::Table, Numbers::Affine8, Numbers::Int8, Numbers::Fp8];
    for (turn, numbers) in kinds.into_iter().cycle().take(50).enumerate() {
        let (outputs, inputs, rows) = (random.between(1, 60), random.between(1, 400), random.between(1, 9));
        let group_size = random.of(&[32, 40, 64, 128]);
        let mut case = Case::new(random, numbers, outputs, inputs, group_size);
        if turn % 2 == 0 {
            shuffle(random, &mut case.group_of);
        }
        if turn % 3 == 0 {
            case.sparse = (0..5).map(|n| (n * 7 % outputs, n * 31 % inputs, 0.1 * n as f32)).collect();
        }
        let x = random.numbers(rows * inputs);
        let got = by_the_backend(&case, Given::Rows, None, DType::BF16, &x, Schedule::Forward);
        let what = format!("{numbers:?}, {rows} x {inputs} x {outputs}, g{group_size}, turn {turn}");
        near(&what, &got, &case.product(&x, DType::F32), TOLERANCE);
    }
}

fn shuffle(random: &mut Random, values: &mut [usize]) {
    (1..values.len()).rev().for_each(|i| values.swap(i, random.between(0, i)));
}

/// GPTQ's act-order by v0, which is told the group of each input.
#[test]
fn v0_takes_groups_in_any_order() {
    let random = &mut Random(24);
    for _ in 0..10 {
        let mut case = four_bits(random, 32);
        let words = words(&case);
        shuffle(random, &mut case.group_of);
        let g_idx: Vec<u32> = case.group_of.iter().map(|group| *group as u32).collect();
        let x = random.numbers(3 * case.inputs);
        let got = by_version("v0", &words, Some(&g_idx), DType::F32, &x, Schedule::Forward);
        near("act-order", &got, &case.product(&x, DType::F32), TOLERANCE);
    }
}

/// No row's bits depend on the others, nor on the order of threads.
#[test]
fn a_rows_bits_are_its_own() {
    let random = &mut Random(25);
    let case = Case::new(random, Numbers::Affine4, 200, 320, 64);
    let blocks = Case::fp8_blocks(random, 200, 320);
    let x = random.numbers(40 * 320);
    for (case, given, dtype) in [
        (&case, Given::Words, DType::F32),
        (&case, Given::Words, DType::BF16),
        (&case, Given::Rows, DType::F32),
        (&blocks, Given::Blocks, DType::F16),
    ] {
        let all = by_the_backend(case, given, None, dtype, &x, Schedule::Forward);
        for (rows, schedule) in [(1, Schedule::Reverse), (7, Schedule::Random(3)), (33, Schedule::Random(4))]
        {
            let few = by_the_backend(case, given, None, dtype, &x[..rows * 320], schedule);
            assert_eq!(bits(&few), bits(&all[..rows * 200]), "{given:?} {dtype}, {rows} rows");
        }
    }
}

/// How far a product with a fault is off, relative to the tolerance of the tests above.
fn off(got: &[f32], want: &[f64]) -> f64 {
    let apart = got.iter().zip(want).map(|(got, want)| (f64::from(*got) - want).abs() / (1.0 + want.abs()));
    apart.fold(0.0, f64::max) / TOLERANCE
}

/// What a reader of the layouts might get wrong, for the kernels of words and for the general one.
const FAULTS: [(&str, Fault); 3] = [
    ("zero off by one", |codes| match codes {
        DeviceCodes::Words(words) => words.zero_offset += 1,
        DeviceCodes::Rows(rows) => rows.offsets.iter_mut().zip(&rows.scales).for_each(|(o, s)| *o -= s),
        DeviceCodes::Fp8(_) => unreachable!("floats have no zero points"),
    }),
    ("swapped nibbles", |codes| match codes {
        DeviceCodes::Words(words) => words.codes.iter_mut().for_each(|word| *word = swapped(*word)),
        DeviceCodes::Rows(rows) => {
            let swap = |bytes: &[u8; 4]| swapped(u32::from_le_bytes(*bytes)).to_le_bytes();
            let bytes: Vec<u8> = rows.codes.as_chunks().0.iter().flat_map(swap).collect();
            let len = bytes.len();
            rows.codes = stairwell::tensor::Bytes::new(std::sync::Arc::new(bytes), 0..len);
        }
        DeviceCodes::Fp8(_) => unreachable!("floats of 8 bits are no nibbles"),
    }),
    ("scale of the wrong group", |codes| match codes {
        DeviceCodes::Words(words) => words.scales.rotate_left(words.outputs),
        DeviceCodes::Rows(rows) => rows.scales.rotate_left(1),
        DeviceCodes::Fp8(blocks) => blocks.scales.rotate_left(1),
    }),
];

fn swapped(word: u32) -> u32 {
    (word & 0x0f0f0f0f) << 4 | (word & 0xf0f0f0f0) >> 4
}

/// Each fault is far outside the tolerance, so a kernel that has it fails the tests above.
#[test]
fn planted_faults_are_seen() {
    let random = &mut Random(26);
    let case = Case::new(random, Numbers::Affine4, 72, 256, 64);
    let x = random.numbers(2 * 256);
    for (fault, plant) in FAULTS {
        for (given, dtype) in
            [(Given::Words, DType::F32), (Given::Words, DType::F16), (Given::Rows, DType::F32)]
        {
            let (want, run) =
                (case.product(&x, dtype), |f| by_the_backend(&case, given, f, dtype, &x, Schedule::Forward));
            assert!(off(&run(None), &want) <= 1.0);
            let seen = off(&run(Some(plant)), &want);
            assert!(seen > 100.0, "{fault}, {given:?} {dtype}: {seen}");
        }
        for version in ["v0", "v1"] {
            let mut codes = DeviceCodes::Words(words(&case));
            plant(&mut codes);
            let DeviceCodes::Words(words) = codes else { unreachable!() };
            let got = by_version(version, &words, None, DType::F32, &x, Schedule::Forward);
            assert!(off(&got, &case.product(&x, DType::F32)) > 100.0, "{fault}, {version}");
        }
    }
    let blocks = Case::fp8_blocks(random, 72, 256);
    let got = by_the_backend(&blocks, Given::Blocks, Some(FAULTS[2].1), DType::F32, &x, Schedule::Forward);
    assert!(off(&got, &blocks.product(&x, DType::F32)) > 100.0, "scale of the wrong block");

    // g_idx that is ignored.
    let mut case = case;
    let plain = words(&case);
    shuffle(random, &mut case.group_of);
    let want = case.product(&x, DType::F32);
    let got = by_version("v0", &plain, None, DType::F32, &x, Schedule::Forward);
    assert!(off(&got, &want) > 100.0, "ignored g_idx, v0");
    let ignored: Fault = |codes| {
        let DeviceCodes::Rows(rows) = codes else { unreachable!() };
        let in_order = rows.columns as u32;
        rows.gather = Some((0..in_order).map(|column| column % rows.inputs as u32).collect());
    };
    let got = by_the_backend(&case, Given::Rows, Some(ignored), DType::F32, &x, Schedule::Forward);
    assert!(off(&got, &want) > 100.0, "ignored g_idx, the general kernel");
}
