//! Tensors as they lie on disk or in memory: a dtype, a shape, and a view of bytes.
//!
//! A [`HostTensor`] never owns a copy of what it shows. Its [`Bytes`] are a range of a memory-mapped shard, of the
//! binary itself (the demo checkpoint) or of a vector, and cloning it clones a pointer.
//! The bytes may start at any address: safetensors does not align them, so every reader goes by bytes.

#[cfg(unix)]
use memmap2::UncheckedAdvice;
use memmap2::{Mmap, MmapMut};
use std::{fmt, ops::Range, sync::Arc};

pub use crate::dtype::DType;

/// Whatever keeps bytes alive: a memory map, a vector, the binary's own data.
pub type Owner = Arc<dyn Keep>;

/// Keeps bytes alive.
pub trait Keep: AsRef<[u8]> + Send + Sync {
    /// A range will not be read soon: its memory may be given back, if it can be read again from a file.
    fn release(&self, _range: Range<usize>) {}
}

impl Keep for Vec<u8> {}
impl Keep for &'static [u8] {}
impl Keep for MmapMut {}
impl Keep for Mmap {
    #[cfg(unix)]
    fn release(&self, range: Range<usize>) {
        // SAFETY: the map is of a file, shared and read-only: pages that are given back are read again when they are touched.
        let _ = unsafe { self.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
    }
}

/// A range of bytes together with what keeps them alive. Cloning is cheap.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

impl Bytes {
    /// The bytes `range` of `owner`.
    ///
    /// # Panics
    /// If the range is not inside the owner's bytes.
    pub fn new(owner: Owner, range: Range<usize>) -> Bytes {
        assert!(
            range.start <= range.end && range.end <= (*owner).as_ref().len(),
            "bytes {range:?} of an owner that is shorter"
        );
        Bytes { owner, range }
    }

    /// They will not be read soon.
    pub fn release(&self) {
        self.owner.release(self.range.clone());
    }

    /// A range of these bytes.
    ///
    /// # Panics
    /// If it is not inside them.
    pub fn part(&self, range: Range<usize>) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.len(), "bytes {range:?} of {}", self.len());
        let start = self.range.start;
        Bytes { owner: self.owner.clone(), range: start + range.start..start + range.end }
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

/// A dense row-major tensor in host memory: little-endian elements, last dimension fastest.
#[derive(Clone)]
pub struct HostTensor {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements, [`DType::bytes_of`] their number.
    pub data: Bytes,
}

impl HostTensor {
    /// A tensor of f32 values that owns them.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> HostTensor {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "shape {shape:?}");
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        HostTensor::from_bytes(DType::F32, shape, bytes)
    }

    /// A tensor over bytes that it takes.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: Vec<u8>) -> HostTensor {
        assert_eq!(dtype.bytes_of(shape.iter().product()), Some(bytes.len()), "{dtype} {shape:?}");
        let range = 0..bytes.len();
        HostTensor { dtype, shape: shape.to_vec(), data: Bytes::new(Arc::new(bytes), range) }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Extents as a matrix: a vector `[n]` is [n, 1].
    ///
    /// # Panics
    /// If there are more than two dimensions.
    pub fn matrix_shape(&self) -> (usize, usize) {
        match self.shape[..] {
            [n] => (n, 1),
            [rows, cols] => (rows, cols),
            _ => panic!("{:?} is no matrix", self.shape),
        }
    }

    /// All elements as f32, for a weight dtype.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        convert_to_f32(self.dtype, &self.data, &mut out);
        out
    }
}

impl PartialEq for HostTensor {
    fn eq(&self, other: &HostTensor) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && *self.data == *other.data
    }
}

impl fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.dtype, self.shape)
    }
}

/// Elements of a weight dtype to f32; exact, since f32 holds every bf16 and f16.
///
/// # Panics
/// If `dtype` is no weight dtype or the lengths don't match.
#[inline(always)]
pub fn convert_to_f32(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * dtype.bytes(), "{dtype}");
    match dtype {
        DType::F32 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *o = f32::from_le_bytes(*b);
            }
        }
        // ANCHOR: bf16
        DType::BF16 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *o = f32::from_bits((u16::from_le_bytes(*b) as u32) << 16);
            }
        }
        // ANCHOR_END: bf16
        DType::F16 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *o = f16_to_f32(u16::from_le_bytes(*b));
            }
        }
        other => panic!("{other} is no weight dtype"),
    }
}

/// IEEE half to f32 without a branch, so that a loop of it becomes SIMD on any machine.
/// The exponent is moved into place and corrected by one multiplication, which also makes subnormals right.
#[inline(always)]
pub(crate) fn f16_to_f32(h: u16) -> f32 {
    let magnitude = ((h & 0x7fff) as u32) << 13;
    let value = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23); // · 2^112
    let infinite = if h & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(value.to_bits() | infinite | ((h & 0x8000) as u32) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_and_bf16_converts_as_the_half_crate_says() {
        for bits in 0..=u16::MAX {
            let mut got = [0.0f32; 2];
            convert_to_f32(DType::F16, &bits.to_le_bytes(), &mut got[..1]);
            convert_to_f32(DType::BF16, &bits.to_le_bytes(), &mut got[1..]);
            let want = [half::f16::from_bits(bits).to_f32(), half::bf16::from_bits(bits).to_f32()];
            for (g, w) in got.iter().zip(want) {
                assert!(g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan(), "{bits:#06x}: {g} for {w}");
            }
        }
    }

    #[test]
    fn a_view_may_start_at_an_odd_address() {
        let mut bytes = vec![0u8];
        bytes.extend([1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()));
        let tensor =
            HostTensor { dtype: DType::F32, shape: vec![2], data: Bytes::new(Arc::new(bytes), 1..9) };
        assert_eq!(tensor.to_f32(), [1.5, -2.0]);
    }
}
