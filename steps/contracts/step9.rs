//! The contracts of step 9, for the exercises of chapter 9: codes in AWQ's order, and a column of GPTQ's layout. GPTQ's update is in step9_update.rs, the
//! pickle in step9_pickle.rs.

pub use super::step9_pickle::{Machine, Step, Value, pickle};
pub use super::step9_update::{Update, quantizes_the_demo, update};

use super::check_values;
use super::step9_demo::{Demo, awq, floats, gptq, ids, word_tensor, words};

// AWQ's order -----------------------------------------------------------------------------------------------------------

/// The word that holds the codes of columns 8c to 8c + 7.
pub type Pack = fn(codes: [u8; 8]) -> u32;
/// The codes of columns 8c to 8c + 7, from their word.
pub type Unpack = fn(word: u32) -> [u8; 8];

/// The columns in the order of their places in a word, from the lowest bits on.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

fn reference_unpack(word: u32) -> [u8; 8] {
    let mut codes = [0; 8];
    ORDER.iter().enumerate().for_each(|(place, &column)| codes[column] = (word >> (4 * place) & 15) as u8);
    codes
}

fn reference_pack(codes: [u8; 8]) -> u32 {
    ORDER.iter().rev().fold(0, |word, &column| word << 4 | codes[column] as u32)
}

/// Eight codes, of which each is another one, and eight whose highest bits are set.
const CODES: [[u8; 8]; 4] = [
    [0, 1, 2, 3, 4, 5, 6, 7],
    [15, 14, 13, 12, 11, 10, 9, 8],
    [1, 0, 0, 0, 0, 0, 0, 0],
    [0, 15, 0, 15, 0, 15, 0, 15],
];

/// Which mistake makes such a word.
fn mistake_of_pack(codes: [u8; 8], got: u32) -> &'static str {
    let at = |columns: [usize; 8]| columns.iter().rev().fold(0, |word, &c| word << 4 | codes[c] as u32);
    let inverse = [0, 4, 1, 5, 2, 6, 3, 7];
    match () {
        () if got == at([0, 1, 2, 3, 4, 5, 6, 7]) => ": did you pack the columns in order, as GPTQ does?",
        () if got == at(inverse) => {
            ": did you ask where a column goes, and take what the order says of a place?"
        }
        () if got == at([7, 5, 3, 1, 6, 4, 2, 0]) => ": did you put the first one into the highest bits?",
        () => "",
    }
}

/// A word has the codes of eight columns in AWQ's order.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn pack(pack: Pack) {
    for codes in CODES {
        let (got, want) = (pack(codes), reference_pack(codes));
        let hint = mistake_of_pack(codes, got);
        assert!(got == want, "the word of {codes:?} is {got:#010x}, expected {want:#010x}{hint}");
    }
}

/// The codes of a word, whatever its highest bit is.
///
/// # Panics
/// If they are others.
#[track_caller]
pub fn unpack(unpack: Unpack) {
    for codes in CODES {
        let word = reference_pack(codes);
        let got = unpack(word);
        let hint = match () {
            () if got == [0, 4, 1, 5, 2, 6, 3, 7].map(|at| codes[at]) => {
                ": did you take what the order says of a place for the place of a column?"
            }
            () if got == ORDER.map(|at| codes[at]) => ": did you read the fields in order, as GPTQ does?",
            () if got.iter().any(|code| *code > 15) => ": a code has 4 bits; did you mask off the others?",
            () => "",
        };
        assert!(got == codes, "the codes of {word:#010x} are {got:?}, expected {codes:?}{hint}");
    }
}

