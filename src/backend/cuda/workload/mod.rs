//! Work for a kernel of a given shape, to count or to time it: memory of the right sizes, filled with ones, and the launches.

mod attention;
mod linear;
#[cfg(feature = "step6")]
mod prompts;
#[cfg(feature = "quantized")]
mod quant;
mod rows;

use super::device::{Address, Arg, Device, Grid, Launch};
use super::{profile::Profile, simulated::Simulated};
use crate::error::{Error, Result};
use std::{cell::RefCell, collections::BTreeMap, iter::repeat};

/// Kernels that take the same shapes.
struct Family {
    /// Names without the dtype, and the dtypes that they come in: the first one is meant where a name leaves it out. No dtypes: f32 only.
    kernels: &'static [(&'static [&'static str], &'static [&'static str])],
    /// The numbers of the shape: `rows=8,width=1024`.
    defaults: &'static str,
    launches: fn(&Memory, &Kernel, &KernelShape) -> Result<Vec<Launch>>,
}

const FAMILIES: &[Family] = &[
    rows::ELEMENTWISE,
    rows::NORMS,
    linear::PRODUCTS,
    attention::VERSIONS,
    attention::WRITES,
    attention::ROTATION,
    #[cfg(feature = "step6")]
    prompts::VERSIONS,
    #[cfg(feature = "quantized")]
    quant::PLAIN,
    #[cfg(feature = "quantized")]
    quant::WORDS,
    #[cfg(feature = "quantized")]
    quant::BLOCKS,
    #[cfg(feature = "quantized")]
    quant::ROWS,
];

/// A kernel's name in its two parts.
struct Kernel {
    base: &'static str,
    dtype: &'static str,
}

impl Kernel {
    fn name(&self) -> String {
        if self.dtype.is_empty() { self.base.into() } else { format!("{}_{}", self.base, self.dtype) }
    }

    fn launch(&self, grid: Grid, pointers: &[Address], values: &[Arg]) -> Result<Vec<Launch>> {
        Ok(vec![Launch::new(self.name(), grid, pointers, values)])
    }
}

/// A kernel by its name, whose dtype may be left out.
fn find(name: &str) -> Option<(&'static Family, Kernel)> {
    let of_base = |base: &'static str, dtypes: &'static [&'static str]| {
        let dtype = match name.strip_prefix(base)? {
            "" => dtypes.first().unwrap_or(&""),
            rest => dtypes.iter().find(|dtype| rest.strip_prefix('_') == Some(dtype))?,
        };
        Some(Kernel { base, dtype })
    };
    FAMILIES.iter().find_map(|family| {
        let mut kernels = family.kernels.iter().flat_map(|(bases, dtypes)| bases.iter().zip(repeat(dtypes)));
        Some((family, kernels.find_map(|(base, dtypes)| of_base(base, dtypes))?))
    })
}

/// The kernels that can be profiled, without the dtypes that they come in.
pub fn profiled() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().flat_map(|family| family.kernels).flat_map(|(bases, _)| bases.iter().copied())
}

/// The numbers of a kernel's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelShape(BTreeMap<&'static str, usize>);

impl KernelShape {
    /// A kernel's default shape with some numbers replaced: `rows=4,width=128`.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown kernel, [`Error::Parameter`] for an unknown name, or what is no number above 0.
    pub fn parse(kernel: &str, text: &str) -> Result<KernelShape> {
        let unknown = || {
            let names = profiled().collect::<Vec<_>>().join(", ");
            Error::Usage(format!(
                "there is no kernel '{kernel}' to profile; there are {names}; most with a dtype behind: _bf16"
            ))
        };
        let (Family { defaults: known, .. }, _) = find(kernel).ok_or_else(unknown)?;
        let defaults = known.split(',').filter_map(|number| number.split_once('='));
        let mut shape: BTreeMap<&'static str, usize> =
            defaults.map(|(name, n)| (name, n.parse().expect("a number"))).collect();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let bad = || {
                let why = format!("'{part}' is no number of {kernel}'s shape; write {known}");
                Error::parameter("shape", why)
            };
            let (name, value) = part.split_once('=').ok_or_else(bad)?;
            let (_, number) = shape.iter_mut().find(|(known, _)| **known == name.trim()).ok_or_else(bad)?;
            let least = usize::min(*number, 1);
            *number = value.trim().parse().ok().filter(|n| (least..=1 << 24).contains(n)).ok_or_else(bad)?;
        }
        Ok(KernelShape(shape))
    }

    /// Numbers by their names.
    fn get<const N: usize>(&self, names: [&str; N]) -> [usize; N] {
        names.map(|name| self.0[name])
    }
}

impl std::fmt::Display for KernelShape {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(|(name, n)| format!("{name}={n}")).collect();
        f.write_str(&numbers.join(","))
    }
}

/// Memory of a device that is given back in the end.
struct Memory<'a> {
    device: &'a dyn Device,
    held: RefCell<Vec<Address>>,
}

impl Memory<'_> {
    /// So many bytes, for kernels that write them first.
    fn room(&self, bytes: usize) -> Result<Address> {
        let address = self.device.allocate(bytes)?;
        self.held.borrow_mut().push(address);
        Ok(address)
    }

    /// These bytes.
    fn of(&self, bytes: &[u8]) -> Result<Address> {
        let address = self.room(bytes.len())?;
        self.device.upload(address, bytes)?;
        Ok(address)
    }

    /// Ones of a dtype. In fp8 as a cache has them: scales among them are 1.0 too, near enough.
    fn ones(&self, dtype: &str, count: usize) -> Result<Address> {
        let one: &[u8] = match dtype {
            "bf16" => &[0x80, 0x3f],
            "f16" => &[0, 0x3c],
            "fp8" => &[0x38],
            _ => &[0, 0, 0x80, 0x3f],
        };
        self.of(&one.repeat(count))
    }

    /// Ones in f32, for each of these counts.
    fn floats<const N: usize>(&self, counts: [usize; N]) -> Result<[Address; N]> {
        let mut addresses = [Address(0); N];
        for (address, count) in addresses.iter_mut().zip(counts) {
            *address = self.ones("f32", count)?;
        }
        Ok(addresses)
    }

    fn ids(&self, values: impl IntoIterator<Item = usize>) -> Result<Address> {
        let ids: Vec<u32> = values.into_iter().map(|value| value as u32).collect();
        self.of(bytemuck::cast_slice(&ids))
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        self.held.take().into_iter().for_each(|address| self.device.free(address));
    }
}

/// Makes work for a kernel, and hands the launches to `f`. The memory lives until that returns.
///
/// # Errors
/// For a shape that the kernel does not take; those of the device and of `f`.
pub fn with_workload<T>(
    device: &dyn Device,
    kernel: &str,
    shape: &KernelShape,
    f: impl FnOnce(&[Launch]) -> Result<T>,
) -> Result<T> {
    let (family, kernel) = find(kernel).expect("the shape was parsed for this kernel");
    let memory = Memory { device, held: RefCell::default() };
    let launches = (family.launches)(&memory, &kernel, shape)?;
    f(&launches)
}

/// Runs a kernel on work of a shape, and counts what it reads and writes.
///
/// # Errors
/// For a shape that the kernel does not take.
pub fn profile_kernel(kernel: &str, shape: &KernelShape) -> Result<Profile> {
    let device = Simulated::default();
    with_workload(&device, kernel, shape, |launches| device.profile_all(launches))
}
