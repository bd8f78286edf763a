//! Wrong answers to the exercises of chapter 9: each has one mistake.

use super::solution::{my_column, my_step};
use crate::contracts::step9::{GptqMatrix, Machine, Value};

// 1. AWQ's order --------------------------------------------------------------------------------------------------------

/// Columns in order, as GPTQ packs.
pub fn pack_in_order(codes: [u8; 8]) -> u32 {
    (0..8).fold(0, |word, column| word | u32::from(codes[column]) << (4 * column))
}

/// The order says which column is at a place, and not which place a column has.
pub fn pack_inverse(codes: [u8; 8]) -> u32 {
    let order = [0, 2, 4, 6, 1, 3, 5, 7];
    (0..8).fold(0, |word, column| word | u32::from(codes[column]) << (4 * order[column]))
}

/// The first column in the highest bits.
pub fn pack_from_the_top(codes: [u8; 8]) -> u32 {
    [0, 2, 4, 6, 1, 3, 5, 7].iter().fold(0, |word, &column| word << 4 | u32::from(codes[column]))
}

pub fn unpack_in_order(word: u32) -> [u8; 8] {
    std::array::from_fn(|column| (word >> (4 * column) & 15) as u8)
}

pub fn unpack_inverse(word: u32) -> [u8; 8] {
    let order = [0, 2, 4, 6, 1, 3, 5, 7];
    std::array::from_fn(|column| (word >> (4 * order[column]) & 15) as u8)
}

/// Without a mask: the lowest byte of what is shifted has two codes.
pub fn unpack_bytes(word: u32) -> [u8; 8] {
    let places = [0, 4, 1, 5, 2, 6, 3, 7];
    std::array::from_fn(|column| (word >> (4 * places[column])) as u8)
}

// 2. A column of GPTQ's -------------------------------------------------------------------------------------------------

/// Every stored zero point is one less, so the file's version seems to be the other one.
pub fn no_one(matrix: &GptqMatrix, output: usize) -> Vec<f32> {
    my_column(&GptqMatrix { v2: true, ..matrix.clone() }, output)
}

pub fn always_one(matrix: &GptqMatrix, output: usize) -> Vec<f32> {
    my_column(&GptqMatrix { v2: false, ..matrix.clone() }, output)
}

/// 15 + 1 is 16, as vLLM's kernel computes.
pub fn sixteen(matrix: &GptqMatrix, output: usize) -> Vec<f32> {
    let (bits, mask) = (matrix.bits, (1 << matrix.bits) - 1);
    let row = matrix.outputs * bits / 32;
    let stored = |group: usize| -> u64 {
        let (first, shift) = (output * bits / 32, output * bits % 32);
        let word = |at: usize| u64::from(*matrix.qzeros.get(group * row + at).unwrap_or(&0));
        (word(first) | word(first + 1) << 32) >> shift & mask
    };
    let mut numbers = my_column(matrix, output);
    for (k, number) in numbers.iter_mut().enumerate() {
        let group = matrix.g_idx[k];
        if !matrix.v2 && stored(group) == mask {
            *number -= (mask + 1) as f32 * matrix.scales[group * matrix.outputs + output];
        }
    }
    numbers
}

/// Groups in order, whatever g_idx says.
pub fn by_group_size(matrix: &GptqMatrix, output: usize) -> Vec<f32> {
    let size = matrix.inputs * matrix.outputs / matrix.scales.len();
    let g_idx = (0..matrix.inputs).map(|k| k / size).collect();
    my_column(&GptqMatrix { g_idx, ..matrix.clone() }, output)
}

/// A field ends with its word.
pub fn one_word(matrix: &GptqMatrix, output: usize) -> Vec<f32> {
    let GptqMatrix { bits, inputs, outputs, qweight, qzeros, scales, g_idx, v2 } = matrix;
    let field =
        |at: usize, word: &dyn Fn(usize) -> u32| word(at * bits / 32) >> (at * bits % 32) & ((1 << bits) - 1);
    let number = |k: usize| {
        let (group, row) = (g_idx[k], outputs * bits / 32);
        let code = field(k, &|word| qweight[word * outputs + output]);
        let stored = field(output, &|word| qzeros[group * row + word]);
        let zero = (stored + u32::from(!v2)) & ((1 << bits) - 1);
        (code as f32 - zero as f32) * scales[group * outputs + output]
    };
    (0..*inputs).map(number).collect()
}

/// Without zero points.
pub fn no_zero(matrix: &GptqMatrix, output: usize) -> Vec<f32> {
    let zeros = vec![0; matrix.qzeros.len()];
    my_column(&GptqMatrix { qzeros: zeros, v2: true, ..matrix.clone() }, output)
}

// 3. GPTQ's update ------------------------------------------------------------------------------------------------------

/// Rounding to nearest.
pub fn no_update(_: &mut [f64], _: &[f64], _: usize, _: f64) {}