/// The engine runs the demo model whose words `pack` has made, and `unpack` reads them: both tell the story that the engine's own words tell.
///
/// # Panics
/// If they don't.
#[track_caller]
pub fn awq_tells_the_demo_story(pack: Pack, unpack: Unpack) {
    _ = unpack(pack([0; 8])); // what is not written yet says so before anything is loaded
    let demo = Demo::new(awq(32));
    let want = ids(demo.runner());
    let mine = demo.clone().with_parts(&["qweight", "qzeros"], |tensor| {
        word_tensor(tensor, words(tensor).into_iter().map(|word| pack(reference_unpack(word))))
    });
    assert_eq!(ids(mine.runner()), want, "the demo story from words that your pack has made");
    let read = mine.dense(|module| {
        let [outputs, inputs] = module.shape;
        let (qweight, qzeros, scales) =
            (words(module.part("qweight")), words(module.part("qzeros")), floats(module.part("scales")));
        let field =
            |words: &[u32], row: usize, n: usize| unpack(words[row * outputs / 8 + n / 8])[n % 8] as f32;
        let number = |n: usize, k: usize| {
            let group = k / 32;
            (field(&qweight, k, n) - field(&qzeros, group, n)) * scales[group * outputs + n]
        };
        (0..outputs * inputs).map(|at| number(at / inputs, at % inputs)).collect()
    });
    assert_eq!(ids(read), want, "the demo story by the numbers that your unpack has read");
}

// A column of GPTQ's ----------------------------------------------------------------------------------------------------

/// A matrix as GPTQ lays it out. Output n is column n of its tensors.
#[derive(Clone, Debug)]
pub struct GptqMatrix {
    pub bits: usize,
    pub inputs: usize,
    pub outputs: usize,
    /// [inputs · bits / 32, outputs]: the codes of an output are a stream down its column, from the lowest bits on.
    pub qweight: Vec<u32>,
    /// [groups, outputs · bits / 32]: the zero points of a group are a stream along its row.
    pub qzeros: Vec<u32>,
    /// [groups, outputs].
    pub scales: Vec<f32>,
    /// [inputs]: the group of each input.
    pub g_idx: Vec<usize>,
    /// config.json says `"checkpoint_format": "gptq_v2"`.
    pub v2: bool,
}

/// The numbers of one output, [inputs].
pub type Column = fn(matrix: &GptqMatrix, output: usize) -> Vec<f32>;

/// What a reader of the layout may get wrong.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    NoOne,
    AlwaysOne,
    Sixteen,
    ByGroupSize,
    OneWord,
    HighestFirst,
    NoZero,
}

const MISTAKES: [(Mistake, &str); 7] = [
    (Mistake::NoOne, "forget the 1 that is added to a stored zero point"),
    (Mistake::AlwaysOne, "add 1 to the zero points of gptq_v2, which are stored as they are"),
    (
        Mistake::Sixteen,
        "make 2^bits of a stored zero point of all ones? It is 0: the sum has as many bits as the field",
    ),
    (Mistake::ByGroupSize, "take inputs for groups in order, where g_idx says otherwise"),
    (Mistake::OneWord, "lose the bits of a field that lie in the next word"),
    (Mistake::HighestFirst, "read a word from its highest bits on"),
    (Mistake::NoZero, "leave the zero point out"),
];

/// Field number `at` of a stream.
fn field(bits: usize, at: usize, mistake: Mistake, word: impl Fn(usize) -> u32) -> f64 {
    let bit = |of: usize| {
        let (index, place) = ((at * bits + of) / 32, (at * bits + of) % 32);
        let place = if mistake == Mistake::HighestFirst { 31 - place } else { place };
        let lost = mistake == Mistake::OneWord && index != at * bits / 32;
        if lost { 0 } else { word(index) >> place & 1 }
    };
    match mistake == Mistake::HighestFirst {
        true => (0..bits).fold(0, |field, of| field << 1 | bit(of)) as f64,
        false => (0..bits).rev().fold(0, |field, of| field << 1 | bit(of)) as f64,
    }
}

