//! Work for a kernel of a given shape, to profile it: arguments of the right sizes, filled with ones.

use super::{
    AttentionVersion, PagedPlaces, PagedShape, PagedWork,
    device::{Address, Arg, Device, Grid},
    profile::Profile,
    simulated::Simulated,
};
use crate::{
    error::{Error, Result},
    tensor::DType,
};
use std::collections::BTreeMap;

/// What the numbers of a shape are called, and what they are if nobody says.
type Defaults = &'static [(&'static str, usize)];

const ROWS: Defaults = &[("rows", 8), ("width", 1024)];
const LINEAR: Defaults = &[("rows", 1), ("inputs", 256), ("outputs", 256)];
const ATTENTION: Defaults =
    &[("sequences", 2), ("tokens", 256), ("heads", 8), ("kv_heads", 2), ("head_dim", 64), ("block_size", 16)];

/// Kernels that can be profiled, with the numbers of their shapes.
pub const PROFILED: &[(&str, Defaults)] = &[
    ("add", ROWS),
    ("add_rms_norm", ROWS),
    ("matmul_v0_bf16", LINEAR),
    ("matmul_v0_f16", LINEAR),
    ("matmul_v0_f32", LINEAR),
    ("paged_attention_v0_bf16", ATTENTION),
    ("paged_attention_v0_f16", ATTENTION),
    ("paged_attention_v0_f32", ATTENTION),
    ("paged_attention_v1_bf16", ATTENTION),
    ("paged_attention_v1_f16", ATTENTION),
    ("paged_attention_v1_f32", ATTENTION),
    ("paged_attention_v2_bf16", ATTENTION),
    ("paged_attention_v2_f16", ATTENTION),
    ("paged_attention_v2_f32", ATTENTION),
    ("paged_attention_v3_bf16", ATTENTION),
    ("paged_attention_v3_f16", ATTENTION),
    ("paged_attention_v3_f32", ATTENTION),
    ("paged_attention_v4_bf16", ATTENTION),
    ("paged_attention_v4_f16", ATTENTION),
    ("paged_attention_v4_f32", ATTENTION),
    ("rms_norm_v0", ROWS),
    ("rms_norm_v1", ROWS),
    ("rms_norm_v2", ROWS),
    ("silu_mul", ROWS),
];

/// A kernel's full name: bf16 where the name leaves the dtype out.
fn full_name(kernel: &str) -> Option<&'static (&'static str, Defaults)> {
    let known = |name: &str| PROFILED.iter().find(|(known, _)| *known == name);
    known(kernel).or_else(|| known(&format!("{kernel}_bf16")))
}

/// The numbers of a kernel's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelShape(BTreeMap<&'static str, usize>);

impl KernelShape {
    /// A kernel's default shape with some numbers replaced: `rows=4,width=128`.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown kernel, an unknown name, or what is no number above 0.
    pub fn parse(kernel: &str, text: &str) -> Result<KernelShape> {
        let names = || PROFILED.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let unknown =
            || Error::Usage(format!("there is no kernel '{kernel}' to profile; there are {}", names()));
        let (_, defaults) = full_name(kernel).ok_or_else(unknown)?;
        let mut shape: BTreeMap<&'static str, usize> = defaults.iter().copied().collect();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let bad = || {
                let known: Vec<String> = defaults.iter().map(|(name, n)| format!("{name}={n}")).collect();
                Error::Usage(format!(
                    "--shape: '{part}' is no number of {kernel}'s shape; write {}",
                    known.join(",")
                ))
            };
            let (name, value) = part.split_once('=').ok_or_else(bad)?;
            let value = value.trim().parse().ok().filter(|n| (1..=1 << 24).contains(n)).ok_or_else(bad)?;
            let (name, _) = defaults.iter().find(|(known, _)| *known == name.trim()).ok_or_else(bad)?;
            shape.insert(name, value);
        }
        Ok(KernelShape(shape))
    }

    fn get(&self, name: &str) -> usize {
        self.0.get(name).copied().unwrap_or(1)
    }
}

impl std::fmt::Display for KernelShape {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(name, n)| format!("{name}={n}")).collect();
        f.write_str(&parts.join(","))
    }
}

