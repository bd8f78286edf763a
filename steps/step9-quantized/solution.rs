//! Answers to exercise.rs: `cargo test --features step9 --test solution9`.

use crate::contracts::step9::{self, GptqMatrix, Machine, Value};

// 1. AWQ's order --------------------------------------------------------------------------------------------------------

/// The column at each place of a word, from the lowest bits on.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

pub fn my_pack(codes: [u8; 8]) -> u32 {
    let mut word = 0;
    for (place, column) in ORDER.into_iter().enumerate() {
        word |= u32::from(codes[column]) << (4 * place);
    }
    word
}

#[test]
fn pack() {
    step9::pack(my_pack);
}

pub fn my_unpack(word: u32) -> [u8; 8] {
    let mut codes = [0; 8];
    for (place, column) in ORDER.into_iter().enumerate() {
        codes[column] = (word >> (4 * place) & 15) as u8;
    }
    codes
}

#[test]
fn unpack() {
    step9::unpack(my_unpack);
}

#[test]
fn awq_tells_the_story() {
    step9::awq_tells_the_demo_story(my_pack, my_unpack);
}

// 2. A column of GPTQ's -------------------------------------------------------------------------------------------------

/// Field number `at` of the stream that `word(0)`, `word(1)`, … make.
fn field(bits: usize, at: usize, word: impl Fn(usize) -> u32) -> u32 {
    let (first, shift) = (at * bits / 32, at * bits % 32);
    let mut field = word(first) >> shift;
    // At 3 bits a field may go on in the next word.
    if shift + bits > 32 {
        field |= word(first + 1) << (32 - shift);
    }
    field & ((1 << bits) - 1)
}

pub fn my_column(matrix: &GptqMatrix, output: usize) -> Vec<f32> {
    let GptqMatrix { bits, inputs, outputs, qweight, qzeros, scales, g_idx, v2 } = matrix;
    let words_of_group = outputs * bits / 32;
    let number = |k: usize| {
        let group = g_idx[k];
        let code = field(*bits, k, |word| qweight[word * outputs + output]);
        let stored = field(*bits, output, |word| qzeros[group * words_of_group + word]);
        // The sum has as many bits as the field: all ones and 1 is 0.
        let zero = (stored + u32::from(!v2)) & ((1 << bits) - 1);
        (code as f32 - zero as f32) * scales[group * outputs + output]
    };
    (0..*inputs).map(number).collect()
}

#[test]
fn column() {
    step9::column(my_column);
}

#[test]
fn column_tells_the_story() {
    step9::gptq_tells_the_demo_story(my_column);
}

// 3. GPTQ's update ------------------------------------------------------------------------------------------------------

pub fn my_update(left: &mut [f64], u: &[f64], j: usize, rounded: f64) {
    let error = (left[j] - rounded) / u[j];
    for k in j + 1..left.len() {
        left[k] -= error * u[k];
    }
}

#[test]
fn update() {
    step9::update(my_update);
}

#[test]
fn update_quantizes_the_demo() {
    step9::quantizes_the_demo(my_update);
}

// 4. A pickle that must be refused --------------------------------------------------------------------------------------

pub fn my_step(machine: &mut Machine, opcode: u8) -> Result<(), String> {
    let value = match opcode {
        b'c' => match (machine.line()?, machine.line()?) {
            ("collections", "OrderedDict") => Value::OrderedDict,
            (module, name) => return Err(format!("the global {module}.{name}, which no dict needs")),
        },
        b'R' => match (machine.pop()?, machine.pop()?) {
            (Value::Tuple(arguments), Value::OrderedDict) if arguments.is_empty() => Value::Dict(Vec::new()),
            _ => return Err("a REDUCE that makes no dict".into()),
        },
        other => return Err(format!("the opcode {other:#04x}, which no dict needs")),
    };
    machine.stack.push(value);
    Ok(())
}

#[test]
fn pickle() {
    step9::pickle(my_step);
}
