//! Packed matrices of random codes, and what their products must be, in f64.
#![allow(dead_code)] // each test file uses a part of it

use crate::device::device_in;
use crate::random::{Random, rounded};
use half::{bf16, f16};
use stairwell::{
    backend::{
        Backend, PartShape, Slice,
        cuda::{Address, Arg, Cuda, CudaOptions, Grid, Schedule},
    },
    error::Result,
    packed::{Matrix, Packed},
    quant::{CodeWords, DeviceCodes, Format, Fp8Blocks, Numbers, PackedRows},
    tensor::{DType, HostTensor},
};
use std::{ops::Range, sync::Arc};

/// A matrix, whose numbers are worked out from these fields by [`Case::number`] alone.
#[derive(Clone, Debug)]
pub struct Case {
    pub numbers: Numbers,
    pub outputs: usize,
    pub inputs: usize,
    /// [outputs, inputs]
    pub codes: Vec<u8>,
    /// The group of each input.
    pub group_of: Vec<usize>,
    pub groups: usize,
    /// [groups, outputs]
    pub scales: Vec<f32>,
    pub zeros: Vec<u8>,
    /// What a file's zero points lack.
    pub zero_offset: u8,
    /// [outputs, 16]
    pub tables: Vec<f32>,
    /// (output, input, number)
    pub sparse: Vec<(usize, usize, f32)>,
    pub block: Option<[usize; 2]>,
}

impl Case {
    /// Random codes, in groups that are runs of inputs.
    pub fn new(
        random: &mut Random,
        numbers: Numbers,
        outputs: usize,
        inputs: usize,
        group_size: usize,
    ) -> Case {
        let groups = inputs.div_ceil(group_size);
        let codes = match numbers {
            Numbers::Affine4 | Numbers::Table => 15,
            _ => 255,
        };
        // No code of fp8 is NaN, and scales are f16.
        let code = |random: &mut Random| match random.between(0, codes) as u8 {
            0x7f | 0xff if numbers == Numbers::Fp8 => 0x37,
            code => code,
        };
        let zeros = if numbers == Numbers::Affine8 { 255 } else { 15 };
        // Numbers of all kinds are of about the same size, so that one tolerance serves for all.
        let size = if matches!(numbers, Numbers::Affine4 | Numbers::Table) { 1.0 } else { 1.0 / 64.0 };
        let scale =
            |random: &mut Random| f16::from_f32(size * (0.002 + 0.05 * random.next() as f32)).to_f32();
        Case {
            numbers,
            outputs,
            inputs,
            codes: (0..outputs * inputs).map(|_| code(random)).collect(),
            group_of: (0..inputs).map(|k| k / group_size).collect(),
            groups,
            scales: (0..groups * outputs).map(|_| scale(random)).collect(),
            zeros: (0..groups * outputs).map(|_| random.between(0, zeros) as u8).collect(),
            zero_offset: random.between(0, 1) as u8,
            tables: random.numbers(16 * outputs),
            sparse: Vec::new(),
            block: None,
        }
    }

    /// e4m3 floats in blocks of 128 × 128.
    pub fn fp8_blocks(random: &mut Random, outputs: usize, inputs: usize) -> Case {
        let mut case = Case::new(random, Numbers::Fp8, outputs, inputs, 128);
        for (at, scale) in case.scales.clone().into_iter().enumerate() {
            let (group, output) = (at / outputs, at % outputs);
            case.scales[group * outputs + output] =
                if output % 128 == 0 { scale } else { case.scales[group * outputs + output / 128 * 128] };
        }
        case.block = Some([128, 128]);
        case
    }

    /// W[output, input], from the formula of its kind.
    pub fn number(&self, output: usize, input: usize) -> f64 {
        let at = self.group_of[input] * self.outputs + output;
        let (code, scale) = (self.codes[output * self.inputs + input], f64::from(self.scales[at]));
        let number = match self.numbers {
            Numbers::Affine4 | Numbers::Affine8 => (f64::from(code) - f64::from(self.zeros[at])) * scale,
            Numbers::Int8 => f64::from(code as i8) * scale,
            Numbers::Fp8 => f64::from(float8::F8E4M3::from_bits(code).to_f32()) * scale,
            Numbers::Table => f64::from(self.tables[16 * output + code as usize]) * scale,
        };
        let beside = self.sparse.iter().filter(|(o, i, _)| (*o, *i) == (output, input));
        number + beside.map(|(_, _, number)| f64::from(*number)).sum::<f64>()
    }

