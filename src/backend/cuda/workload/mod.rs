//! Work for a kernel of a given shape, to count or to time it: memory of the right sizes, filled with ones, and the launches.

mod attention;
mod linear;
#[cfg(feature = "step6")]
mod prompts;
mod rows;

use super::{
    device::{Address, Device, Launch},
    profile::Profile,
    simulated::Simulated,
};
use crate::error::{Error, Result};
use std::{cell::RefCell, collections::BTreeMap};

/// What the numbers of a shape are called, and what they are if nobody says.
type Defaults = &'static [(&'static str, usize)];

/// Kernels that take the same shapes.
struct Family {
    /// What the kernels have before the dtype.
    kernels: &'static [&'static str],
    /// What follows, the first where a name leaves it out; nothing for kernels in f32 only.
    dtypes: &'static [&'static str],
    defaults: Defaults,
    launches: fn(&Memory, &Kernel, &KernelShape) -> Result<Vec<Launch>>,
}

const FAMILIES: &[Family] = &[
    rows::ELEMENTWISE,
    rows::NORMS,
    linear::PLAIN,
    linear::SIXTEEN_BITS,
    linear::UNSWIZZLED,
    attention::VERSIONS,
    attention::WRITES,
    attention::ROTATION,
    #[cfg(feature = "step6")]
    prompts::PLAIN,
    #[cfg(feature = "step6")]
    prompts::SIXTEEN_BITS,
    #[cfg(feature = "step6")]
    prompts::HOPPER,
    #[cfg(feature = "step6")]
    prompts::UNSWIZZLED,
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
}

/// A kernel by its name, whose dtype may be left out.
fn find(name: &str) -> Option<(&'static Family, Kernel)> {
    let kernels = |family: &'static Family| {
        let dtypes = if family.dtypes.is_empty() { &[""][..] } else { family.dtypes };
        let each = move |base: &'static &'static str| dtypes.iter().map(move |dtype| Kernel { base, dtype });
        family.kernels.iter().flat_map(each).map(move |kernel| (family, kernel))
    };
    let all = || FAMILIES.iter().flat_map(kernels);
    all().find(|(_, kernel)| kernel.name() == name).or_else(|| all().find(|(_, kernel)| kernel.base == name))
}

/// The kernels that can be profiled, without the dtypes that they come in.
pub fn profiled() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().flat_map(|family| family.kernels.iter().copied())
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
        let (Family { defaults, .. }, _) = find(kernel).ok_or_else(unknown)?;
        let mut shape: BTreeMap<&'static str, usize> = defaults.iter().copied().collect();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let bad = || {
                let known: Vec<String> = defaults.iter().map(|(name, n)| format!("{name}={n}")).collect();
                let known = known.join(",");
                let why = format!("'{part}' is no number of {kernel}'s shape; write {known}");
                Error::parameter("shape", why)
            };
            let (name, value) = part.split_once('=').ok_or_else(bad)?;
            let (name, default) = defaults.iter().find(|(known, _)| *known == name.trim()).ok_or_else(bad)?;
            let least = usize::min(*default, 1);
            let value =
                value.trim().parse().ok().filter(|n| (least..=1 << 24).contains(n)).ok_or_else(bad)?;
            shape.insert(name, value);
        }
        Ok(KernelShape(shape))
    }

    fn get(&self, name: &str) -> usize {
        self.0[name]
    }
}

impl std::fmt::Display for KernelShape {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(name, n)| format!("{name}={n}")).collect();
        f.write_str(&parts.join(","))
    }
}

/// Memory of a device that is given back in the end.
struct Memory<'a> {
    device: &'a dyn Device,
    held: RefCell<Vec<Address>>,
}

impl Memory<'_> {
    /// `count` numbers, all of them these bytes.
    fn filled(&self, number: &[u8], count: usize) -> Result<Address> {
        let address = self.device.allocate(number.len() * count)?;
        self.held.borrow_mut().push(address);
        self.device.upload(address, &number.repeat(count))?;
        Ok(address)
    }

    /// Room for so many floats, for kernels that write them first.
    #[cfg(feature = "step6")]
    fn room(&self, count: usize) -> Result<Address> {
        let address = self.device.allocate(4 * count)?;
        self.held.borrow_mut().push(address);
        Ok(address)
    }

    /// Ones of a dtype. In fp8 as a cache has them: scales among them are 1.0 too, near enough.
    fn ones(&self, dtype: &str, count: usize) -> Result<Address> {
        match dtype {
            "bf16" => self.filled(&[0x80, 0x3f], count),
            "f16" => self.filled(&[0, 0x3c], count),
            "fp8" => self.filled(&[0x38], count),
            _ => self.filled(&[0, 0, 0x80, 0x3f], count),
        }
    }

    fn floats(&self, count: usize) -> Result<Address> {
        self.ones("f32", count)
    }

    fn ids(&self, values: &[u32]) -> Result<Address> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.filled(&bytes, 1)
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
