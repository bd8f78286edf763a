//! Chapter 9 as a program, with the numbers that the chapter works out by hand: `cargo run --release --features step9 --example step9`.

use anyhow::{Result, anyhow};
use stairwell::{
    checkpoint::StateDict,
    demo,
    quant::quantize::{Hessian, Method, Recipe},
};

/// Weights of one output.
const W: [f32; 8] = [0.12, -0.34, 0.56, -0.08, 0.91, -0.27, 0.03, 0.45];

fn main() -> Result<()> {
    println!("1. Eight weights in 4 bits");
    by_hand(&W, 8);
    let mut outlier = W;
    outlier[4] = 9.1;
    println!("\n2. One of them ten times as large: with one scale, and with a scale for every four");
    by_hand(&outlier, 8);
    by_hand(&outlier, 4);
    println!("\n3. Two weights whose inputs mostly come together, in steps of 0.5");
    two_weights();
    println!("\n4. Two weights, of which the first one's input is ten times as large");
    scaled_channel();
    println!("\n5. The codes 0 to 7 in one word, from the highest bits to the lowest");
    println!("   GPTQ {:08x}   AWQ {:08x}", word([0, 1, 2, 3, 4, 5, 6, 7]), word([0, 2, 4, 6, 1, 3, 5, 7]));
    println!("\n6. A matrix of the demo, 384 outputs of 128 inputs");
    bytes()
}

// ANCHOR: round
/// Codes of 4 bits for each group of weights: from the smallest to the largest one, 0 included, in 15 equal steps.
fn round(w: &[f32]) -> (f32, f32, Vec<f32>) {
    let low = w.iter().fold(0.0_f32, |low, w| low.min(*w));
    let high = w.iter().fold(0.0_f32, |high, w| high.max(*w));
    let scale = (high - low) / 15.0;
    let zero = (-low / scale).round();
    let codes = w.iter().map(|w| (w / scale + zero).round().clamp(0.0, 15.0)).collect();
    (scale, zero, codes)
}
// ANCHOR_END: round

fn by_hand(w: &[f32], group_size: usize) {
    let (mut codes, mut numbers) = (Vec::new(), Vec::new());
    for w in w.chunks(group_size) {
        let (scale, zero, of_group) = round(w);
        println!("   scale {scale:.4}, zero point {zero}");
        numbers.extend(of_group.iter().map(|code| (code - zero) * scale));
        codes.extend(of_group);
    }
    let row = |name: &str, cell: &dyn Fn(usize) -> String| {
        let cells: String = (0..w.len()).map(|k| format!("{:>8}", cell(k))).collect();
        println!("   {name:7}{cells}");
    };
    row("weight", &|k| format!("{:.2}", w[k]));
    row("code", &|k| (codes[k] as u8).to_string());
    // −0 is 0.
    row("number", &|k| format!("{:.3}", numbers[k] + 0.0));
    row("error", &|k| format!("{:.3}", numbers[k] - w[k]));
}

// ANCHOR: two_weights
/// Two weights of one output. Both inputs have size 1, and their product is 0.9 on average: H = [[1, 0.9], [0.9, 1]].
fn two_weights() {
    let (w, step) = ([0.70_f64, 0.20], 0.5);
    let nearest = |w: f64| (w / step).round() * step;
    let error = |packed: [f64; 2]| {
        let (a, b) = (packed[0] - w[0], packed[1] - w[1]);
        a * a + 2.0 * 0.9 * a * b + b * b
    };
    let alone = [nearest(w[0]), nearest(w[1])];
    // The first weight is off by this much, and the best that the second can do is to move 0.9 times as far the other way.
    let moved = w[1] - 0.9 * (alone[0] - w[0]);
    let together = [alone[0], nearest(moved)];
    println!("   weights {w:?}");
    println!("   each to its nearest:   {alone:?}, the product's squared error is {:.3}", error(alone));
    println!(
        "   the second moved to {moved:.2}: {together:?}, the product's squared error is {:.3}",
        error(together)
    );
}
// ANCHOR_END: two_weights

/// AWQ's idea: the weight is multiplied by s before it is rounded, and its input is divided by s.
fn scaled_channel() {
    let (w, x, step) = ([0.04_f32, 0.90], 10.0, 0.12);
    println!("   weights {w:?}, and a step of {step} for both");
    for s in [1.0, 2.0, 4.0] {
        let rounded = (w[0] * s / step).round() * step;
        let number = rounded / s;
        println!(
            "   s = {s}: {:.2} is rounded to {rounded:.2}, which stands for {number:.3}; times {x}, the error is {:.2}",
            w[0] * s,
            (number - w[0]).abs() * x
        );
    }
}

/// A word of the codes 0 to 7, the first column of the order at the lowest bits.
fn word(order: [u32; 8]) -> u32 {
    order.iter().rev().fold(0, |word, code| word << 4 | code)
}

fn bytes() -> Result<()> {
    let name = "model.layers.0.mlp.gate_proj";
    let tensors = StateDict::open(&demo::directory())?;
    let found = tensors.tensors().find(|(n, _)| n.strip_suffix(".weight") == Some(name));
    let (_, tensor) = found.ok_or_else(|| anyhow!("the demo has no {name}"))?;
    let (w, shape) = (tensor.to_f32(), [tensor.shape[0], tensor.shape[1]]);
    let bits = |bytes: usize| 8.0 * bytes as f64 / w.len() as f64;
    println!(
        "   bf16                 {:6} bytes, {:5.2} bits a weight",
        tensor.data.len(),
        bits(tensor.data.len())
    );
    let recipe =
        |method, bits, group_size| Recipe { method, bits, group_size, symmetric: true, nearest: false };
    let no_inputs: Option<&Hessian> = None;
    for (label, recipe) in [
        ("fp8, blocks of 128", recipe(Method::Fp8, 8, 128)),
        ("int8, per output", recipe(Method::Int8, 8, 128)),
        ("gptq, 4 bits, g128", recipe(Method::Gptq, 4, 128)),
        ("gptq, 4 bits, g32", recipe(Method::Gptq, 4, 32)),
        ("gptq, 3 bits, g32", recipe(Method::Gptq, 3, 32)),
        ("gptq, 2 bits, g32", recipe(Method::Gptq, 2, 32)),
    ] {
        let packed = recipe.quantize(name, &w, shape, no_inputs)?;
        let parts =
            packed.tensors.iter().filter(|(name, _)| !name.ends_with("shape") && !name.ends_with("g_idx"));
        let bytes = parts.map(|(_, tensor)| tensor.data.len()).sum();
        println!(
            "   {label:20} {bytes:6} bytes, {:5.2} bits a weight, error {:.4}",
            bits(bytes),
            packed.error
        );
    }
    Ok(())
}