pub fn wrong_direction(left: &mut [f64], u: &[f64], j: usize, rounded: f64) {
    let error = (left[j] - rounded) / u[j];
    (j + 1..left.len()).for_each(|k| left[k] += error * u[k]);
}

pub fn undivided(left: &mut [f64], u: &[f64], j: usize, rounded: f64) {
    let error = left[j] - rounded;
    (j + 1..left.len()).for_each(|k| left[k] -= error * u[k]);
}

/// By the square, as if U were H⁻¹ itself.
pub fn divided_twice(left: &mut [f64], u: &[f64], j: usize, rounded: f64) {
    let error = (left[j] - rounded) / (u[j] * u[j]);
    (j + 1..left.len()).for_each(|k| left[k] -= error * u[k]);
}

/// Also weights that are rounded already.
pub fn changes_rounded(left: &mut [f64], u: &[f64], j: usize, rounded: f64) {
    let error = (left[j] - rounded) / u[j];
    for k in (0..left.len()).filter(|k| *k != j) {
        left[k] -= error * if k < j { 0.1 } else { u[k] };
    }
}

// 4. A pickle that must be refused --------------------------------------------------------------------------------------

/// What the machine does with a GLOBAL, where `known` decides.
fn global(machine: &mut Machine, known: fn(&str, &str) -> bool) -> Result<(), String> {
    let (module, name) = (machine.line()?, machine.line()?);
    if !known(module, name) {
        return Err(format!("the global {module}.{name}"));
    }
    machine.stack.push(Value::OrderedDict);
    Ok(())
}

/// A list of what is forbidden.
pub fn block_list(machine: &mut Machine, opcode: u8) -> Result<(), String> {
    match opcode {
        b'c' => global(machine, |module, _| !["os", "posix", "nt", "subprocess", "sys"].contains(&module)),
        b'R' => {
            machine.pop()?;
            machine.pop()?;
            machine.stack.push(Value::Dict(Vec::new()));
            Ok(())
        }
        other => my_step(machine, other),
    }
}

pub fn module_only(machine: &mut Machine, opcode: u8) -> Result<(), String> {
    match opcode {
        b'c' => global(machine, |module, _| module == "collections"),
        b'R' => any_call(machine, opcode),
        other => my_step(machine, other),
    }
}

pub fn name_only(machine: &mut Machine, opcode: u8) -> Result<(), String> {
    match opcode {
        b'c' => global(machine, |_, name| name == "OrderedDict"),
        b'R' => any_call(machine, opcode),
        other => my_step(machine, other),
    }
}

pub fn beginning_only(machine: &mut Machine, opcode: u8) -> Result<(), String> {
    match opcode {
        b'c' => global(machine, |module, name| module == "collections" && name.starts_with("OrderedDict")),
        b'R' => any_call(machine, opcode),
        other => my_step(machine, other),
    }
}

/// A name is refused when it is called. The import is done by then.
pub fn refuses_the_call(machine: &mut Machine, opcode: u8) -> Result<(), String> {
    match opcode {
        b'c' => {
            let (module, name) = (machine.line()?, machine.line()?);
            let is_dict = (module, name) == ("collections", "OrderedDict");
            let value = if is_dict { Value::OrderedDict } else { Value::Text(format!("{module}.{name}")) };
            machine.stack.push(value);
            Ok(())
        }
        b'R' => match (machine.pop()?, machine.pop()?) {
            (Value::Tuple(arguments), Value::OrderedDict) if arguments.is_empty() => {
                machine.stack.push(Value::Dict(Vec::new()));
                Ok(())
            }
            (_, called) => Err(format!("a call of {called:?}")),
        },
        other => my_step(machine, other),
    }
}

/// Any arguments do.
pub fn any_call(machine: &mut Machine, opcode: u8) -> Result<(), String> {
    match opcode {
        b'R' => match (machine.pop()?, machine.pop()?) {
            (Value::Tuple(_), Value::OrderedDict) => {
                machine.stack.push(Value::Dict(Vec::new()));
                Ok(())
            }
            _ => Err("a REDUCE that makes no dict".into()),
        },
        other => my_step(machine, other),
    }
}

/// What is called is not looked at: it was checked when it was pushed, was it not?
pub fn calls_anything(machine: &mut Machine, opcode: u8) -> Result<(), String> {
    match opcode {
        b'R' => {
            let arguments = machine.pop()?;
            machine.pop()?;
            if arguments != Value::Tuple(Vec::new()) {
                return Err("arguments".into());
            }
            machine.stack.push(Value::Dict(Vec::new()));
            Ok(())
        }
        other => my_step(machine, other),
    }
}

/// Opcodes that are not known are passed over.
pub fn skips_unknown(machine: &mut Machine, opcode: u8) -> Result<(), String> {
    if b"cR".contains(&opcode) { my_step(machine, opcode) } else { Ok(()) }
}