    /// x Wᵀ with x rounded to a dtype.
    pub fn product(&self, x: &[f32], dtype: DType) -> Vec<f64> {
        let w: Vec<f64> =
            (0..self.outputs).flat_map(|o| (0..self.inputs).map(move |k| self.number(o, k))).collect();
        let of_row = |x: &[f32]| {
            let x: Vec<f64> = x.iter().map(|x| f64::from(rounded(dtype, *x))).collect();
            let dot = |w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum();
            w.chunks(self.inputs).map(dot).collect::<Vec<f64>>()
        };
        x.chunks(self.inputs).flat_map(of_row).collect()
    }
}

impl Format for Case {
    fn shape(&self) -> [usize; 2] {
        [self.outputs, self.inputs]
    }
    fn label(&self) -> String {
        format!("{:?}", self.numbers)
    }
    fn tensors(&self) -> Vec<&HostTensor> {
        Vec::new()
    }
    fn numbers(&self) -> Numbers {
        self.numbers
    }
    fn codes(&self, outputs: Range<usize>, inputs: Range<usize>, codes: &mut [u8]) {
        let rows = outputs.map(|output| &self.codes[output * self.inputs..][inputs.clone()]);
        codes.copy_from_slice(&rows.collect::<Vec<_>>().concat());
    }
    fn groups(&self) -> usize {
        self.groups
    }
    fn group(&self, input: usize) -> usize {
        self.group_of[input]
    }
    fn scale(&self, output: usize, group: usize) -> f32 {
        self.scales[group * self.outputs + output]
    }
    fn zero(&self, output: usize, group: usize) -> Option<u8> {
        Some(self.zeros[group * self.outputs + output])
    }
    fn zero_offset(&self) -> u8 {
        self.zero_offset
    }
    fn table(&self, output: usize) -> [f32; 16] {
        self.tables[16 * output..][..16].try_into().unwrap()
    }
    fn sparse(&self, output: usize, add: &mut dyn FnMut(usize, f32)) {
        self.sparse
            .iter()
            .filter(|(o, _, _)| *o == output)
            .for_each(|(_, input, number)| add(*input, *number));
    }
    fn is_sparse(&self) -> bool {
        !self.sparse.is_empty()
    }
    fn block(&self) -> Option<[usize; 2]> {
        self.block
    }
}

/// A case as a device is given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    Words,
    Blocks,
    Rows,
}

/// What is done to codes before they are uploaded.
pub type Fault = fn(&mut DeviceCodes);

struct Held(Case, Given, Option<Fault>);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:?}", self.1)
    }
}

impl Packed for Held {
    fn shape(&self) -> [usize; 2] {
        Format::shape(&self.0)
    }
    fn label(&self) -> String {
        Format::label(&self.0)
    }
    fn tensors(&self) -> Vec<&HostTensor> {
        Vec::new()
    }
    fn row(&self, _: usize, _: Range<usize>, _: &mut [f32]) {
        panic!("a packed matrix was widened")
    }
    fn device_codes(&self, outputs: Range<usize>, inputs: Range<usize>) -> Result<Option<DeviceCodes>> {
        let mut codes = match self.1 {
            Given::Words => DeviceCodes::Words(CodeWords::new(&self.0, outputs, inputs).expect("words")),
            Given::Blocks => DeviceCodes::Fp8(Fp8Blocks::new(&self.0, outputs, inputs).expect("blocks")),
            Given::Rows => DeviceCodes::Rows(PackedRows::new(&self.0, outputs, inputs)?),
        };
        self.2.iter().for_each(|fault| fault(&mut codes));
        Ok(Some(codes))
    }
    fn in_place(&self) -> bool {
        false
    }
}

