//! The exercises of chapter 9. Write the bodies that say `stub!`, then run
//!
//!     cargo test --features step9 --test exercise9            all of them
//!     cargo test --features step9 --test exercise9 update     one of them
//!
//! Each has a contract, which says what is wrong. `--features quantized` builds less, and does as well. Answers: solution.rs, beside this file.
#![allow(unused_variables)] // the parameters of what is not written yet
#![allow(clippy::ptr_arg)]

use crate::contracts::step9::{self, GptqMatrix, Machine};
use crate::contracts::stub;

// 1. AWQ's order --------------------------------------------------------------------------------------------------------

/// The word of eight columns: `codes[i]` is the code of column 8c + i, a number below 16. From the lowest bits on, the word has columns 0 2 4 6 1 3 5 7.
pub fn my_pack(codes: [u8; 8]) -> u32 {
    stub!(
        "put each code at its place in the word; read \"The layouts, to the bit\" in steps/step9-quantized/README.md"
    )
}

#[test]
fn pack() {
    step9::pack(my_pack);
}

/// The codes of the eight columns of a word.
pub fn my_unpack(word: u32) -> [u8; 8] {
    stub!(
        "take each column's code from its place in the word; read \"The layouts, to the bit\" in steps/step9-quantized/README.md"
    )
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

/// The numbers of one output, [inputs]: (code − zero point) · scale. `GptqMatrix` in steps/contracts/step9.rs says where codes, zero points and scales are. Bits may
/// be 2, 3, 4 or 8.
pub fn my_column(matrix: &GptqMatrix, output: usize) -> Vec<f32> {
    stub!(
        "read the codes of the column, and its zero points with their quirk; read \"The layouts, to the bit\" in steps/step9-quantized/README.md"
    )
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

/// Weight j of an output becomes `rounded`. Changes the weights behind it so that they make up for the error. `u` is row j of U.
pub fn my_update(left: &mut [f64], u: &[f64], j: usize, rounded: f64) {
    stub!(
        "move the error of weight j to the weights behind it; read \"GPTQ: the error moves on\" in steps/step9-quantized/README.md"
    )
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

/// Follows the opcodes `c` (GLOBAL) and `R` (REDUCE), as far as an OrderedDict needs them, and refuses all else. A GLOBAL has two lines behind it, the module and
/// the name; what it stands for is pushed. A REDUCE pops a tuple of arguments and, below it, what is called. An empty OrderedDict is `Value::Dict(Vec::new())`.
pub fn my_step(machine: &mut Machine, opcode: u8) -> Result<(), String> {
    stub!(
        "compare the name with the one that is needed, and refuse every other opcode; read \"A checkpoint that runs code\" in steps/step9-quantized/README.md"
    )
}

#[test]
fn pickle() {
    step9::pickle(my_step);
}