/// The numbers of an output, with a mistake.
fn numbers(matrix: &GptqMatrix, output: usize, mistake: Mistake) -> Vec<f64> {
    let GptqMatrix { bits, inputs, outputs, qweight, qzeros, scales, g_idx, v2 } = matrix;
    let groups = scales.len() / outputs;
    let number = |k: usize| {
        let group = if mistake == Mistake::ByGroupSize { k / (inputs / groups) } else { g_idx[k] };
        let code = field(*bits, k, mistake, |word| qweight[word * outputs + output]);
        let row = &qzeros[group * outputs * bits / 32..];
        let one = match mistake {
            Mistake::NoOne => 0.0,
            Mistake::AlwaysOne => 1.0,
            _ => f64::from(!v2),
        };
        let zero = field(*bits, output, mistake, |word| row[word]) + one;
        let codes = f64::from(1 << bits);
        let zero = if zero == codes && mistake != Mistake::Sixteen { 0.0 } else { zero };
        let zero = if mistake == Mistake::NoZero { 0.0 } else { zero };
        (code - zero) * f64::from(scales[group * outputs + output])
    };
    (0..*inputs).map(number).collect()
}

/// A matrix of made-up codes. Its third output has zero points of all ones.
fn made_up(bits: usize, v2: bool, act_order: bool) -> GptqMatrix {
    let (inputs, outputs, groups) = (64, 32, 4);
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    let qweight = (0..inputs * bits / 32 * outputs).map(|_| next()).collect();
    let mut qzeros: Vec<u32> = (0..groups * outputs * bits / 32).map(|_| next()).collect();
    for row in qzeros.chunks_mut(outputs * bits / 32) {
        row[0] |= ((1 << bits) - 1) << (2 * bits);
    }
    let scales = (0..groups * outputs).map(|_| (1 + next() % 7) as f32 / 64.0).collect();
    let g_idx = (0..inputs).map(|k| if act_order { (k * 7 + 3) % groups } else { k / 16 }).collect();
    GptqMatrix { bits, inputs, outputs, qweight, qzeros, scales, g_idx, v2 }
}

/// The numbers of an output are those that the layout says, with its zero points' quirk.
///
/// # Panics
/// If they are others.
#[track_caller]
pub fn column(column: Column) {
    let cases = [
        ("4 bits", made_up(4, false, false)),
        ("4 bits, gptq_v2", made_up(4, true, false)),
        ("8 bits", made_up(8, false, false)),
        ("3 bits", made_up(3, false, false)),
        ("2 bits", made_up(2, false, false)),
        ("4 bits with act-order", made_up(4, false, true)),
    ];
    for (name, matrix) in &cases {
        // The third output's zero points are the quirk; the eleventh's are, at 3 bits, in two words.
        for output in [0, 1, 2, 10, 31] {
            let got = column(matrix, output);
            assert_eq!(got.len(), matrix.inputs, "{name}: numbers of output {output}");
            let suspects = MISTAKES.map(|(mistake, words)| (words, numbers(matrix, output, mistake)));
            let want = numbers(matrix, output, Mistake::None);
            let suspects: Vec<(&str, Vec<f64>)> =
                suspects.into_iter().filter(|(_, numbers)| *numbers != want).collect();
            check_values(&format!("output {output}, {name}"), &got, &want, &suspects);
        }
    }
}

/// The demo model by the reader's columns tells the story that the engine tells from the packed checkpoint.
///
/// # Panics
/// If it doesn't.
#[track_caller]
pub fn gptq_tells_the_demo_story(column: Column) {
    _ = column(&made_up(4, false, false), 0); // what is not written yet says so before anything is loaded
    let demo = Demo::new(gptq(4, 32));
    let read = demo.dense(|module| {
        let [outputs, inputs] = module.shape;
        let g_idx = words(module.part("g_idx")).into_iter().map(|group| group as usize).collect();
        let (qweight, qzeros) = (words(module.part("qweight")), words(module.part("qzeros")));
        let scales = floats(module.part("scales"));
        let matrix = GptqMatrix { bits: 4, inputs, outputs, qweight, qzeros, scales, g_idx, v2: false };
        (0..outputs).flat_map(|output| column(&matrix, output)).collect()
    });
    assert_eq!(ids(read), ids(demo.runner()), "the demo story by your columns, and by the engine");
}
