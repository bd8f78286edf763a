//! The tiles of v3: 32 outputs and 32 inputs, rewritten once when a matrix is loaded, so that a lane reads 16 bytes and has what mma wants of them.

use crate::quant::CodeWords;
use rayon::prelude::*;

/// Outputs, and inputs, of a tile.
pub const TILE: usize = 32;
/// Words of a tile of codes: four for each lane.
const TILE_WORDS: usize = 4 * 32;

/// [`CodeWords`] in tiles. What is beyond the matrix's edges is 0.
pub struct Tiles {
    /// [tiles of outputs, tiles of inputs, 32 lanes, 4]: a lane's word j has codes of output 8 j + lane / 4.
    pub codes: Vec<u32>,
    /// [groups, tiles of outputs, 4]: word j has the zero points of outputs 8 j to 8 j + 7, as they are.
    pub zeros: Vec<u32>,
    /// [groups, tiles of outputs, 4, 8]: for lanes with the same lane % 4 = t, the scales of outputs 8 j + 2 t and the one behind it, for j = 0 to 3.
    pub scales: Vec<u16>,
}

impl Tiles {
    /// Rewrites words, whose groups are whole tiles.
    pub fn of(words: &CodeWords) -> Tiles {
        let CodeWords { outputs, inputs, .. } = *words;
        let (across, along) = (outputs.div_ceil(TILE), inputs.div_ceil(TILE));
        let groups = inputs.div_ceil(words.group_size);
        let mut codes = vec![0; across * along * TILE_WORDS];
        codes.par_chunks_mut(TILE_WORDS).enumerate().for_each(|(tile, to)| {
            let (first_output, first_input) = (tile / along * TILE, tile % along * TILE);
            for (at, word) in to.iter_mut().enumerate() {
                let (lane, j) = (at / 4, at % 4);
                *word = tile_word(words, first_output + 8 * j + lane / 4, first_input, lane % 4);
            }
        });
        let mut zeros = vec![0; groups * across * 4];
        let mut scales = vec![0; groups * across * TILE];
        for group in 0..groups {
            for output in 0..outputs {
                let (tile, n) = (group * across + output / TILE, output % TILE);
                zeros[tile * 4 + n / 8] |= zero(words, group, output) << (4 * (n % 8));
                let place = n % 8 / 2 * 8 + n / 8 * 2 + n % 2;
                scales[tile * TILE + place] = words.scales[group * outputs + output];
            }
        }
        Tiles { codes, zeros, scales }
    }
}

/// A zero point as it is, without the offset that the file's are stored with.
fn zero(words: &CodeWords, group: usize, output: usize) -> u32 {
    let stored = words.zeros[group * (words.outputs / 8) + output / 8] >> (4 * (output % 8));
    (stored + words.zero_offset as u32) & 15
}

// ANCHOR: tile_word
/// Eight codes of an output. Pair p = 0 to 3 is inputs 8 p + 2 t and 8 p + 2 t + 1, at bits 4 p and 4 p + 16: `two_codes` takes both with one mask.
fn tile_word(words: &CodeWords, output: usize, first_input: usize, t: usize) -> u32 {
    (0..8).fold(0, |word, at| {
        let (p, second) = (at % 4, at / 4);
        let input = first_input + 8 * p + 2 * t + second;
        word | code(words, output, input) << (4 * p + 16 * second)
    })
}
// ANCHOR_END: tile_word

/// A code, and 0 beyond the edges.
fn code(words: &CodeWords, output: usize, input: usize) -> u32 {
    match output < words.outputs && input < words.inputs {
        true => words.codes[input / 8 * words.outputs + output] >> (4 * (input % 8)) & 15,
        false => 0,
    }
}