/// Runs a kernel on work of a shape, and counts what it reads and writes.
///
/// # Errors
/// For a shape that the kernel does not take.
pub fn profile_kernel(kernel: &str, shape: &KernelShape) -> Result<Profile> {
    let device = Simulated::default();
    let kernel = full_name(kernel).map_or(kernel, |(name, _)| name);
    let n = |name: &str| shape.get(name);
    // Bytes of a number that the kernel's suffix names: weights, or K and V.
    let stored = if kernel.ends_with("f16") { 2 } else { 4 };
    let floats = |count: usize| device.filled(&[0, 0, 0x80, 0x3f], count);
    let narrow = |count: usize| match (stored, kernel.ends_with("_bf16")) {
        (4, _) => floats(count),
        (_, true) => device.filled(&[0x80, 0x3f], count),
        (_, false) => device.filled(&[0, 0x3c], count),
    };
    let number = |name: &str| Arg::U32(n(name) as u32);
    let (rows, width) = (n("rows"), n("width"));
    match kernel {
        "add" | "silu_mul" => {
            let size = rows * width;
            let arguments = [Arg::At(floats(size)?), Arg::At(floats(size)?), Arg::Size(size as u64)];
            device.profile(kernel, Grid::numbers(size), &arguments)
        }
        "rms_norm_v2" if width % 4 != 0 || width > 4096 => {
            let message = format!(
                "--shape: {kernel} takes a width that is a multiple of 4, up to 4096; {width} is not"
            );
            Err(Error::Usage(message))
        }
        "rms_norm_v0" | "rms_norm_v1" | "rms_norm_v2" | "add_rms_norm" => {
            let [y, x, weight] = [floats(rows * width)?, floats(rows * width)?, floats(width)?].map(Arg::At);
            let added = if kernel == "add_rms_norm" { vec![Arg::At(floats(rows * width)?)] } else { vec![] };
            let arguments = [&[y, x], &added[..], &[weight, number("width"), Arg::F32(1e-6)]].concat();
            device.profile(kernel, Grid::rows(rows, 128), &arguments)
        }
        _ if kernel.starts_with("matmul") => {
            let (inputs, outputs) = (n("inputs"), n("outputs"));
            let [y, x] = [floats(rows * outputs)?, floats(rows * inputs)?].map(Arg::At);
            let w = Arg::At(narrow(outputs * inputs)?);
            let (input, output) = (number("inputs"), number("outputs"));
            let arguments = [y, x, w, input, output, Arg::U32(0), output, Arg::U32(0)];
            let grid = Grid {
                blocks: [outputs.div_ceil(128) as u32, rows as u32, 1],
                threads: 128,
                shared_bytes: 0,
            };
            device.profile(kernel, grid, &arguments)
        }
        _ => {
            let (sequences, tokens, block_size) = (n("sequences"), n("tokens"), n("block_size"));
            let (heads, kv_heads, head_dim) = (n("heads"), n("kv_heads"), n("head_dim"));
            if heads % kv_heads != 0 {
                let message = format!("--shape: heads={heads} is no multiple of kv_heads={kv_heads}");
                return Err(Error::Usage(message));
            }
            let per_sequence = tokens.div_ceil(block_size);
            let cache = sequences * per_sequence * block_size * kv_heads * head_dim;
            let [out, q] = [floats(sequences * heads * head_dim)?, floats(sequences * heads * head_dim)?];
            let [k, v] = [narrow(cache)?, narrow(cache)?];
            let tables: Vec<u32> = (0..(sequences * per_sequence) as u32).rev().collect();
            let starts: Vec<u32> = (0..sequences).map(|s| (s * per_sequence) as u32).collect();
            let positions = vec![tokens as u32 - 1; sequences];
            let [tables, starts, positions] = [&tables, &starts, &positions].map(|ids| device.ids(ids));
            let [tables, starts, positions] = [tables?, starts?, positions?];
            let places = PagedPlaces { k, v, tables, table_starts: starts, positions };
            let dtype = match kernel {
                _ if kernel.ends_with("_bf16") => DType::BF16,
                _ if kernel.ends_with("_f16") => DType::F16,
                _ => DType::F32,
            };
            let shape = PagedShape { heads, kv_heads, head_dim, block_size, dtype };
            let version =
                AttentionVersion::ALL.into_iter().find(|version| kernel.starts_with(version.kernel()));
            let version = version.expect("a version of the list");
            if !version.fits(&shape) {
                let message =
                    format!("--shape: {kernel} takes a head_dim that is a multiple of 8, up to 256");
                return Err(Error::Usage(message));
            }
            let parts = version.parts(tokens);
            let partial = floats(sequences * heads * parts * (head_dim + 2))?;
            let work = PagedWork { shape, places, rows: sequences, window: None, scale: 0.125, parts };
            let (kernel, grid, arguments) = version.launch(&work, out, q, partial);
            device.profile(&kernel, grid, &arguments)
        }
    }
}

impl Simulated {
    /// Memory with a number of these bytes, over and over.
    fn filled(&self, number: &[u8], count: usize) -> Result<Address> {
        let address = self.allocate(number.len() * count)?;
        self.upload(address, &number.repeat(count))?;
        Ok(address)
    }

    fn ids(&self, values: &[u32]) -> Result<Address> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let address = self.allocate(bytes.len())?;
        self.upload(address, &bytes)?;
        Ok(address)
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.allocations().into_iter().for_each(|(address, _)| self.free(address));
    }
}