/// The product by the kernel that the backend chooses. The matrix is the second part of two, the first of which is dense.
pub fn by_the_backend(
    case: &Case,
    given: Given,
    fault: Option<Fault>,
    dtype: DType,
    x: &[f32],
    schedule: Schedule,
) -> Vec<f32> {
    let options = CudaOptions { dtype: Some(dtype), ..CudaOptions::default() };
    let cuda = Cuda::with_options(device_in(schedule), options);
    let (outputs, inputs, rows) = (case.outputs, case.inputs, x.len() / case.inputs);
    let mut weight = cuda.weight(&[PartShape { outputs: 3, inputs }, PartShape { outputs, inputs }]).unwrap();
    let whole = |tensor, rows| Slice { tensor, rows: 0..rows, cols: 0..inputs, transposed: false };
    let dense = HostTensor::from_f32(&[3, inputs], &vec![0.5; 3 * inputs]);
    cuda.load(&mut weight, 0, &whole(dense.into(), 3)).unwrap();
    let packed = Matrix::Packed(Arc::new(Held(case.clone(), given, fault)));
    cuda.load(&mut weight, 1, &whole(packed, outputs)).unwrap();
    let y = cuda.matmul(&cuda.upload(x, rows, inputs).unwrap(), &weight).unwrap();
    let y = cuda.download(&y).unwrap();
    y.chunks(3 + outputs).flat_map(|row| row[3..].to_vec()).collect()
}

/// A version of the ladder that reads words, launched as it is, with each input's group for v0.
pub fn by_version(
    version: &str,
    words: &CodeWords,
    g_idx: Option<&[u32]>,
    dtype: DType,
    x: &[f32],
    schedule: Schedule,
) -> Vec<f32> {
    let device = device_in(schedule);
    let (outputs, inputs, rows) = (words.outputs, words.inputs, x.len() / words.inputs);
    let numbers = x.iter().flat_map(|x| match dtype {
        DType::BF16 => bf16::from_f32(*x).to_le_bytes().to_vec(),
        DType::F16 => f16::from_f32(*x).to_le_bytes().to_vec(),
        _ => x.to_le_bytes().to_vec(),
    });
    let put = |bytes: &[u8]| {
        let address = device.allocate(bytes.len()).unwrap();
        device.upload(address, bytes).unwrap();
        address
    };
    let bytes_of = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let scales: Vec<u8> = words.scales.iter().flat_map(|s| s.to_le_bytes()).collect();
    let (y, x) = (device.allocate(4 * rows * outputs).unwrap(), put(&numbers.collect::<Vec<u8>>()));
    let mut arguments = vec![y, x];
    let g_idx = g_idx.map_or(Address(0), |g_idx| put(&bytes_of(g_idx)));
    arguments.extend((version == "v0").then_some(g_idx));
    arguments.extend([put(&bytes_of(&words.codes)), put(&bytes_of(&words.zeros)), put(&scales)]);
    let mut arguments: Vec<Arg> = arguments.into_iter().map(Arg::At).collect();
    let is_bf16 = usize::from(words.scales_dtype == DType::BF16);
    let sizes = [inputs, outputs, words.group_size, words.zero_offset.into(), is_bf16, outputs, 0, rows];
    let taken = if version == "v2" { 8 } else { 7 };
    arguments.extend(sizes[..taken].iter().map(|size| Arg::U32(*size as u32)));
    let (of_block, threads) = match version {
        "v0" => ([128, 1], 128),
        "v1" => ([256, 1], 64),
        _ => ([128, 4], 256),
    };
    let blocks = [outputs.div_ceil(of_block[0]) as u32, rows.div_ceil(of_block[1]) as u32, 1];
    let suffix = match dtype {
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        _ => "f32",
    };
    let kernel = format!("quant_matmul_{version}_{suffix}");
    device.launch(&kernel, Grid { blocks, threads, shared_bytes: 0 }, &arguments).unwrap();
    let mut bytes = vec![0; 4 * rows * outputs];
    device.download(y, &mut bytes).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}
